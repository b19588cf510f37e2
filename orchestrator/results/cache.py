"""A cache of what came of a study's runs, so that collecting again reads only the files that changed.

studies/<name>/rows.parquet holds for each run its signature (inode, time and size of the files that decide its row, and the
planned facts that enter it) and the outcome. A run whose signature differs is read again; a cache that cannot be read or
written is done without, because everything in it stands in the runs' folders.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.results import outcomes
from orchestrator.store.layout import Store
from orchestrator.store.watch import signature
from vitmodel.files import atomic_path

Facts = dict[str, Any]

FILE = "rows.parquet"
MAY_LACK = ("test_images", "micro_batch")  # whole numbers that a row may be without
FORMAT = 2  # raise it when `outcomes` computes something else from the same files


def found(store: Store, study: str, runs: list[Facts]) -> dict[str, Facts]:
    """What came of each run, by run_id; `runs` are their planned facts. Raises UserError for a damaged file of a run."""
    path = store.study(study) / FILE
    known = _read(path)
    rows: dict[str, Facts] = {}
    signatures: dict[str, str] = {}
    for run in runs:
        run_id, folder = run["run_id"], store.run(run["run_id"])
        signatures[run_id] = sign = _signature(signature(folder), run)
        before = known.get(run_id)
        rows[run_id] = before[1] if before and before[0] == sign else outcomes.of_folder(folder, run)
    if signatures != {run_id: sign for run_id, (sign, _) in known.items()}:
        _write(path, rows, signatures)
    return rows


def _signature(files: tuple[Any, ...], run: Facts) -> str:
    return json.dumps([FORMAT, files, run["forward_flops"], run["placement"]["group"]], sort_keys=True)


def _read(path: Path) -> dict[str, tuple[str, Facts]]:
    try:
        table = pq.read_table(path).to_pydict()
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        return {row.pop("run_id"): (row.pop("signature"), _restored(row)) for row in rows}
    except (OSError, pa.ArrowInvalid, KeyError):  # none yet, or not ours
        return {}


def _restored(row: Facts) -> Facts:
    return {**row, **{name: pd.NA for name in MAY_LACK if row[name] is None}}


def _write(path: Path, rows: dict[str, Facts], signatures: dict[str, str]) -> None:
    lines = [
        {
            "run_id": run_id,
            "signature": signatures[run_id],
            **row,
            **{name: None for name in MAY_LACK if pd.isna(row[name])},
        }
        for run_id, row in rows.items()
    ]
    with suppress(OSError), atomic_path(path) as partial:  # a storage folder may be read-only
        pq.write_table(pa.Table.from_pylist(lines), partial)
