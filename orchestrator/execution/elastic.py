"""Worker groups that take as many workers as the cluster has room for, within the sizes at which the global batch is exact.

A group goes on from its checkpoints at any size. It is started at the largest size there is room for; after it died, again;
and while it runs at less than its largest, the launcher looks for room and asks it to stop at a checkpoint and go on larger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.execution.capacity import LeavingError, free_workers
from orchestrator.plan.runs import Bundle
from orchestrator.store.attempts import LONGEST_PAUSE_SECONDS
from orchestrator.store.fencing import is_driven
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from vitmodel.files import read_json, write_json

LOOK_SECONDS = 5.0  # between two looks for room


def sizes(bundle: Bundle) -> list[int]:
    """The numbers of workers, smallest first, at which every run of a bundle gives exactly its global batch."""
    group = bundle.group
    runs = [run.config for run in bundle.runs if run.config.recipe is not None]
    largest = max(group.workers, group.max_workers)
    return [size for size in range(group.workers, largest + 1) if all(run.data.lanes % size == 0 for run in runs)]


def run(payload: dict[str, Any], start: Callable[[int], int]) -> int:
    """Work through a bundle with groups of changing size; `start(workers)` returns, or raises, when a group has ended."""
    executed, failures = 0, 0
    while _unfinished(payload):
        workers = _wait_for_room(payload)
        over = threading.Event()
        watch = threading.Thread(target=_watch_for_room, args=(payload, workers, over), name="elastic", daemon=True)
        watch.start()
        try:
            executed += start(workers)
        except LeavingError:
            raise
        except Exception:  # Ray Train raises its own; how the runs' attempts ended stands in the store
            failures += 1
            if failures > payload["group_failures"]:
                raise
            time.sleep(min(2.0**failures, LONGEST_PAUSE_SECONDS))  # also until the cluster knows what died
        finally:
            over.set()
            watch.join()  # what it asked of this group is not to reach the next
            Path(payload["resize"]).unlink(missing_ok=True)
    return executed


def fitting(sizes: list[int], free: int) -> int:
    """The largest of the sizes that `free` workers allow; 0 where not even the smallest fits."""
    return max((size for size in sizes if size <= free), default=0)


def _unfinished(payload: dict[str, Any]) -> bool:
    store = Store(Path(payload["storage"]))
    return is_driven(store.study(payload["study"]), payload["session"]) and any(
        store.run(item["run_id"]).state() in (State.PLANNED, State.RUNNING) or _is_new(store, payload, item["run_id"])
        for item in payload["runs"]
    )


def _is_new(store: Store, payload: dict[str, Any], run_id: str) -> bool:
    """Whether a run's failure is one of an earlier session: it has not had its turn in this one."""
    folder = store.run(run_id)
    failure = folder.failure()
    return failure is not None and failure["time"] < payload["began"]


def _wait_for_room(payload: dict[str, Any]) -> int:
    while not (workers := fitting(payload["sizes"], _free_workers(payload))):
        time.sleep(1.0)
    return workers


def _watch_for_room(payload: dict[str, Any], workers: int, over: threading.Event) -> None:
    """Ask a group to go on larger, when there is room for a larger one beside what it holds.

    Not before it has begun an attempt: until then what it is about to take still counts as free, and a group that takes long
    to start would be sent back again and again.
    """
    begun = _attempts(payload)
    while workers < payload["sizes"][-1] and not over.wait(LOOK_SECONDS):
        if _attempts(payload) == begun:
            continue
        larger = fitting(payload["sizes"], workers + _free_workers(payload))
        if larger > workers and read_json(Path(payload["resize"])) is None:
            write_json(Path(payload["resize"]), {"workers": larger})


def _attempts(payload: dict[str, Any]) -> int:
    store = Store(Path(payload["storage"]))
    return sum(store.run(item["run_id"]).attempts() for item in payload["runs"])


def _free_workers(payload: dict[str, Any]) -> int:
    return free_workers(payload["cpus_per_worker"], payload["gpus_per_worker"])
