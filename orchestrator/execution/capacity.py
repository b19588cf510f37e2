"""Whether a cluster can hold a plan: refused at once where a fixed cluster never can, waited for where a cluster grows.

Nothing in Ray refuses or queues worker groups that can never fit, alone or next to each other: it is computed here.
"""

from __future__ import annotations

import time

from orchestrator.execution.ray_internals import draining_nodes, free_resources
from orchestrator.execution.session import NoClusterError, nodes_of_cluster
from orchestrator.plan import budget
from orchestrator.plan.make import Plan
from orchestrator.plan.runs import Cell, WorkerGroup
from orchestrator.spec.schema import Study
from vitmodel.config.base import UserError

INTERVAL_SECONDS = 5.0  # between two checks of a cluster that grows


class DrainedNodeError(Exception):
    """The node of this process is being drained: nothing new starts on it."""


def wait_for_capacity(plan: Plan, nodes: list[dict[str, float]], wait_minutes: float) -> list[dict[str, float]]:
    """Nodes that can hold every run.

    Raises UserError at once where a cluster of fixed size cannot, NoClusterError when the wait is over.
    """
    deadline = time.monotonic() + 60 * wait_minutes
    has_requested = False
    try:
        while True:
            try:
                check_capacity(plan, nodes)
                return nodes
            except UserError as error:
                if wait_minutes == 0:
                    raise
                if time.monotonic() > deadline:
                    raise NoClusterError(f"waited {wait_minutes:g} minutes: {error.message}") from None
            if not has_requested:
                request_nodes(largest_group(plan))
                has_requested = True
            time.sleep(INTERVAL_SECONDS)
            nodes = nodes_of_cluster()
    finally:
        if has_requested:
            request_nodes([])  # from here on the worker groups themselves are the demand


def largest_group(plan: Plan) -> list[dict[str, float]]:
    """What each worker of the largest group reserves."""
    groups = {cell.pretrain.placement.group for cell in plan.cells}
    group = max(groups, key=lambda group: (group.workers * group.gpus_per_worker, group.workers * group.cpus_per_worker))
    return [group.resources_per_worker] * group.workers


def request_nodes(needs: list[dict[str, float]]) -> None:
    """Request capacity for these from the cluster's autoscaler: without demand it starts nothing. Replaces earlier requests."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=needs)


def check_capacity(plan: Plan, nodes: list[dict[str, float]]) -> None:
    """Raise UserError, naming the run, where all nodes together cannot hold its worker group."""
    for cell in plan.cells:
        budget.check_fits(f"{cell.pretrain.run_id} ({cell.pretrain.label})", cell.pretrain.placement.group, nodes)


def concurrency(cells: tuple[Cell, ...], study: Study, nodes: list[dict[str, float]]) -> dict[WorkerGroup, int]:
    """How many worker groups of each kind run in parallel."""
    limit = study.resources.max_concurrent
    groups = {cell.pretrain.placement.group for cell in cells}
    return {group: min(budget.slots(group, nodes), limit if isinstance(limit, int) else 10**6) for group in groups}


def free_workers(group: WorkerGroup) -> int:
    """How many workers of this kind the cluster can hold now. Draining nodes count as full."""
    draining, needs = draining_nodes(), group.resources_per_worker
    free = [resources for node, resources in free_resources().items() if node not in draining]
    return sum(min(int(resources.get(name, 0) // need) for name, need in needs.items()) for resources in free)


def refuse_drained_node() -> None:
    """Raise DrainedNodeError where the node of this process is being drained."""
    import ray

    if ray.get_runtime_context().get_node_id() in draining_nodes():
        raise DrainedNodeError("this node is being drained")
