"""Frees what dead actors of this driver's Ray job still hold, while a study runs.

A controller's placement group outlives it: Ray frees it only when the whole job is over, and Ray Train's own cleaner
needs a dashboard and a process beside every trial. The driver sees all of them in one table, and looks every two seconds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOOK_SECONDS = 2.0

log = logging.getLogger(__name__)


@contextmanager
def sweeping() -> Iterator[None]:
    """Sweep in a thread until the body ends."""
    over = threading.Event()

    def sweep() -> None:
        while not over.wait(LOOK_SECONDS):
            try:
                remove_abandoned()
            except Exception as error:  # the head may be away for a moment; the next look sees the same
                log.warning("cannot look for abandoned placement groups: %s", str(error).partition("\n")[0])

    thread = threading.Thread(target=sweep, name="janitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=2 * LOOK_SECONDS)


def remove_abandoned() -> int:
    """Remove this job's placement groups whose creating actor is dead; returns how many there were."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData as Group
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    found = 0
    table = state._connect_and_get_accessor().get_placement_group_table()  # `placement_group_table` hides the creator
    for serialized in table:
        group = Group.FromString(serialized)
        if ray.ActorID(group.creator_actor_id).is_nil():  # the driver's own, which Ray counts as those of a dead actor
            continue
        if group.creator_actor_dead and group.creator_job_id == job and group.state != Group.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            found += 1
    return found
