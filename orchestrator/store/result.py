"""What a finished run leaves in result.json: its metrics, what it cost over all attempts, and what it was made with."""

from __future__ import annotations

import os
import platform
import socket
import time
from importlib.metadata import version
from typing import Any

from orchestrator.store.fencing import Fence


def result_of(
    bundle: dict[str, Any], fence: Fence, metrics: dict[str, float], *, workers: int, micro_batch: int
) -> dict[str, Any]:
    """The result of a run that this attempt finished. Hours count every attempt, with the workers that it had."""
    curve = fence.folder.metrics()
    earlier_seconds, earlier_worker_seconds = fence.folder.spent(fence.attempt)
    worker_seconds = earlier_worker_seconds + metrics["time/run_seconds"] * workers
    return {
        "run_id": fence.folder.run_id,
        "metrics": metrics,
        "last": curve[-1] if curve else {},
        "workers": workers,
        "zero_stage": bundle["zero_stage"],
        "cpus_per_worker": bundle["cpus_per_worker"],
        "gpus_per_worker": bundle["gpus_per_worker"],
        "micro_batch": micro_batch,
        "seconds": earlier_seconds + metrics["time/run_seconds"],
        "gpu_hours": worker_seconds * bundle["gpus_per_worker"] / 3600,
        "core_hours": worker_seconds * bundle["cpus_per_worker"] / 3600,
        "peak_flops": bundle["peak_flops"] * workers,
        "attempts": fence.folder.attempts(),
        "attempt": fence.attempt,  # whose curve it is
        "finished": time.time(),
        "provenance": {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("torch", "deepspeed", "ray", "numpy")},
            "git": bundle["git"],
            "job": os.environ.get("RAY_JOB_ID", ""),
        },
    }
