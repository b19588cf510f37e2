"""One Tune trial: the Ray Train worker group of one bundle, restarted after its workers die.

A group of fixed size is restarted by Ray Train. An elastic one ends here, and restarts with as many workers as the cluster
can hold then. What ends a bundle for good is a value and not an error: Tune restarts a trial after errors, and should do so
only where the trial itself died with its host.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from orchestrator.execution import elastic
from orchestrator.execution.capacity import refuse_drained_node
from orchestrator.execution.orders import BundleOrders
from orchestrator.execution.ray_internals import lean_trainer
from orchestrator.store.stop import stop_request
from vitmodel.training import allocator

GROUP_TIMEOUT_SECONDS = 120  # of a collective that waits for a dead worker

TrialConfig = dict[str, str]  # `orders`: the bundle's orders file; `scratch`: a folder for Ray's own files


def trial(config: TrialConfig) -> dict[str, Any]:
    """Work through one bundle; the function that Tune runs."""
    import ray.train

    orders = BundleOrders.model_validate_json(Path(config["orders"]).read_bytes())
    if stop_request(orders.study_folder):
        return {"executed": 0}  # a group that would do nothing is not started
    try:
        if orders.is_elastic:
            return {"executed": elastic.run(orders, lambda workers: _fit(orders, workers, 0, config["scratch"]))}
        return {"executed": _fixed_group(orders, config["scratch"])}
    except ray.train.TrainingFailedError as error:
        return {"executed": 0, "error": f"{type(error).__name__}: {error}"}


def _fixed_group(orders: BundleOrders, scratch: str) -> int:
    """Work through a bundle with a group of fixed size, with another controller where one is killed."""
    from ray.exceptions import RayActorError

    for failures_left in range(orders.group_failures, -1, -1):
        try:
            return _fit(orders, orders.group.workers, failures_left, scratch)
        except RayActorError as error:  # the controller died, which Ray Train does not retry
            last_error = error
    raise last_error


def _fit(orders: BundleOrders, workers: int, failures: int, scratch: str) -> int:
    """Run one worker group to its end. Returns how many attempts it made.

    Raises DrainedNodeError on a node that is being drained: the group's controller would be placed there, and never start.
    The trial then ends with an error, and Tune restarts it on another node.
    """
    import ray.train

    from orchestrator.execution.preemption import PreemptionTorchConfig
    from orchestrator.execution.worker import work

    refuse_drained_node()
    uses_gpu = orders.group.gpus_per_worker > 0
    timeout = max(GROUP_TIMEOUT_SECONDS, int(orders.stall_seconds) + 60)  # a stall must be detected before the timeout
    trainer = lean_trainer()(
        work,
        train_loop_config={"orders": orders.model_dump_json()},
        torch_config=PreemptionTorchConfig(backend="nccl" if uses_gpu else "gloo", timeout_s=timeout),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=uses_gpu, resources_per_worker=orders.group.resources_per_worker
        ),
        run_config=ray.train.RunConfig(
            name=f"{orders.bundle_id}-{time.time_ns()}",
            storage_path=scratch,
            failure_config=ray.train.FailureConfig(
                max_failures=failures,
                controller_failure_limit=0 if orders.is_elastic else -1,  # an elastic one would wait forever for a dead node
            ),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={} if uses_gpu else {"env_vars": allocator.ENVIRONMENT},
        ),
    )
    return int(trainer.fit().return_value)
