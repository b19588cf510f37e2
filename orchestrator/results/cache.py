"""A cache of the outcomes of a study's runs, so that collecting again reads only the files that changed.

studies/<name>/rows.parquet has for each run its signature (inode, time and size of the files that decide its row, and the
planned facts that enter it) and its outcome. A run whose signature differs is read again. A cache that cannot be read or
written is skipped: everything in it is also in the runs' folders.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.plan.records import RunFacts
from orchestrator.results import outcome
from orchestrator.results.outcome import Row
from orchestrator.store.layout import Store
from orchestrator.store.watch import Signature, signature
from vitmodel.files import atomic_path

FILE = "rows.parquet"
NULLABLE = ("test_images", "skipped_images", "micro_batch")  # whole numbers that may be missing
FORMAT = 3  # raise it when `outcomes` computes something else from the same files


def outcomes_of(store: Store, study: str, runs: tuple[RunFacts, ...]) -> dict[str, Row]:
    """The outcome of each run, by run_id. Raises UserError for a damaged file of a run."""
    path = store.study(study) / FILE
    cached = _read(path)
    rows: dict[str, Row] = {}
    signatures: dict[str, str] = {}
    for facts in runs:
        folder = store.run(facts.run_id)
        signatures[facts.run_id] = current = _signature(signature(folder), facts)
        before = cached.get(facts.run_id)
        rows[facts.run_id] = before[1] if before and before[0] == current else outcome.of_folder(folder, facts)
    if signatures != {run_id: cached_signature for run_id, (cached_signature, _) in cached.items()}:
        _write(path, rows, signatures)
    return rows


def _signature(files: Signature, facts: RunFacts) -> str:
    return json.dumps([FORMAT, files, facts.forward_flops, facts.placement.group.model_dump()], sort_keys=True)


def _read(path: Path) -> dict[str, tuple[str, Row]]:
    try:
        table = pq.read_table(path).to_pydict()
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
        return {row.pop("run_id"): (row.pop("signature"), _restored(row)) for row in rows}
    except (OSError, pa.ArrowInvalid, KeyError):  # none yet, or another format
        return {}


def _restored(row: Row) -> Row:
    return {**row, **{name: pd.NA for name in NULLABLE if row[name] is None}}


def _write(path: Path, rows: dict[str, Row], signatures: dict[str, str]) -> None:
    lines = [
        {
            "run_id": run_id,
            "signature": signatures[run_id],
            **row,
            **{name: None for name in NULLABLE if pd.isna(row[name])},
        }
        for run_id, row in rows.items()
    ]
    with suppress(OSError), atomic_path(path) as partial:  # a storage folder may be read-only
        pq.write_table(pa.Table.from_pylist(lines), partial)
