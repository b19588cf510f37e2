"""Imported tables in the storage folder: results that somebody else measured, kept apart from runs.

imports/<name>/rows.csv      columns as in results.COLUMNS, status DONE, `source` where they come from
imports/<name>/meta.json     source, the table's name and SHA-256, which of our columns came from which of theirs
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.results.import_table import rows
from vitmodel.config.base import UserError
from vitmodel.files import read_json, write_json


def folder(storage: Path, name: str) -> Path:
    """Where an imported table lives."""
    return storage / "imports" / name


def bring_in(
    storage: Path, table: Path, *, name: str, source: str, columns: Mapping[str, str], dtypes: Mapping[str, str]
) -> int:
    """Read a table and keep its rows under `name`, in place of what had that name; returns how many rows. Raises UserError."""
    found = rows(table, source or table.name, columns, dtypes)
    place = folder(storage, name)
    place.mkdir(parents=True, exist_ok=True)
    partial = place / f".rows.csv.{uuid.uuid4().hex[:8]}"
    found.to_csv(partial, index=False)
    partial.replace(place / "rows.csv")
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    write_json(place / "meta.json", {"source": source, "table": table.name, "sha256": digest, "columns": dict(columns)})
    return len(found)


def load(storage: Path, name: str, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """The rows kept under `name`. Raises UserError where nothing was imported under it."""
    path = folder(storage, name) / "rows.csv"
    if not path.is_file():
        known = sorted(found.parent.name for found in storage.glob("imports/*/rows.csv"))
        raise UserError("no such imported table", file=str(path), field="imports", allowed=", ".join(known))
    texts = {column: "str" for column, kind in dtypes.items() if kind == "str"}
    frame = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={c: [""] for c in dtypes if c not in texts})
    if missing := set(dtypes) - set(frame.columns):
        names = ", ".join(sorted(missing))
        raise UserError(f"made by an older version (no {names}): import the table again", file=str(path), field="imports")
    return frame[list(dtypes)].astype(dict(dtypes))


def meta(storage: Path, name: str) -> dict[str, Any]:
    """What is known of an imported table: source, table, sha256, columns."""
    found: dict[str, Any] | None = read_json(folder(storage, name) / "meta.json")
    return found or {}


def together(frames: Iterator[pd.DataFrame]) -> pd.DataFrame:
    """Rows of several tables; of a run that more than one reports, the first table's row."""
    return pd.concat(list(frames), ignore_index=True).drop_duplicates("run_id", keep="first", ignore_index=True)
