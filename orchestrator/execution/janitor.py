"""Frees what dead actors of this driver's Ray job still reserve, while a study runs.

The placement group of a controller outlives it: Ray frees it only at the end of the whole job, and Ray Train's own cleaner
needs a dashboard and a process for every trial. The driver sees all of them in one table and looks every two seconds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.execution.ray_internals import abandoned_placement_groups

INTERVAL_SECONDS = 2.0

log = logging.getLogger(__name__)


@contextmanager
def sweeping() -> Iterator[None]:
    """Sweep in a thread until the body ends."""
    is_over = threading.Event()

    def sweep() -> None:
        while not is_over.wait(INTERVAL_SECONDS):
            try:
                remove_abandoned()
            except Exception as error:  # the head may be unreachable for a moment; the next check sees the same
                log.warning("cannot list abandoned placement groups, will try again: %s", str(error).partition("\n")[0])

    thread = threading.Thread(target=sweep, name="janitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(timeout=2 * INTERVAL_SECONDS)


def remove_abandoned() -> int:
    """Remove this job's placement groups whose creating actor is dead; returns how many there were."""
    import ray
    from ray.util.placement_group import remove_placement_group

    removed = 0
    for group in abandoned_placement_groups(ray.get_runtime_context().get_job_id()):
        remove_placement_group(group)
        removed += 1
    return removed
