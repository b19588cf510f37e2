"""Elastic worker groups: as many workers as the cluster can hold, among the sizes at which the global batch is exact.

A group resumes from its checkpoints at any size. It starts at the largest size that fits; after it died, again; and while
it runs below its largest size, the trial looks for free resources and requests a stop at a checkpoint and a larger restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from orchestrator.execution.capacity import DrainedNodeError, free_workers
from orchestrator.execution.orders import BundleOrders, RunOrder
from orchestrator.plan.runs import Bundle
from orchestrator.store.attempts import LONGEST_PAUSE_SECONDS
from orchestrator.store.fencing import is_driven_by
from orchestrator.store.records import ResizeRequest, as_json
from orchestrator.store.state import State
from vitmodel.files import write_json

INTERVAL_SECONDS = 5.0  # between two checks for free resources


def sizes(bundle: Bundle) -> tuple[int, ...]:
    """The numbers of workers, smallest first, at which every run of a bundle has exactly its global batch."""
    group = bundle.group
    runs = [run.config for run in bundle.runs if run.config.recipe is not None]
    largest = max(group.workers, group.max_workers)
    return tuple(size for size in range(group.workers, largest + 1) if all(run.data.lanes % size == 0 for run in runs))


def run(orders: BundleOrders, start: Callable[[int], int]) -> int:
    """Work through a bundle with groups of changing size. `start(workers)` returns, or raises, when a group has ended."""
    executed, failures = 0, 0
    while _has_open_run(orders):
        workers = _wait_for_resources(orders)
        is_over = threading.Event()
        watch = threading.Thread(target=_watch_resources, args=(orders, workers, is_over), name="elastic", daemon=True)
        watch.start()
        try:
            executed += start(workers)
        except DrainedNodeError:
            raise
        except Exception:  # Ray Train raises its own errors; how the attempts ended is in the store
            failures += 1
            if failures > orders.group_failures:
                raise
            time.sleep(min(2.0**failures, LONGEST_PAUSE_SECONDS))  # gives the cluster time to detect dead workers
        finally:
            is_over.set()
            watch.join()  # a request to this group must not reach the next one
            orders.resize_file.unlink(missing_ok=True)
    return executed


def fitting(sizes: Iterable[int], free: int) -> int:
    """The largest of the sizes that `free` workers allow; 0 where not even the smallest fits."""
    return max((size for size in sizes if size <= free), default=0)


def _has_open_run(orders: BundleOrders) -> bool:
    return is_driven_by(orders.study_folder, orders.session) and any(_is_open(orders, order) for order in orders.runs)


def _is_open(orders: BundleOrders, order: RunOrder) -> bool:
    """Whether a run still has to be worked on in this session. A failure of an earlier session does not count."""
    folder = orders.folder(order)
    failure = folder.failure()
    if failure is not None and failure.time < orders.started:
        return True
    return folder.state() in (State.PLANNED, State.RUNNING)


def _wait_for_resources(orders: BundleOrders) -> int:
    while not (workers := fitting(orders.sizes, free_workers(orders.group))):
        time.sleep(1.0)
    return workers


def _watch_resources(orders: BundleOrders, workers: int, is_over: threading.Event) -> None:
    """Request a larger group when the cluster can hold one next to what this group reserves.

    Not before the group has started an attempt: until then what it is about to reserve still counts as free, and a group
    that is slow to start would be sent back again and again.
    """
    attempts_before = _attempts(orders)
    while workers < orders.sizes[-1] and not is_over.wait(INTERVAL_SECONDS):
        if _attempts(orders) == attempts_before:
            continue
        larger = fitting(orders.sizes, workers + free_workers(orders.group))
        if larger > workers and orders.wanted_workers() == 0:
            write_json(orders.resize_file, as_json(ResizeRequest(workers=larger)))


def _attempts(orders: BundleOrders) -> int:
    return sum(orders.folder(order).attempts() for order in orders.runs)
