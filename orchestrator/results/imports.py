"""Imported tables in the storage folder: published results that no run of this store produced. They are not runs.

imports/<name>/rows.csv      columns as in results.COLUMNS, status DONE, `source` names the origin of the rows
imports/<name>/meta.json     source, name and SHA-256 of the table, our name of each column to the table's name, constants and
                             factors
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.results.import_table import read_rows
from vitmodel.config.base import UserError
from vitmodel.files import atomic_path, read_json, write_json


def folder(storage: Path, name: str) -> Path:
    """The folder of an imported table."""
    return storage / "imports" / name


def import_csv(
    storage: Path,
    table: Path,
    *,
    name: str,
    source: str,
    columns: Mapping[str, str],
    dtypes: Mapping[str, str],
    constants: Mapping[str, str | float] | None = None,
    times: Mapping[str, float] | None = None,
) -> int:
    """Read a CSV and store its rows under `name`, replacing an earlier import; returns the number of rows. Raises UserError."""
    rows = read_rows(table, source or table.name, columns, dtypes, constants=constants, times=times)
    target = folder(storage, name)
    with atomic_path(target / "rows.csv") as partial:
        rows.to_csv(partial, index=False)
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    mapped = {"columns": dict(columns), "constants": dict(constants or {}), "times": dict(times or {})}
    write_json(target / "meta.json", {"source": source, "table": table.name, "sha256": digest, **mapped})
    return len(rows)


def load(storage: Path, name: str, dtypes: Mapping[str, str]) -> pd.DataFrame:
    """The rows of an imported table. Raises UserError if there is no such import."""
    path = folder(storage, name) / "rows.csv"
    if not path.is_file():
        known = sorted(rows.parent.name for rows in storage.glob("imports/*/rows.csv"))
        raise UserError(
            f"no imported table {name!r} in this storage folder; import it with `vitscale import-results`",
            file=str(path),
            field="imports",
            allowed=", ".join(known),
        )
    texts = {column: "str" for column, kind in dtypes.items() if kind == "str"}
    frame = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values={c: [""] for c in dtypes if c not in texts})
    if missing := set(dtypes) - set(frame.columns):
        names = ", ".join(sorted(missing))
        raise UserError(
            f"imported by an older version of vitscale, columns missing: {names}; import the table again",
            file=str(path),
            field="imports",
        )
    return frame[list(dtypes)].astype(dict(dtypes))


def meta(storage: Path, name: str) -> dict[str, Any]:
    """The content of an imported table's meta.json: source, table, sha256, columns. Empty if the file does not exist."""
    content: dict[str, Any] | None = read_json(folder(storage, name) / "meta.json")
    return content or {}


def merge(frames: Iterator[pd.DataFrame]) -> pd.DataFrame:
    """The rows of several tables. If several tables report the same run, the row of the first table is used."""
    return pd.concat(list(frames), ignore_index=True).drop_duplicates("run_id", keep="first", ignore_index=True)
