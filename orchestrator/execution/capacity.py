"""Whether a cluster has room for a plan: refused at once where a fixed one never will, waited for where one grows.

Nothing in Ray refuses or queues worker groups that can never fit, alone or beside each other: it is computed here.
"""

from __future__ import annotations

import time

from orchestrator.plan import budget
from orchestrator.plan.budget import Group
from orchestrator.plan.make import Plan
from orchestrator.plan.runs import Cell
from orchestrator.spec.schema import Study
from vitmodel.config.base import UserError

LOOK_SECONDS = 5.0  # between two looks at a cluster that grows


class NoClusterError(Exception):
    """The cluster never offered what a run needs."""


class LeavingError(Exception):
    """The node of this process is drained: nothing new starts on it."""


def wait_for_room(plan: Plan, nodes: list[dict[str, float]], wait_minutes: float) -> list[dict[str, float]]:
    """Nodes that can hold every run.

    Raises UserError at once where a cluster of fixed size cannot, NoClusterError after waiting in vain.
    """
    deadline = time.monotonic() + 60 * wait_minutes
    asked = False
    try:
        while True:
            try:
                check_room(plan, nodes)
                return nodes
            except UserError as error:
                if wait_minutes == 0:
                    raise
                if time.monotonic() > deadline:
                    raise NoClusterError(f"waited {wait_minutes:g} minutes: {error.message}") from None
            if not asked:
                ask_for_nodes(largest_group(plan))
                asked = True
            time.sleep(LOOK_SECONDS)
            nodes = nodes_of_cluster()
    finally:
        if asked:
            ask_for_nodes([])  # from here on the worker groups themselves are the demand


def largest_group(plan: Plan) -> list[dict[str, float]]:
    """What each worker of the largest group needs."""
    groups = {cell.pretrain.placement.group for cell in plan.cells}
    group = max(groups, key=lambda group: (group.workers * group.gpus_per_worker, group.workers * group.cpus_per_worker))
    needs = {"CPU": float(group.cpus_per_worker), "GPU": float(group.gpus_per_worker)}
    return [{name: amount for name, amount in needs.items() if amount}] * group.workers


def ask_for_nodes(needs: list[dict[str, float]]) -> None:
    """Ask the cluster's autoscaler for room for these: without demand it starts nothing. Replaces what was asked before."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=needs)


def check_room(plan: Plan, nodes: list[dict[str, float]]) -> None:
    """Raise UserError, naming the run, where all nodes together could not hold its worker group."""
    for cell in plan.cells:
        budget.check_fits(f"{cell.pretrain.run_id} ({cell.pretrain.label})", cell.pretrain.placement.group, nodes)


def concurrency(cells: tuple[Cell, ...], study: Study, nodes: list[dict[str, float]]) -> dict[Group, int]:
    """How many worker groups of each kind run side by side."""
    limit = study.resources.max_concurrent
    groups = {cell.pretrain.placement.group for cell in cells}
    return {group: min(budget.slots(group, nodes), limit if isinstance(limit, int) else 10**6) for group in groups}


def nodes_of_cluster() -> list[dict[str, float]]:
    """The resources of each live node."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_workers(cpus: int, gpus: int) -> int:
    """How many workers with so much each the cluster has room for now; nodes that are drained get no new ones."""
    from ray._private.state import available_resources_per_node

    leaving = draining_nodes()
    needs = {name: need for name, need in (("CPU", cpus), ("GPU", gpus)) if need}
    free = [resources for node, resources in available_resources_per_node().items() if node not in leaving]
    return sum(min(int(resources.get(name, 0) // need) for name, need in needs.items()) for resources in free)


def refuse_drained_node() -> None:
    """Raises LeavingError where this process's own node is drained."""
    import ray

    if ray.get_runtime_context().get_node_id() in draining_nodes():
        raise LeavingError("this node is taken away")


def draining_nodes() -> set[str]:
    """Ids of the nodes that Ray was told will be taken away."""
    from ray._private.state import state

    return set(state.get_draining_nodes())
