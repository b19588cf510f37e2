"""Reads a CSV of published results into result rows. Every error message names the file, the line and the column.

The table has one row per result. Its columns are those of the result rows (docs/laws.md), or `top1_percent`,
`error_percent`, `pretrain_exaflops` in these units, or one column `top1_percent:TASK` (or another outcome) per task, or a
`loss`. Must not know of the store.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.results.import_columns import COUNTS, NUMBERS, OUTCOMES, ROUNDING, TEXTS, Mapped, Table, read_table
from vitmodel.config.base import UserError, suggest
from vitmodel.config.models import FAMILIES, ModelConfig, named_model
from vitmodel.flops.count import TRAIN_FACTOR, count_params, forward_flops

RESOLUTION, CLASSES = 224, 1000  # for the parameters and FLOPs of published models that the table does not give
IDENTITY = ("family", "variant", "dataset", "dataset_size", "epochs", "phase", "task", "finetune_epochs", "shots", "seed")
PHASES = ("pretrain", "finetune", "probe", "zero-shot")


def read_rows(
    path: Path,
    source: str,
    columns: Mapping[str, str],
    dtypes: Mapping[str, str],
    *,
    constants: Mapping[str, str | float] | None = None,
    times: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The table as rows with the columns and types of `dtypes`. Raises UserError with line and column.

    columns: our names to the table's; constants: values of all rows; times: factors to our units; all by our names.
    """
    table = read_table(path, Mapped(columns=columns, constants=constants or {}, times=times or {}))
    outcomes = _outcomes(table)
    rows, lines = [], dict[str, int]()
    for line, record in table.records:
        facts = _facts(table, line, record)
        for task, ours in outcomes:
            text = table.text(record, ours)
            if not text and len(outcomes) > 1:
                continue  # a table with a column per task may have empty cells
            row = _row(table, line, facts, task, (ours, text))
            if row["run_id"] in lines:
                message = f"the same run as in line {lines[row['run_id']]}"
                raise table.error(message, line, "variant", "one row for each run and task; a `seed` for repetitions")
            lines[row["run_id"]] = line
            rows.append({**{name: "" if kind == "str" else None for name, kind in dtypes.items()}, **row, "source": source})
    if not rows:
        raise UserError("the table has no results", file=str(path))
    return pd.DataFrame(rows, columns=list(dtypes)).astype(dict(dtypes))


def _outcomes(table: Table) -> list[tuple[str, str]]:
    """(task, our column) of each outcome in the table; the task is empty if the table has a column `task`."""
    outcomes = [(ours.partition(":")[2], ours) for ours in table.columns if ours.partition(":")[0] in OUTCOMES]
    if not outcomes and "loss" in table.columns:
        return [("", "loss")]
    if not outcomes:
        allowed = ", ".join((*OUTCOMES, "loss"))
        raise UserError("the table has no column with results", file=str(table.path), line=1, allowed=allowed)
    tasks = [task for task, _ in outcomes]
    if len(set(tasks)) != len(tasks) or ("" in tasks and len(tasks) > 1) or ("" not in tasks and table.has("task")):
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
    facts: dict[str, Any] = {name: table.text(record, name) for name in TEXTS}
    facts |= {name: table.number(line, name, table.text(record, name)) for name in NUMBERS}
    facts |= {name: table.whole(line, name, table.text(record, name)) for name in COUNTS}
    for name in ("family", *(["variant"] if table.has("variant") else [])):
        if not facts[name]:
            raise table.error("empty value", line, name, "a value in every row")
    if facts["family"] not in FAMILIES and (hint := suggest(facts["family"], list(FAMILIES))):
        raise table.error(
            f"unknown family {facts['family']!r}{hint}", line, "family", f"{', '.join(FAMILIES)}, or another name"
        )
    for name in ("params", "dataset_size", "examples_seen"):
        if facts[name] == 0:
            raise table.error("0 is not allowed", line, name, "1 or more, or empty")
    if facts["loss"] == 0:
        raise table.error("0 is not allowed", line, "loss", "a loss above 0, or empty")
    return {**facts, **_model(table, line, facts), **_length(table, line, facts)}


def _length(table: Table, line: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Unique examples, examples seen and epochs: two of them give the third. Examples seen alone are seen once each."""
    size, seen, epochs = facts["dataset_size"], facts["examples_seen"], facts["epochs"]
    if size is None and seen is None:
        name = "dataset_size" if table.has("dataset_size") else "examples_seen"
        raise table.error("empty value", line, name, "the number of pretraining images, or of examples seen")
    if size is None:
        size = seen if math.isnan(epochs) or epochs <= 1 else round(seen / epochs)
    if seen is None:
        seen = 0 if math.isnan(epochs) else round(epochs * size)
    return {"dataset_size": size, "examples_seen": seen, "epochs": seen / size if math.isnan(epochs) and seen else epochs}


def _model(table: Table, line: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Variant, parameters and forward FLOPs. The last two are computed for a published model if the table has none."""
    model = _published(facts["variant"])
    params = facts["params"]
    if params is None and model is None:
        what = f"{facts['variant']!r} is not a published model" if facts["variant"] else "the row names no model"
        raise table.error(f"{what}, so the table must give its number of parameters", line, "params")
    forward = facts["forward_flops"]
    if math.isnan(forward) and model is not None:
        forward = float(forward_flops(model, facts["resolution"] or RESOLUTION, CLASSES))
    return {
        "variant": facts["variant"] or f"{params / 1e6:.6g}M",
        "params": count_params(model, RESOLUTION, CLASSES) if params is None and model is not None else params,
        "forward_flops": forward,
    }


def _row(table: Table, line: int, facts: Mapping[str, Any], task: str, outcome: tuple[str, str]) -> dict[str, Any]:
    """One result row. Nothing was run here: steps, attempts and workers are 0."""
    task = task or facts["task"]
    phase, shots = _phase(table, line, facts, task)
    error = _error(table, line, *outcome)
    flops = 1e18 * facts["pretrain_exaflops"] if math.isnan(facts["pretrain_flops"]) else facts["pretrain_flops"]
    if math.isnan(flops) and facts["examples_seen"]:
        flops = TRAIN_FACTOR * facts["forward_flops"] * facts["examples_seen"]
    row = {**facts, "phase": phase, "task": task, "shots": shots, "error": error, "top1": 1 - error, "pretrain_flops": flops}
    row |= {"seed": facts["seed"] or 0, "resolution": facts["resolution"] or 0, "upstream_loss": facts["loss"]}
    row["length"] = facts["length"] or ("" if math.isnan(facts["epochs"]) else f"{facts['epochs']:.4g} epochs")
    row["upstream_top1"] = 1 - error if phase == "pretrain" else facts["upstream_top1"]
    return {
        **row,
        "run_id": f"imported-{_digest({name: row[name] for name in IDENTITY})}",
        "parent_id": "" if phase == "pretrain" else f"imported-{_digest({name: row[name] for name in IDENTITY[:5]})}",
        "status": "DONE",
        "reason": "",
        **dict.fromkeys(("steps", "workers", "zero_stage", "attempts"), 0),
    }


def _phase(table: Table, line: int, facts: Mapping[str, Any], task: str) -> tuple[str, int | None]:
    """Phase and shots. Zero-shot results are probes on 0 images, which `summary.shots_text` names."""
    shots = facts["shots"]
    phase = facts["phase"] or ("probe" if shots is not None else "finetune" if task else "pretrain")
    if phase not in PHASES:
        raise table.error(f"unknown phase {phase!r}{suggest(phase, list(PHASES))}", line, "phase", ", ".join(PHASES))
    if (phase == "pretrain") != (task == ""):
        raise table.error(f"phase {phase} {'must not have a task' if task else 'requires a task'}", line, "task")
    if phase == "zero-shot":
        if shots or not math.isnan(facts["finetune_epochs"]):
            raise table.error("a zero-shot result has neither shots nor fine-tune epochs", line, "phase", "probe, finetune")
        return "probe", 0
    return phase, shots


def _error(table: Table, line: int, ours: str, text: str) -> float:
    """The outcome as an error rate; nan for a loss, which is not a share."""
    kind = ours.partition(":")[0]
    if not text:
        raise table.error("empty value", line, ours, "a result in every row")
    if kind == "loss":
        return math.nan
    value, largest = table.number(line, ours, text), OUTCOMES[kind]
    if value > largest * (1 + ROUNDING):
        hint = f"; if the values are in percent, name the column {kind}_percent; if it is a loss, name it loss"
        raise table.error(f"{value:g} is above {largest:g}", line, ours, f"0 to {largest:g}{'' if largest == 100 else hint}")
    share = min(value / largest, 1.0)
    return share if kind.startswith("error") else round(1 - share, 12)


def _published(variant: str) -> ModelConfig | None:
    try:
        return named_model(variant)
    except UserError:
        return None


def _digest(key: Mapping[str, Any]) -> str:
    """A hash that is equal for equal runs, so that a run reported by two tables counts once."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]
