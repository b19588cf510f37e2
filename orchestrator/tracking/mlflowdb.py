"""MLflow's sqlite file: it appears whole or not at all.

MLflow makes its tables by some fifty migrations, seconds on a busy machine, and one that was interrupted is refused ever after.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

SQLITE = "sqlite:///"
FORGOTTEN_SECONDS = 3600.0  # half a database of this age has nobody who works on it


def make_database(uri: str) -> None:
    """Make the tables of a sqlite file that is not there yet, beside its place; does nothing for any other address."""
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or path.exists():
        return
    from mlflow import MlflowClient

    for old in path.parent.glob(f".{path.name}-*"):
        if time.time() - old.stat().st_mtime > FORGOTTEN_SECONDS:
            old.unlink(missing_ok=True)
    half = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        MlflowClient(tracking_uri=f"{SQLITE}{half}").search_experiments(max_results=1)
        _move_once(half, path)
    finally:
        half.unlink(missing_ok=True)


def _move_once(half: Path, path: Path) -> None:
    """Give a file its name, unless another driver's was first."""
    try:
        os.link(half, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        half.rename(path)
