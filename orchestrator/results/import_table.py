"""Reads a CSV of published results into result rows. Every error message names the file, the line and the column.

The table has one row per result. Its columns are those of the result rows (docs/laws.md), or `top1_percent`,
`error_percent`, `pretrain_exaflops` in these units, or one column `top1_percent:TASK` (or another outcome) per task. Must
not know of the store.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.spec.values import as_count
from vitmodel.config.base import UserError, suggest
from vitmodel.config.models import FAMILIES, ModelConfig, named_model
from vitmodel.flops.count import TRAIN_FACTOR, count_params, forward_flops

TEXTS = ("family", "variant", "dataset", "task", "phase", "length", "objective")
NUMBERS = ("epochs", "pretrain_flops", "pretrain_exaflops", "finetune_epochs", "upstream_top1", "gpu_hours")
COUNTS = ("params", "dataset_size", "resolution", "shots", "seed", "test_images")
OUTCOMES = {"top1": 1.0, "top1_percent": 100.0, "error": 1.0, "error_percent": 100.0}  # the largest value of each
REQUIRED = ("family", "variant", "dataset_size")
ROUNDING = 1e-9  # results above their largest value, below 0 or next to a whole number by this much are rounding errors
LARGEST_BYTES = 64 * 2**20
RESOLUTION, CLASSES = 224, 1000  # for the parameters and FLOPs of published models that the table does not give
IDENTITY = ("family", "variant", "dataset", "dataset_size", "epochs", "phase", "task", "finetune_epochs", "shots", "seed")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A CSV that was read: its records with their line numbers, and our name of each column to the table's name."""

    path: Path
    records: tuple[tuple[int, dict[str, str]], ...]
    columns: Mapping[str, str]

    def error(self, message: str, line: int, ours: str, allowed: str = "") -> UserError:
        return UserError(message, file=str(self.path), line=line, field=self.columns.get(ours, ours), allowed=allowed)


def read_rows(path: Path, source: str, columns: Mapping[str, str], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """The table as rows with the columns and types of `dtypes`. Raises UserError with line and column."""
    table = read_table(path, columns)
    outcomes = _outcomes(table)
    rows, lines = [], dict[str, int]()
    for line, record in table.records:
        facts = _facts(table, line, record)
        for task, ours in outcomes:
            text = record[table.columns[ours]].strip()
            if not text and len(outcomes) > 1:
                continue  # a table with a column per task may have empty cells
            row = _row(table, line, facts, task, (ours, text))
            if row["run_id"] in lines:
                message = f"the same run as in line {lines[row['run_id']]}"
                raise table.error(message, line, "variant", "one row for each run and task")
            lines[row["run_id"]] = line
            rows.append({**{name: "" if kind == "str" else None for name, kind in dtypes.items()}, **row, "source": source})
    if not rows:
        raise UserError("the table has no results", file=str(path))
    return pd.DataFrame(rows, columns=list(dtypes)).astype(dict(dtypes))


def read_table(path: Path, columns: Mapping[str, str]) -> Table:
    """Read a CSV and match its columns with ours. Raises UserError for missing, unknown and duplicate columns."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"the file is larger than {LARGEST_BYTES >> 20} MiB", file=str(path))
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            records = tuple((reader.line_num, record) for record in reader)
            names = [name.strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read as CSV: {error}", file=str(path)) from None
    for line, record in records:
        if record.get(""):
            raise UserError(f"the line has more than {len(names)} values", file=str(path), line=line)
    return Table(path=path, records=records, columns=_columns(path, names, columns))


def _columns(path: Path, names: list[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Our name of each column to the table's name. `mapping` is what the user gave."""
    known = [*TEXTS, *NUMBERS, *COUNTS, *OUTCOMES]

    def error(message: str, field: str, allowed: str) -> UserError:
        return UserError(message, file=str(path), line=1, field=field, allowed=allowed)

    if len(set(names)) != len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise error("the table has two columns with this name", duplicate, "each name once")
    for ours, theirs in mapping.items():
        if ours.partition(":")[0] not in known:
            raise error(f"unknown column{suggest(ours, known)}", ours, ", ".join(known))
        if theirs not in names:
            raise error(f"the table has no such column{suggest(theirs, names)}", theirs, ", ".join(names))
    mapped = set(mapping.values())
    columns = dict(mapping) | {name: name for name in names if name not in mapped and name.partition(":")[0] in known}
    if missing := [name for name in REQUIRED if name not in columns]:
        hint = "if the table names a column differently, map it with `columns` (in a study) or --column"
        raise error(f"required column is missing; {hint}", missing[0], ", ".join(REQUIRED))
    return columns


def _outcomes(table: Table) -> list[tuple[str, str]]:
    """(task, our column) of each outcome in the table; the task is empty if the table has a column `task`."""
    outcomes = [(ours.partition(":")[2], ours) for ours in table.columns if ours.partition(":")[0] in OUTCOMES]
    if not outcomes:
        raise UserError("the table has no column with results", file=str(table.path), line=1, allowed=", ".join(OUTCOMES))
    tasks = [task for task, _ in outcomes]
    if len(set(tasks)) != len(tasks) or ("" in tasks and len(tasks) > 1) or ("" not in tasks and "task" in table.columns):
        raise UserError(
            "results must be in a single column, or in one column for each task",
            file=str(table.path),
            line=1,
            field=", ".join(ours for _, ours in outcomes),
            allowed="`top1_percent` together with `task`, or `top1_percent:cifar10`, `top1_percent:pets`, ...",
        )
    return outcomes


def _facts(table: Table, line: int, record: dict[str, str]) -> dict[str, Any]:
    """The checked values of one line, without the outcome."""

    def number(ours: str) -> float:
        text = record[table.columns[ours]].strip() if ours in table.columns else ""
        return math.nan if not text else _number(table, line, ours, text)

    facts: dict[str, Any] = {name: record[table.columns[name]].strip() if name in table.columns else "" for name in TEXTS}
    for name in ("family", "variant"):
        if not facts[name]:
            raise table.error("empty value", line, name, "a value in every row")
    if facts["family"] not in FAMILIES:
        raise table.error(
            f"unknown family {facts['family']!r}{suggest(facts['family'], list(FAMILIES))}", line, "family", ", ".join(FAMILIES)
        )
    facts |= {name: number(name) for name in NUMBERS}
    facts |= {name: _whole(table, line, name, number(name)) for name in COUNTS}
    if facts["dataset_size"] is None:
        raise table.error("empty value", line, "dataset_size", "the number of pretraining images")
    if math.isnan(facts["pretrain_flops"]):
        facts["pretrain_flops"] = 1e18 * facts["pretrain_exaflops"]
    return facts


def _number(table: Table, line: int, ours: str, text: str) -> float:
    """A finite, non-negative number; counts may be written as 16k or 30M."""
    try:
        value = float(as_count(text))
    except ValueError:
        raise table.error(f"{text!r} is not a number", line, ours) from None
    if not (math.isfinite(value) and value >= -ROUNDING):
        raise table.error(f"{text} is not allowed", line, ours, "a finite number, 0 or larger")
    return max(0.0, value)


def _whole(table: Table, line: int, ours: str, value: float) -> int | None:
    if math.isnan(value):
        return None
    if not math.isclose(value, round(value), rel_tol=1e-12, abs_tol=ROUNDING):
        raise table.error(f"{value:g} is not a whole number", line, ours)
    return round(value)


def _row(table: Table, line: int, facts: Mapping[str, Any], task: str, outcome: tuple[str, str]) -> dict[str, Any]:
    """One result row. Nothing was run here: steps, attempts and workers are 0."""
    task = task or facts["task"]
    phase = facts["phase"] or ("probe" if facts["shots"] is not None else "finetune" if task else "pretrain")
    if phase not in ("pretrain", "finetune", "probe"):
        raise table.error(f"unknown phase {phase!r}", line, "phase", "pretrain, finetune, probe")
    if (phase == "pretrain") != (task == ""):
        raise table.error(f"phase {phase} {'must not have a task' if task else 'requires a task'}", line, "task")
    error = _error(table, line, *outcome)
    model = {**_model_facts(table, line, facts), "seed": facts["seed"] or 0, "resolution": facts["resolution"] or 0}
    row = {**facts, **model, "phase": phase, "task": task, "error": error, "top1": 1 - error}
    row["length"] = facts["length"] or ("" if math.isnan(facts["epochs"]) else f"{facts['epochs']:g} epochs")
    row["upstream_top1"] = 1 - error if phase == "pretrain" else facts["upstream_top1"]
    examples = facts["epochs"] * facts["dataset_size"]
    return {
        **row,
        "run_id": f"imported-{_digest({name: row[name] for name in IDENTITY})}",
        "parent_id": "" if phase == "pretrain" else f"imported-{_digest({name: row[name] for name in IDENTITY[:5]})}",
        "examples_seen": 0 if math.isnan(examples) else round(examples),
        "status": "DONE",
        "reason": "",
        **dict.fromkeys(("steps", "workers", "zero_stage", "attempts"), 0),
    }


def _error(table: Table, line: int, ours: str, text: str) -> float:
    """The outcome as an error rate."""
    kind = ours.partition(":")[0]
    if not text:
        raise table.error("empty value", line, ours, "a result in every row")
    value, largest = _number(table, line, ours, text), OUTCOMES[kind]
    if value > largest * (1 + ROUNDING):
        hint = "" if largest == 100 else f"; if the values are in percent, name the column {kind}_percent"
        raise table.error(f"{value:g} is above {largest:g}", line, ours, f"0 to {largest:g}{hint}")
    share = min(value / largest, 1.0)
    return share if kind.startswith("error") else round(1 - share, 12)


def _model_facts(table: Table, line: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and FLOPs. They are computed for a published model if the table does not give them."""
    model = _published(facts["variant"])
    if facts["params"] is None and model is None:
        raise table.error(
            f"{facts['variant']!r} is not a published model, so the table must give its number of parameters", line, "params"
        )
    forward = float(forward_flops(model, facts["resolution"] or RESOLUTION, CLASSES)) if model else math.nan
    flops = facts["pretrain_flops"]
    return {
        "params": facts["params"] or count_params(model, RESOLUTION, CLASSES) if model else facts["params"],
        "forward_flops": forward,
        "pretrain_flops": TRAIN_FACTOR * forward * facts["epochs"] * facts["dataset_size"] if math.isnan(flops) else flops,
    }


def _published(variant: str) -> ModelConfig | None:
    try:
        return named_model(variant)
    except UserError:
        return None


def _digest(key: Mapping[str, Any]) -> str:
    """A hash that is equal for equal runs, so that a run reported by two tables counts once."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]
