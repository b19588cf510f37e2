"""Everything that we use of Ray beyond its public API: environment flags, private state, private classes.

Tested by name in tests/test_ray_internals.py, so that a new Ray that changes one of them fails there first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Read by Ray when it is imported; Tune and Train pass them on to trials, controllers and workers. Why each: docs/decisions.md.
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
CONNECT_TIMEOUT = "RAY_gcs_rpc_server_connect_timeout_s"  # of each of the five tries of a worker that starts
TRAIN_METRICS = "RAY_TRAIN_METRICS_ENABLED"  # not passed on by Train: goes into the job's runtime_env

# Callbacks of Ray Train that start an actor each (2 s of a core) and do nothing for us. The datasets manager serves Ray Data,
# which we do not use; the driver does the work of the placement group cleaner (janitor.py).
UNUSED_CALLBACKS = ("DatasetsCallback", "PlacementGroupCleanerCallback")


def lean_trainer() -> Any:
    """A TorchTrainer without UNUSED_CALLBACKS. Its `fit` raises RuntimeError where this Ray does not have one of them."""
    from ray.train.torch import TorchTrainer

    class LeanTrainer(TorchTrainer):  # type: ignore[misc, unused-ignore]
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            names = {type(callback).__name__ for callback in callbacks}
            if missing := set(UNUSED_CALLBACKS) - names:
                raise RuntimeError(f"this version of Ray Train has no callback {', '.join(sorted(missing))}")
            return [callback for callback in callbacks if type(callback).__name__ not in UNUSED_CALLBACKS]

    return LeanTrainer


def torch_backend() -> Any:
    """The class of Ray Train's torch backend, whose `on_start` runs functions in the main thread of every worker."""
    from ray.train.torch.config import _TorchBackend

    return _TorchBackend


def free_resources() -> dict[str, dict[str, float]]:
    """Free resources of each live node, by node id."""
    from ray._private.state import available_resources_per_node

    resources: dict[str, dict[str, float]] = available_resources_per_node()
    return resources


def draining_nodes() -> set[str]:
    """Ids of the nodes that Ray is draining: they will be removed, and nothing new starts on them."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def abandoned_placement_groups(job_id: str) -> Iterator[Any]:
    """This job's placement groups whose creating actor is dead, to be removed by `ray.util.remove_placement_group`."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.util.placement_group import PlacementGroup

    job = bytes.fromhex(job_id)
    for serialized in state._connect_and_get_accessor().get_placement_group_table():  # the public table hides the creator
        group = PlacementGroupTableData.FromString(serialized)
        if ray.ActorID(group.creator_actor_id).is_nil():  # the driver's own, which Ray counts as those of a dead actor
            continue
        if group.creator_actor_dead and group.creator_job_id == job and group.state != PlacementGroupTableData.REMOVED:
            yield PlacementGroup(ray.PlacementGroupID(group.placement_group_id))
