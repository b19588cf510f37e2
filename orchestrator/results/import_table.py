"""A CSV of somebody's results to rows of the store's format, strictly: every mistake has its file, line and column.

A table has a row a result. Its columns are those of the results row (docs/laws.md), or `top1_percent`, `error_percent`,
`pretrain_exaflops` in those units, or one `top1_percent:TASK` (or another outcome) a task. Knows nothing of the store.
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

from orchestrator.spec.claims import as_count
from vitmodel.config.base import UserError, suggest
from vitmodel.config.models import FAMILIES, ModelConfig
from vitmodel.config.variants import named_model
from vitmodel.flops.count import TRAIN_FACTOR, count_params, forward_flops

TEXTS = ("family", "variant", "dataset", "task", "phase", "length", "objective")
NUMBERS = ("epochs", "pretrain_flops", "pretrain_exaflops", "finetune_epochs", "upstream_top1", "gpu_hours")
COUNTS = ("params", "dataset_size", "resolution", "shots", "seed", "test_images")
OUTCOMES = {"top1": 1.0, "top1_percent": 100.0, "error": 1.0, "error_percent": 100.0}  # and what they are a share of
NEEDED = ("family", "variant", "dataset_size")
LARGEST_BYTES = 64 * 2**20
RESOLUTION, CLASSES = 224, 1000  # at which parameters and FLOPs of a published model are counted where the table has none
SAME = ("family", "variant", "dataset", "dataset_size", "epochs", "phase", "task", "finetune_epochs", "shots", "seed")


@dataclass(frozen=True, kw_only=True)
class Table:
    """An opened CSV: its records with the line of each, and which column of it holds which of ours."""

    path: Path
    records: tuple[tuple[int, dict[str, str]], ...]
    columns: Mapping[str, str]

    def error(self, message: str, line: int, ours: str, allowed: str = "") -> UserError:
        return UserError(message, file=str(self.path), line=line, field=self.columns.get(ours, ours), allowed=allowed)


def rows(path: Path, source: str, columns: Mapping[str, str], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """The table as rows with the columns and types of `dtypes`. Raises UserError with line and column."""
    table = read_table(path, columns)
    outcomes = _outcomes(table)
    found, seen = [], dict[str, int]()
    for line, record in table.records:
        facts = _facts(table, line, record)
        for task, ours in outcomes:
            text = record[table.columns[ours]].strip()
            if not text and len(outcomes) > 1:
                continue  # a wide table may have gaps
            row = _row(table, line, facts, task, (ours, text))
            if row["run_id"] in seen:
                raise table.error(f"the same run as in line {seen[row['run_id']]}", line, "variant", "one row a run and task")
            seen[row["run_id"]] = line
            found.append({**{name: "" if kind == "str" else None for name, kind in dtypes.items()}, **row, "source": source})
    if not found:
        raise UserError("no result in it", file=str(path))
    return pd.DataFrame(found, columns=list(dtypes)).astype(dict(dtypes))


def read_table(path: Path, columns: Mapping[str, str]) -> Table:
    """Open a CSV and find our columns in it. Raises UserError for columns that are missing, unknown or named twice."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise UserError(f"larger than {LARGEST_BYTES >> 20} MiB", file=str(path))
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            records = tuple((reader.line_num, record) for record in reader)
            names = [name.strip() for name in reader.fieldnames or ()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read as CSV: {error}", file=str(path)) from None
    for line, record in records:
        if record.get(""):
            raise UserError(f"more than {len(names)} values", file=str(path), line=line)
    return Table(path=path, records=records, columns=_columns(path, names, columns))


def _columns(path: Path, names: list[str], asked: Mapping[str, str]) -> dict[str, str]:
    """Our name of each column to theirs."""
    known = [*TEXTS, *NUMBERS, *COUNTS, *OUTCOMES]

    def refuse(message: str, field: str, allowed: str) -> UserError:
        return UserError(message, file=str(path), line=1, field=field, allowed=allowed)

    if len(set(names)) != len(names):
        raise refuse("a column that stands there twice", next(n for n in names if names.count(n) > 1), "each name once")
    for ours, theirs in asked.items():
        if ours.partition(":")[0] not in known:
            raise refuse(f"unknown column{suggest(ours, known)}", ours, ", ".join(known))
        if theirs not in names:
            raise refuse(f"not in the table{suggest(theirs, names)}", theirs, ", ".join(names))
    taken = set(asked.values())
    found = dict(asked) | {name: name for name in names if name not in taken and name.partition(":")[0] in known}
    if missing := [name for name in NEEDED if name not in found]:
        raise refuse("a column is missing", missing[0], f"{', '.join(NEEDED)}; name yours with `columns`")
    return found


def _outcomes(table: Table) -> list[tuple[str, str]]:
    """(task, our column) of every outcome the table has: ("", "top1") where rows name their task themselves."""
    found = [(ours.partition(":")[2], ours) for ours in table.columns if ours.partition(":")[0] in OUTCOMES]
    if not found:
        raise UserError("no column with results", file=str(table.path), line=1, allowed=", ".join(OUTCOMES))
    tasks = [task for task, _ in found]
    if len(set(tasks)) != len(tasks) or ("" in tasks and len(tasks) > 1) or ("" not in tasks and "task" in table.columns):
        raise UserError(
            "results are in one column, or in one for each task",
            file=str(table.path),
            line=1,
            field=", ".join(ours for _, ours in found),
            allowed="`top1_percent` beside `task`, or `top1_percent:cifar10`, `top1_percent:pets`, ...",
        )
    return found


def _facts(table: Table, line: int, record: dict[str, str]) -> dict[str, Any]:
    """All but the outcome of one line, checked."""

    def number(ours: str) -> float:
        text = record[table.columns[ours]].strip() if ours in table.columns else ""
        return math.nan if not text else _number(table, line, ours, text)

    facts: dict[str, Any] = {name: record[table.columns[name]].strip() if name in table.columns else "" for name in TEXTS}
    for name in ("family", "variant"):
        if not facts[name]:
            raise table.error("empty", line, name)
    if facts["family"] not in FAMILIES:
        raise table.error(
            f"unknown family {facts['family']!r}{suggest(facts['family'], list(FAMILIES))}", line, "family", ", ".join(FAMILIES)
        )
    facts |= {name: number(name) for name in NUMBERS}
    facts |= {name: _whole(table, line, name, number(name)) for name in COUNTS}
    if facts["dataset_size"] is None:
        raise table.error("empty", line, "dataset_size", "the number of pretraining images")
    if math.isnan(facts["pretrain_flops"]):
        facts["pretrain_flops"] = 1e18 * facts["pretrain_exaflops"]
    return facts


def _number(table: Table, line: int, ours: str, text: str) -> float:
    """A number that is not negative; counts may be written 16k, 30M."""
    try:
        value = float(as_count(text))
    except ValueError:
        raise table.error(f"{text!r} is no number", line, ours) from None
    if not (math.isfinite(value) and value >= 0):
        raise table.error(f"{text} is not a number from 0", line, ours)
    return value


def _whole(table: Table, line: int, ours: str, value: float) -> int | None:
    if math.isnan(value):
        return None
    if not value.is_integer():
        raise table.error(f"{value:g} is no whole number", line, ours)
    return int(value)


def _row(table: Table, line: int, facts: Mapping[str, Any], task: str, outcome: tuple[str, str]) -> dict[str, Any]:
    """One row of the store's format. Counts of what was done here (steps, attempts, workers) are 0."""
    task = task or facts["task"]
    phase = facts["phase"] or ("probe" if facts["shots"] is not None else "finetune" if task else "pretrain")
    if phase not in ("pretrain", "finetune", "probe"):
        raise table.error(f"unknown phase {phase!r}", line, "phase", "pretrain, finetune, probe")
    if (phase == "pretrain") != (task == ""):
        raise table.error(f"a {phase} {'has no task' if task else 'needs a task'}", line, "task")
    error = _error(table, line, *outcome)
    model = {**_model_facts(table, line, facts), "seed": facts["seed"] or 0, "resolution": facts["resolution"] or 0}
    row = {**facts, **model, "phase": phase, "task": task, "error": error, "top1": 1 - error}
    row["length"] = facts["length"] or ("" if math.isnan(facts["epochs"]) else f"{facts['epochs']:g} epochs")
    row["upstream_top1"] = 1 - error if phase == "pretrain" else facts["upstream_top1"]
    examples = facts["epochs"] * facts["dataset_size"]
    return {
        **row,
        "run_id": f"imported-{_digest({name: row[name] for name in SAME})}",
        "parent_id": "" if phase == "pretrain" else f"imported-{_digest({name: row[name] for name in SAME[:5]})}",
        "examples_seen": 0 if math.isnan(examples) else round(examples),
        "status": "DONE",
        "reason": "",
        **dict.fromkeys(("steps", "workers", "zero_stage", "attempts"), 0),
    }


def _error(table: Table, line: int, ours: str, text: str) -> float:
    """The outcome as an error rate."""
    kind = ours.partition(":")[0]
    if not text:
        raise table.error("empty", line, ours, "a result in every row")
    value, whole = _number(table, line, ours, text), OUTCOMES[kind]
    if value > whole:
        hint = "" if whole == 100 else f"; name the column {kind}_percent"
        raise table.error(f"{value:g} is above {whole:g}", line, ours, f"0 to {whole:g}{hint}")
    return value / whole if kind.startswith("error") else round(1 - value / whole, 12)


def _model_facts(table: Table, line: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and FLOPs, counted by us where the table does not say them and the model is a published one."""
    model = _published(facts["variant"])
    if facts["params"] is None and model is None:
        raise table.error(f"{facts['variant']} is no published model", line, "params", "a column with its parameters")
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
    """Equal for equal runs, whatever table they stand in: a run that two tables report is one run."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]
