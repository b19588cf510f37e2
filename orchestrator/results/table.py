"""The rows of a study as one tidy DataFrame: a row for every run of its plan, done or not.

Reads plan.json (what was planned) and the runs' folders (their outcomes), or an MLflow server that followed them; writes
results.csv and results.parquet. Imports no torch, ray or mlflow: any laptop with access to the store can make the figures.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from orchestrator.plan.records import PlanFile, RunFacts
from orchestrator.results import cache, imports, mlflow_rows
from orchestrator.results.outcome import Row
from orchestrator.store.layout import RunFolder, Store
from vitmodel.config.base import UserError
from vitmodel.config.objectives import SUPERVISED
from vitmodel.files import atomic_path

# Text is never missing but empty; numbers that a run does not have are missing. FLOPs are floats: they outgrow 64 bits.
COLUMNS: dict[str, str] = {
    "study": "str",
    "run_id": "str",
    "parent_id": "str",
    "phase": "str",
    "family": "str",
    "variant": "str",
    "recipe": "str",
    "params": "int64",
    "forward_flops": "float64",
    "dataset": "str",
    "dataset_size": "Int64",
    "length": "str",
    "epochs": "float64",
    "steps": "int64",
    "examples_seen": "int64",
    "train_flops": "float64",
    "pretrain_flops": "float64",
    "task": "str",
    "finetune_epochs": "float64",
    "resolution": "int64",
    "shots": "Int64",
    "seed": "int64",
    "upstream_loss": "float64",
    "upstream_top1": "float64",
    "top1": "float64",
    "error": "float64",
    "real_top1": "float64",
    "workers": "int64",
    "zero_stage": "int64",
    "gpu_hours": "float64",
    "images_per_second": "float64",
    "mfu": "float64",
    "status": "str",
    "attempts": "int64",
    "core_hours": "float64",
    "seconds": "float64",
    "micro_batch": "Int64",
    "reason": "str",
    "test_images": "Int64",
    "skipped_images": "Int64",
    "source": "str",
    "objective": "str",
}

# What differs between two executions of the same runs, and the study's name: `outcomes` leaves these out.
_NOT_OUTCOMES = {
    "study",
    "workers",
    "zero_stage",
    "gpu_hours",
    "images_per_second",
    "mfu",
    "attempts",
    "core_hours",
    "seconds",
    "micro_batch",
    "reason",
}


def collect(source: Path | str, study: str) -> pd.DataFrame:
    """One row for every run of the study's last plan, in the plan's order, then the rows of the tables it imports; columns
    and types as in `COLUMNS`. `source` is the storage folder, or the address of an MLflow server or database (anything with
    `://`). MLflow has the runs that were started and sent to it, also of earlier versions of the study, and no tables.

    A fine-tune or probe repeats `dataset`, `dataset_size`, `length`, `epochs`, `pretrain_flops`, `objective` and `upstream_*`
    of the pretraining it started from, because these are the axes it is plotted against. Where the objective is not
    supervised, `variant` includes it, because a curve is of one model under one objective, and `upstream_top1` is missing.
    `task` is the dataset it was trained on, `finetune_epochs` (fine-tunes) or `shots` (probes) how much. Its `params`,
    `steps`, `examples_seen` and `train_flops` are its own. A pretraining has an empty `task` and `parent_id`, and its `top1`
    equals `upstream_top1`. `top1` and `error` = 1 - top1 are fractions, `upstream_loss` is in nats, `seconds` and hours
    count every attempt, `mfu` is the share of the workers' peak FLOP/s, `test_images` the number of images that the error
    was measured on, `source` the origin of an imported row (empty for runs of this store). Of a run without a result, the
    outcomes are missing, and `status` and `reason` say why.

    Raises UserError where the storage folder has no such study, or one of its files is damaged.
    """
    if "://" in str(source):
        return _frame(study, *mlflow_rows.read(str(source), study))
    storage = Path(source)
    store = Store(storage)
    plan = _plan(store, study)
    frame = _frame(study, plan.runs, cache.outcomes_of(store, study, plan.runs))
    if not plan.imports:
        return frame
    tables = imports.merge(imports.load(storage, name, COLUMNS) for name in plan.imports)
    tables["study"] = study
    return pd.concat([frame, tables], ignore_index=True) if len(frame) else tables


def _frame(study: str, runs: tuple[RunFacts, ...], outcomes: dict[str, Row]) -> pd.DataFrame:
    """The rows of runs, from their planned facts and their outcomes by run_id."""
    by_id, rows = {facts.run_id: facts for facts in runs}, []
    for facts in runs:
        origin = facts.parent_id or facts.run_id
        rows.append({"study": study, **_row(facts, outcomes[facts.run_id], by_id[origin], outcomes[origin])})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def write(frame: pd.DataFrame, folder: Path) -> Path:
    """Write results.csv and results.parquet, each atomically; returns the path of the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "results.parquet") as path:
        frame.to_parquet(path, index=False)
    with atomic_path(folder / "results.csv") as path:
        frame.to_csv(path, index=False)
    return folder / "results.csv"


def outcomes(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a second execution must repeat value by value, sorted by run_id: no timings, attempts or hours."""
    columns = frame[[name for name in frame.columns if name not in _NOT_OUTCOMES]]
    return columns.sort_values("run_id").reset_index(drop=True)


def provenance(storage: Path, study: str) -> dict[str, str]:
    """The provenance of a study's results: git, python, packages, hosts and data, each with all values that occur."""
    store = Store(storage)
    plan = _plan(store, study)
    folders = [store.run(facts.run_id) for facts in plan.runs]
    made = [result.provenance for folder in folders if (result := folder.result())]
    values = {key: sorted({getattr(facts, key) for facts in made} - {""}) for key in ("git", "python", "host")}
    values["imported"] = [imports.meta(storage, name).get("source") or name for name in plan.imports]
    values["packages"] = sorted({f"{name} {version}" for facts in made for name, version in facts.packages.items()})
    values["data"] = sorted({text for folder in folders if (text := _data_identity(folder))})
    return {key: ", ".join(items) for key, items in values.items() if items}


def _data_identity(folder: RunFolder) -> str:
    """Name and hash of the data of a run."""
    record = folder.record()
    return f"{record.config.data.name} {record.config.data.identity}" if record else ""


def _row(facts: RunFacts, outcome: Row, origin: RunFacts, upstream: Row) -> Row:
    """The row of a run. `origin` is the pretraining it started from, or itself, and `upstream` the outcome of that."""
    is_supervised = origin.objective in ("", SUPERVISED.kind)
    return {
        **facts.model_dump(exclude={"placement", "label"}),
        **outcome,
        **origin.model_dump(include={"dataset", "dataset_size", "length", "epochs", "pretrain_flops", "objective"}),
        "variant": facts.variant if is_supervised else f"{facts.variant} {origin.objective}",
        "parent_id": facts.parent_id or "",
        "recipe": origin.recipe,
        "task": f"{facts.dataset} {facts.recipe}".strip() if facts.parent_id else "",
        "finetune_epochs": facts.epochs if facts.phase == "finetune" else math.nan,
        "upstream_loss": upstream["loss"],
        "upstream_top1": upstream["top1"],
    }


def _plan(store: Store, study: str) -> PlanFile:
    """The last plan of a study. Raises UserError where there is none, or its file is damaged."""
    path = store.study(study) / "plan.json"
    plan = store.plan(study)
    if plan is None:
        names = sorted(folder.parent.name for folder in store.root.glob("studies/*/plan.json"))
        raise UserError(f"no study {study!r} was started in this storage folder", file=str(path), allowed=", ".join(names))
    known = {facts.run_id for facts in plan.runs}
    if orphans := [facts.run_id for facts in plan.runs if facts.parent_id not in known | {None}]:
        raise UserError(f"damaged file: the parent of {orphans[0]} is missing; plan the study again", file=str(path))
    return plan
