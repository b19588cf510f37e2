"""One bundle in one Ray Train worker group: for each unfinished run, call `vitmodel.training`.

Runs in every worker of the group. Worker 0 alone writes to the store and decides what is next; the others follow.
A run that fails leaves its cause and the group goes on; a group that dies is started again by Ray Train, and takes
up where the store says.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.store import RunFolder, State, Store, read_json
from vitmodel.config import RunConfig, UserError
from vitmodel.training.engine import ensure_process_group
from vitmodel.training.loop import DivergedError, Metrics
from vitmodel.training.run import WEIGHTS_FILE, Context, execute

STOP_FILE = "stop.json"


def work(bundle: dict[str, Any]) -> int:
    """Work through a bundle's runs in order; returns how many were executed here. The Ray Train function."""
    torch.set_num_threads(bundle["cpus_per_worker"])
    worker, _ = ensure_process_group()
    store = Store(Path(bundle["storage"]))
    if not (store.study(bundle["study"]) / "plan.json").exists():
        raise UserError("this node does not see the storage folder: it must be shared by all nodes", file=str(store.root))
    executed = 0
    for item in bundle["runs"]:
        if _agree(_decide(store, bundle, item) if worker == 0 else None):
            _attempt(store, bundle, item, worker)
            executed += 1
    return executed


def _decide(store: Store, bundle: dict[str, Any], item: dict[str, Any]) -> bool:
    """Whether this run is to be executed now; what is not and has no result gets its reason."""
    folder = store.run(item["run_id"])
    if folder.state() is State.DONE:
        return False
    stop = read_json(store.study(bundle["study"]) / STOP_FILE)
    parent = item["config"]["parent"]
    if stop:
        folder.fail(State(stop["state"]), stop["reason"])
    elif parent and store.run(parent).state() is not State.DONE:
        folder.fail(State.SKIPPED, f"parent {parent} has no result")
    elif folder.attempts() >= bundle["first_attempts"][item["run_id"]] + 1 + bundle["retries"]:
        if folder.failure() is None:
            folder.fail(State.FAILED, f"workers died in each of {folder.attempts()} attempts")
    else:
        return True
    return False


def _agree(decision: bool | None) -> bool:
    """Worker 0's decision, known to all."""
    box = [decision]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return bool(box[0])


def _attempt(store: Store, bundle: dict[str, Any], item: dict[str, Any], worker: int) -> None:
    """Execute one run and leave its result or its failure."""
    folder, config = store.run(item["run_id"]), RunConfig.model_validate_json(json.dumps(item["config"]))
    report: Callable[[Metrics], None] = _ignore
    earlier_seconds = folder.spent_seconds()
    if worker == 0:
        report = _reporter(folder.begin({"config": item["config"], "facts": item["facts"]}))
    try:
        metrics = execute(config, _context(store, bundle, item, folder, report))
    except DivergedError as error:  # seen by all workers at once
        if worker == 0:
            folder.fail(State.DIVERGED, str(error))
    except Exception as error:
        folder.fail(State.FAILED, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-6)}")
        if dist.get_world_size() > 1:  # the others wait in a collective: end the group, Ray Train starts it again
            raise
    else:
        if worker == 0:
            folder.finish(_result(item, folder, metrics, bundle, earlier_seconds))


def _ignore(metrics: Metrics) -> None:
    """Workers other than 0 report nothing."""


def _context(
    store: Store, bundle: dict[str, Any], item: dict[str, Any], folder: RunFolder, report: Callable[[Metrics], None]
) -> Context:
    parent = item["config"]["parent"]
    return Context(
        folder=folder.path,
        data_root=Path(item["data_root"]),
        parent_weights=store.run(parent).path / WEIGHTS_FILE if parent else None,
        micro_batch=item["facts"]["placement"]["micro_batch"],
        zero_stage=bundle["zero_stage"],
        checkpoint_seconds=bundle["checkpoint_seconds"],
        report=report,
    )


def _reporter(path: Path) -> Callable[[Metrics], None]:
    def report(metrics: Metrics) -> None:
        with path.open("a") as file:
            file.write(json.dumps({**metrics, "time": time.time()}) + "\n")

    return report


def _result(
    item: dict[str, Any], folder: RunFolder, metrics: Metrics, bundle: dict[str, Any], earlier_seconds: float
) -> dict[str, Any]:
    """What a finished run leaves. Hours count every attempt."""
    curve = list(folder.metrics())
    seconds = earlier_seconds + metrics["time/run_seconds"]
    workers = dist.get_world_size()
    return {
        "run_id": item["run_id"],
        "metrics": metrics,
        "last": curve[-1] if curve else {},
        "workers": workers,
        "zero_stage": bundle["zero_stage"],
        "cpus_per_worker": bundle["cpus_per_worker"],
        "gpus_per_worker": bundle["gpus_per_worker"],
        "gpu_hours": seconds * workers * bundle["gpus_per_worker"] / 3600,
        "core_hours": seconds * workers * bundle["cpus_per_worker"] / 3600,
        "peak_flops": bundle["peak_flops"] * workers,
        "attempts": folder.attempts(),
        "finished": time.time(),
        "provenance": {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("torch", "deepspeed", "ray", "numpy")},
            "git": bundle["git"],
            "job": os.environ.get("RAY_JOB_ID", ""),
        },
    }
