"""The result of a finished run: its metrics, its cost over all attempts, and its provenance."""

from __future__ import annotations

import os
import platform
import socket
import time
from importlib.metadata import version

from orchestrator.plan.runs import WorkerGroup
from orchestrator.store.fencing import Fence
from orchestrator.store.records import Provenance, RunResult

RECORDED_PACKAGES = ("torch", "deepspeed", "ray", "numpy")


def make_result(
    fence: Fence,
    metrics: dict[str, float],
    *,
    group: WorkerGroup,
    workers: int,
    micro_batch: int,
    device_peak_flops: float,
    git: str,
) -> RunResult:
    """The result of a run that this attempt finished with `workers` workers. Hours count every attempt with its own workers.

    `device_peak_flops`: FLOP/s of one GPU, or of one CPU core.
    """
    curve = fence.folder.metrics()
    earlier_seconds, earlier_worker_seconds = fence.folder.spent(fence.attempt)
    worker_seconds = earlier_worker_seconds + metrics["time/run_seconds"] * workers
    devices_per_worker = group.gpus_per_worker or group.cpus_per_worker
    return RunResult(
        run_id=fence.folder.run_id,
        metrics=metrics,
        last=curve[-1] if curve else {},
        workers=workers,
        zero_stage=group.zero_stage,
        cpus_per_worker=group.cpus_per_worker,
        gpus_per_worker=group.gpus_per_worker,
        micro_batch=micro_batch,
        seconds=earlier_seconds + metrics["time/run_seconds"],
        gpu_hours=worker_seconds * group.gpus_per_worker / 3600,
        core_hours=worker_seconds * group.cpus_per_worker / 3600,
        peak_flops=device_peak_flops * devices_per_worker * workers,
        attempts=fence.folder.attempts(),
        attempt=fence.attempt,
        finished=time.time(),
        provenance=Provenance(
            host=socket.gethostname(),
            python=platform.python_version(),
            packages={name: version(name) for name in RECORDED_PACKAGES},
            git=git,
            job=os.environ.get("RAY_JOB_ID", ""),
        ),
    )
