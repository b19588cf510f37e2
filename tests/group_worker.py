"""Program of the tests: trains runs one after another in groups of processes, and injects faults.

group_worker.py < GROUPS     (a line of JSON per group: [workers, jobs]; see `test_checkpoints.py` for a job)

Writes results next to the job's folder. Prints the exit codes of each group's processes as a line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import forked
import torch
import torch.distributed as dist

from vitmodel.config.run import RunConfig
from vitmodel.training import checkpoint
from vitmodel.training.checkpoint import CheckpointError, CheckpointPolicy
from vitmodel.training.context import Context
from vitmodel.training.coordination import StoppedError
from vitmodel.training.run import execute

WRITE = checkpoint.write_tensors


def train(job: dict[str, Any], reports: list[dict[str, float]]) -> None:
    """Train one run until its end, its `stop` or its fault. Each worker writes its outcome to a file."""
    context = Context(
        folder=Path(job["folder"]),
        data_root=Path(job["data"]),
        micro_batch=job["micro_batch"],
        zero_stage=job["zero_stage"],
        checkpoint=CheckpointPolicy(seconds=None, steps=job["save_steps"]),
        report=partial(report, job, reports),
        should_stop=stop_after(reports, job["stop"]),
    )
    ended, result = "done", {}
    try:
        result = execute(RunConfig.model_validate_json(json.dumps(job["config"])), context)
    except (StoppedError, CheckpointError) as error:
        ended = f"{type(error).__name__}: {error}"
    losses = {entry["step"]: entry["train/loss"] for entry in reports}
    outcome = {"ended": ended, "losses": losses, "result": result}
    Path(f"{job['folder']}-{job['name']}-{dist.get_rank()}.json").write_text(json.dumps(outcome))


def report(job: dict[str, Any], reports: list[dict[str, float]], entry: dict[str, float]) -> None:
    reports.append(entry)
    if job.get("fault") == "late" and list(Path(job["folder"]).glob("checkpoints/*/COMPLETE")):
        os.kill(os.getpid(), signal.SIGKILL)


def stop_after(reports: list[dict[str, float]], step: float) -> Callable[[], bool]:
    """A stop request at the second synchronisation after this step was logged: not at a step that logs."""
    calls: list[int] = []

    def should_stop() -> bool:
        if reports and reports[-1]["step"] >= step:
            calls.append(1)
        return len(calls) > 1

    return should_stop


def inject(kind: str, reports: list[dict[str, float]]) -> None:
    """Make the writes of worker 1 fail from now on; with `late`, every checkpoint is written two log entries after its step."""
    if kind == "late":

        def late(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str | int]:
            entries = len(reports)
            while len(reports) < entries + 2:
                time.sleep(0.01)
            return WRITE(path, tensors)

        checkpoint.write_tensors = late
        return
    if kind and dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # the disk is full from here
    if kind == "kill":

        def half(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, str | int]:
            try:
                return WRITE(path, tensors)
            except OSError:
                os.kill(os.getpid(), signal.SIGKILL)
                raise

        checkpoint.write_tensors = half


def work(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        if dist.get_rank() == 0 and "copy" in job:
            shutil.copytree(job["copy"], job["folder"])
        dist.barrier()
        reports: list[dict[str, float]] = []
        inject(job.get("fault", ""), reports)
        train(job, reports)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def main() -> None:
    forked.load()
    for line in sys.stdin:
        workers, jobs = json.loads(line)
        print(json.dumps(forked.group(workers, partial(work, jobs))), flush=True)


if __name__ == "__main__":
    main()
