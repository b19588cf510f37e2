"""What came of one run, as the columns of its results row: outcomes and costs of a finished one, costs of another.

Pure but for reading the run's folder; whoever collects (from the store or from MLflow) uses these.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from orchestrator.store.layout import RunFolder
from orchestrator.store.state import State
from vitmodel.config.base import UserError
from vitmodel.flops.count import TRAIN_FACTOR

Facts = dict[str, Any]


def of_folder(folder: RunFolder, run: Facts) -> Facts:
    """What came of a run, as far as the store knows; `run` are its planned facts. Raises UserError for a damaged file."""
    try:
        state = folder.state()
        result = folder.result() if state is State.DONE else None
        failure = folder.failure() if state is not State.DONE else None
    except ValueError as error:
        raise UserError(f"a damaged file ({error}): remove the folder to run it again", file=str(folder.path)) from None
    head = {"status": str(state), "attempts": folder.attempts(), "reason": (failure or {}).get("reason", "")}
    return {**head, **(of_result(result, run) if result else without_result(folder.spent()[0], run))}


def of_result(result: Facts, run: Facts) -> Facts:
    """Outcomes and cost of a finished run."""
    metrics = result["metrics"]
    speed = result.get("last", {}).get("speed/images_per_second", math.nan)
    workers, top1 = result["workers"], metrics.get("eval/top1", math.nan)
    return {
        "loss": metrics.get("eval/loss", math.nan),
        "top1": top1,
        "error": 1 - top1,
        "real_top1": metrics.get("eval/real_top1", math.nan),  # where images have several right answers
        "test_images": metrics.get("eval/samples", pd.NA),
        "skipped_images": metrics.get("data/skipped"),
        "source": "",
        "workers": workers,
        "zero_stage": result["zero_stage"],
        "gpu_hours": result["gpu_hours"],
        "core_hours": result["core_hours"],
        "seconds": _seconds(result),
        "micro_batch": result.get("micro_batch", pd.NA),
        "images_per_second": speed,
        "mfu": speed * TRAIN_FACTOR * run["forward_flops"] / result["peak_flops"],
    }


def _seconds(result: Facts) -> float:
    """Wall time of all attempts: the result holds it as hours of what the workers reserved."""
    for hours, per_worker in (("core_hours", "cpus_per_worker"), ("gpu_hours", "gpus_per_worker")):
        if result[per_worker]:
            return float(3600 * result[hours] / (result["workers"] * result[per_worker]))
    return float(result["metrics"]["time/run_seconds"])


def without_result(seconds: float, run: Facts) -> Facts:
    """Cost so far of a run without a result, `seconds` over all attempts; its outcomes are missing."""
    group = run["placement"]["group"]
    return {
        **dict.fromkeys(("loss", "top1", "error", "real_top1", "images_per_second", "mfu"), math.nan),
        "test_images": pd.NA,
        "source": "",
        "workers": group["workers"],
        "zero_stage": group["zero_stage"],
        "gpu_hours": seconds * group["workers"] * group["gpus_per_worker"] / 3600,
        "core_hours": seconds * group["workers"] * group["cpus_per_worker"] / 3600,
        "seconds": seconds,
        "micro_batch": pd.NA,
    }
