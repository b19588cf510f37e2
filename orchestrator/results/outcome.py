"""The outcome and cost of one run, as columns of its results row.

Pure, except for reading the run's folder; both sources of rows (the store and MLflow) use these functions.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from orchestrator.plan.records import RunFacts
from orchestrator.store.layout import RunFolder
from orchestrator.store.records import RunResult
from orchestrator.store.state import State
from vitmodel.flops.count import TRAIN_FACTOR

Row = dict[str, Any]  # column to value; a missing whole number is pd.NA

NOT_MEASURED = ("loss", "top1", "error", "real_top1", "images_per_second", "mfu")  # of a run without a result


def of_folder(folder: RunFolder, facts: RunFacts) -> Row:
    """The outcome of a run, as far as the store has it. Raises UserError for a damaged file."""
    state = folder.state()
    result = folder.result() if state is State.DONE else None
    failure = folder.failure() if state is not State.DONE else None
    head = {"status": str(state), "attempts": folder.attempts(), "reason": failure.reason if failure else ""}
    return {**head, **(of_result(result, facts) if result else without_result(folder.spent()[0], facts))}


def of_result(result: RunResult, facts: RunFacts) -> Row:
    """Outcome and cost of a finished run. MFU is the share of the peak FLOP/s of all its workers."""
    metrics = result.metrics
    speed, top1 = result.last.get("speed/images_per_second", math.nan), metrics.get("eval/top1", math.nan)
    return {
        "loss": metrics.get("eval/loss", math.nan),
        "top1": top1,
        "error": 1 - top1,
        "real_top1": metrics.get("eval/real_top1", math.nan),  # where images have several correct labels
        "test_images": _whole(metrics.get("eval/samples")),
        "skipped_images": _whole(metrics.get("data/skipped")),
        "source": "",
        "workers": result.workers,
        "zero_stage": result.zero_stage,
        "gpu_hours": result.gpu_hours,
        "core_hours": result.core_hours,
        "seconds": result.total_seconds,
        "micro_batch": _whole(result.micro_batch),
        "images_per_second": speed,
        "mfu": speed * TRAIN_FACTOR * facts.forward_flops / result.peak_flops,
    }


def without_result(seconds: float, facts: RunFacts) -> Row:
    """Cost so far of a run without a result, `seconds` over all attempts; its outcome is missing."""
    group = facts.placement.group
    return {
        **dict.fromkeys(NOT_MEASURED, math.nan),
        "test_images": pd.NA,
        "skipped_images": pd.NA,
        "source": "",
        "workers": group.workers,
        "zero_stage": group.zero_stage,
        "gpu_hours": seconds * group.workers * group.gpus_per_worker / 3600,
        "core_hours": seconds * group.workers * group.cpus_per_worker / 3600,
        "seconds": seconds,
        "micro_batch": pd.NA,
    }


def _whole(value: float | None) -> Any:
    return pd.NA if value is None else int(value)
