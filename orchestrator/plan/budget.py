"""What a run needs and costs: workers, ZeRO stage, micro-batch, memory, hours. Refuses what does not fit.

Estimates follow a stated model of the device: time = FLOPs / (peak x expected utilisation) + steps x a fixed cost.
They order and bundle the work and check budgets; they never affect a result.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from orchestrator.plan.devices import Device, device_of
from orchestrator.plan.runs import Placement, WorkerGroup
from orchestrator.spec.fault_tolerance import Workers
from orchestrator.spec.schema import Resources
from vitmodel.config.base import UserError
from vitmodel.config.batch import largest_divisor
from vitmodel.config.models import FAMILIES, ModelConfig
from vitmodel.config.objectives import SUPERVISED, Objective
from vitmodel.config.recipe import Recipe
from vitmodel.config.run import RunConfig
from vitmodel.flops.count import activation_bytes, count_params

RUN_SECONDS = 0.4  # a further run in a running worker group: engine, evaluation, files; measured
ACTIVATION_SHARE = 0.7  # of memory; the rest is workspace and fragmentation


def group_for(
    model: ModelConfig,
    image_size: int,
    classes: int,
    recipe: Recipe,
    resources: Resources,
    *,
    objective: Objective = SUPERVISED,
) -> WorkerGroup:
    """The smallest group, first by workers and then by ZeRO stage, whose memory holds the model states and one image.

    Raises UserError where no stage fits.
    """
    device = device_of(resources)
    gpus = int(device.is_gpu) if resources.gpus_per_worker == "auto" else resources.gpus_per_worker
    cpus = (4 if gpus else 1) if resources.cpus_per_worker == "auto" else resources.cpus_per_worker
    params = count_params(model, image_size, classes, objective)
    image = activation_bytes(model, image_size, _value_bytes(recipe, device), objective)
    requested = resources.workers
    least = requested.min if isinstance(requested, Workers) else requested
    worker_choices = [1, 2, 4, 8, 16, 32, 64] if least == "auto" else [least]
    stages = [0, 1, 2, 3] if resources.zero_stage == "auto" else [resources.zero_stage]
    for workers in worker_choices:
        for stage in stages if workers > 1 or resources.zero_stage != "auto" else [0]:
            if state_bytes(params, stage, workers, recipe, device) + image <= device.memory_bytes:
                return WorkerGroup(
                    workers=workers,
                    cpus_per_worker=cpus,
                    gpus_per_worker=gpus,
                    zero_stage=stage,
                    max_workers=requested.max if isinstance(requested, Workers) else 0,
                )
    raise UserError(
        f"{model.variant} does not fit into {worker_choices[-1]} x {device.name} ({device.memory_bytes / 1e9:.0f} GB)",
        field="resources",
        allowed="more workers, a higher zero_stage, a larger device",
    )


def place(config: RunConfig, group: WorkerGroup, resources: Resources, flops: int) -> Placement:
    """Micro-batch, accumulation, memory and time of a run in a group.

    Raises UserError where the batch cannot be divided exactly.
    """
    device = device_of(resources)
    if config.recipe is None:
        seconds = RUN_SECONDS + flops / _speed(config.model, device, group)
        return Placement(
            group=group, micro_batch=1, accumulation=1, activation_checkpointing=False, memory_bytes=0, seconds=seconds
        )
    batch, lanes = config.recipe.batch_size, config.data.lanes
    if batch % lanes or lanes % group.workers:
        raise UserError(
            f"batch must be divisible by lanes, and lanes by workers: batch {batch}, {lanes} lanes, {group.workers} workers",
            field="lanes",
            allowed="lanes that divide the batch, workers that divide the lanes",
        )
    share = batch // group.workers
    params = count_params(config.model, config.image_size, config.classes, config.objective)
    state = state_bytes(params, group.zero_stage, group.workers, config.recipe, device)
    image = activation_bytes(config.model, config.image_size, _value_bytes(config.recipe, device), config.objective)
    fitting = max(1, int((device.memory_bytes - state) * ACTIVATION_SHARE / image))
    requested = share if resources.micro_batch == "auto" else resources.micro_batch
    micro = largest_divisor(share, min(requested, fitting))
    seconds = RUN_SECONDS + flops / _speed(config.model, device, group) + config.steps * device.step_seconds * (share // micro)
    return Placement(
        group=group,
        micro_batch=micro,
        accumulation=share // micro,
        activation_checkpointing=False,
        memory_bytes=state + micro * image,
        seconds=seconds,
    )


def state_bytes(params: int, zero_stage: int, workers: int, recipe: Recipe, device: Device) -> int:
    """Weights, gradients and optimizer state of one worker: fp32, or bf16 with fp32 masters.

    Source: Rajbhandari et al. 2020 (ZeRO), section 3.
    """
    moments = (8 if recipe.optimizer == "adamw" else 4) + (4 if recipe.ema else 0)
    half = _value_bytes(recipe, device) == 2
    weights, gradients, optimizer = (2, 2, 4 + moments) if half else (4, 4, moments)
    optimizer_share = workers if zero_stage >= 1 else 1
    gradient_share = workers if zero_stage >= 2 else 1
    weight_share = workers if zero_stage >= 3 else 1
    return math.ceil(params * (weights / weight_share + gradients / gradient_share + optimizer / optimizer_share))


def check_fits(name: str, group: WorkerGroup, nodes: list[dict[str, float]]) -> None:
    """Raise UserError, naming the run and the largest node, where the group does not fit on the nodes when all are free."""
    for resource, need in (("GPU", group.gpus_per_worker), ("CPU", group.cpus_per_worker)):
        if not need:
            continue
        fitting = sum(int(node.get(resource, 0) // need) for node in nodes)
        if fitting < group.workers:
            largest = max((node.get(resource, 0) for node in nodes), default=0)
            raise UserError(
                f"{name} needs {group.workers} workers x {need} {resource}; {len(nodes)} node(s) fit {fitting} of them, "
                f"the largest node has {largest:g} {resource}",
                field="resources",
            )


def slots(group: WorkerGroup, nodes: list[dict[str, float]]) -> int:
    """How many such groups run in parallel on these nodes; at least 1."""
    fitting = []
    for resource, need in (("CPU", group.cpus_per_worker), ("GPU", group.gpus_per_worker)):
        if need:
            fitting.append(sum(int(node.get(resource, 0) // need) for node in nodes) // group.workers)
    return max(1, min(fitting))


def local_node() -> list[dict[str, float]]:
    """This machine as a node, without Ray."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        len(list(Path("/dev").glob("nvidia[0-9]*"))) if visible is None else len([g for g in visible.split(",") if g.strip()])
    )
    return [{"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(gpus)}]


def _value_bytes(recipe: Recipe, device: Device) -> int:
    return 2 if recipe.precision == "bf16" or (recipe.precision == "auto" and device.is_gpu) else 4


def _speed(model: ModelConfig, device: Device, group: WorkerGroup) -> float:
    """Expected FLOP/s of a whole group."""
    is_vit = FAMILIES[model.family].utilisation == "vit"
    utilisation = device.vit_utilisation if is_vit else device.resnet_utilisation
    return device.peak_flops * utilisation * group.workers * (1 if device.is_gpu else group.cpus_per_worker)
