"""MLflow's sqlite file: it appears complete or not at all.

MLflow creates its tables by some fifty migrations, which takes seconds on a busy machine, and refuses a database whose
migration was interrupted.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from orchestrator.mlflow_client import mlflow_client

SQLITE = "sqlite:///"
ABANDONED_SECONDS = 3600.0  # no process is working on a partial database of this age


def is_there(uri: str) -> bool:
    """Whether the database exists. True for any address but a sqlite file."""
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()


def make_database(uri: str) -> None:
    """Create a sqlite database that does not exist yet, at a temporary path first. Does nothing for any other address."""
    path = Path(uri.removeprefix(SQLITE))
    if is_there(uri):
        return
    for old in path.parent.glob(f".{path.name}-*"):
        if time.time() - old.stat().st_mtime > ABANDONED_SECONDS:
            old.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        mlflow_client(f"{SQLITE}{partial}").search_experiments(max_results=1)
        _publish_once(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _publish_once(partial: Path, path: Path) -> None:
    """Give a file its final name, unless another driver's file has it already."""
    try:
        os.link(partial, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        partial.rename(path)
