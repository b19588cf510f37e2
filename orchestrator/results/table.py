"""The store of a study to one tidy DataFrame: a row for every run of its plan, done or not.

Reads plan.json (what was planned) and the runs' folders (what came of it), or an MLflow server that followed them; writes
results.csv and results.parquet.
Must not know of torch, ray or mlflow: any laptop that sees the storage folder can make the figures.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.results import cache, imports, mlflow_rows
from orchestrator.store.layout import RunFolder, Store
from vitmodel.config.base import UserError
from vitmodel.config.objectives import SUPERVISED
from vitmodel.files import atomic_path, read_json

Facts = dict[str, Any]

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
    `://`), which knows the runs that were begun and sent to it, of earlier versions of the study, too, and no tables.

    A fine-tune or probe carries `dataset`, `dataset_size`, `length`, `epochs`, `pretrain_flops` and `upstream_*` of the
    pretraining it started from, because these are the axes it is plotted against, and its `objective`; where that is not
    supervised, `variant` names it, too, for a curve is of one model under one objective, and `upstream_top1` is missing: what
    has no labels has a loss and no error. `task` is what it was trained on,
    `finetune_epochs` (fine-tunes) or `shots` (probes) how much. Its `params`, `steps`, `examples_seen` and `train_flops`
    are its own. A pretraining has an empty `task` and `parent_id`, and its `top1` equals `upstream_top1`. `top1` and
    `error` = 1 - top1 are fractions, `upstream_loss` is in nats, `seconds` and hours count every attempt, and `mfu` is
    the share of the workers' peak FLOP/s; `test_images` is how many images an error was measured on, `source` where an
    imported row comes from (empty for what was trained here). Without a result, all
    of these outcomes are missing and `status` and `reason` say why. Raises UserError where the storage folder has no such
    study, or one of its files is damaged.
    """
    if "://" in str(source):
        return _frame(study, *mlflow_rows.read(str(source), study))
    storage = Path(source)
    store = Store(storage)
    facts = _planned(store, study)
    own = _frame(study, facts, cache.found(store, study, facts))
    names = store.plan(study).get("imports", [])  # type: ignore[union-attr]  # _planned has refused a missing plan
    if not names:
        return own
    tables = imports.merge(imports.load(storage, name, COLUMNS) for name in names)
    tables["study"] = study
    return pd.concat([own, tables], ignore_index=True) if len(own) else tables


def _frame(study: str, facts: list[Facts], found: dict[str, Facts]) -> pd.DataFrame:
    """The rows of runs, from their planned facts and what came of each."""
    by_id, rows = {run["run_id"]: run for run in facts}, []
    for run in facts:
        origin = run["parent_id"] or run["run_id"]
        rows.append({"study": study, **_row(run, found[run["run_id"]], by_id[origin], found[origin])})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def write(frame: pd.DataFrame, folder: Path) -> Path:
    """Write results.csv and results.parquet, each replaced in one step; returns the path of the CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "results.parquet") as path:
        frame.to_parquet(path, index=False)
    with atomic_path(folder / "results.csv") as path:
        frame.to_csv(path, index=False)
    return folder / "results.csv"


def outcomes(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that a second execution must repeat value by value, sorted by run_id: no timings, attempts or hours."""
    kept = frame[[name for name in frame.columns if name not in _NOT_OUTCOMES]]
    return kept.sort_values("run_id").reset_index(drop=True)


def provenance(storage: Path, study: str) -> Facts:
    """What the study's results were made with: git, python, packages, hosts and data, each with all values that occur."""
    store = Store(storage)
    folders = [store.run(run["run_id"]) for run in _planned(store, study)]
    made: list[Facts] = [result.get("provenance", {}) for folder in folders if (result := folder.result())]
    packages = sorted({f"{name} {version}" for facts in made for name, version in facts.get("packages", {}).items()})
    values = {key: sorted({str(facts[key]) for facts in made if facts.get(key)}) for key in ("git", "python", "host")}
    names = (store.plan(study) or {}).get("imports", [])
    values["imported"] = [imports.meta(storage, name).get("source") or name for name in names]
    data = sorted({text for folder in folders if (text := _data_identity(folder))})
    return {key: ", ".join(items) for key, items in {**values, "packages": packages, "data": data}.items() if items}


def _data_identity(folder: RunFolder) -> str:
    """Name and hash of what a run was trained on."""
    data = ((read_json(folder.path / "config.json") or {}).get("config") or {}).get("data", {})
    return f"{data['name']} {data['identity']}" if data else ""


def _row(run: Facts, found: Facts, origin: Facts, upstream: Facts) -> Facts:
    """The row of a run; `origin` is the pretraining it started from, or itself, and `upstream` what came of that."""
    return {
        **run,
        **found,
        **{key: origin[key] for key in ("dataset", "dataset_size", "length", "epochs", "pretrain_flops", "objective")},
        "variant": run["variant"]
        if origin["objective"] in ("", SUPERVISED.kind)
        else f"{run['variant']} {origin['objective']}",
        "parent_id": run["parent_id"] or "",
        "recipe": origin["recipe"],
        "task": f"{run['dataset']} {run['recipe']}".strip() if run["parent_id"] else "",
        "finetune_epochs": run["epochs"] if run["phase"] == "finetune" else math.nan,
        "upstream_loss": upstream["loss"],
        "upstream_top1": upstream["top1"],
    }


def _planned(store: Store, study: str) -> list[Facts]:
    """The facts of every planned run. Raises UserError where there are none to read."""
    path = store.study(study) / "plan.json"
    try:
        plan = store.plan(study)
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", file=str(path)) from None
    if plan is None:
        names = sorted(folder.parent.name for folder in store.root.glob("studies/*/plan.json"))
        raise UserError(f"no study {study!r} was started in this storage folder", file=str(path), allowed=", ".join(names))
    runs: list[Facts] | None = plan.get("runs") if isinstance(plan, dict) else None
    if not isinstance(runs, list) or not all(isinstance(run, dict) and "run_id" in run for run in runs):
        raise UserError("not a plan: it lists no runs; plan the study again", file=str(path))
    known = {run["run_id"] for run in runs}
    if orphans := [run["run_id"] for run in runs if run["parent_id"] not in known | {None}]:
        raise UserError(f"not a plan: the parent of {orphans[0]} is missing; plan the study again", file=str(path))
    return runs
