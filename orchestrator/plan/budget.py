"""What a run needs and what it costs: workers, ZeRO stage, micro-batch, memory, hours; and what cannot be had.

Estimates follow a stated model of the device: time = FLOPs / (peak x expected utilisation) + steps x a fixed cost.
They order and bundle the work and guard budgets; they never decide a result.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from orchestrator.spec.fault_tolerance import Workers
from orchestrator.spec.schema import Resources
from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig
from vitmodel.config.objectives import SUPERVISED, Objective
from vitmodel.config.recipe import Recipe
from vitmodel.config.run import RunConfig
from vitmodel.flops.count import activation_bytes, count_params

LAUNCH_SECONDS = 15.0  # a Ray Train worker group until its first step, measured
RUN_SECONDS = 0.4  # a further run inside it: engine, evaluation, files
ACTIVATION_SHARE = 0.7  # of memory; the rest is workspace and fragmentation


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, or one CPU core. Peaks: vendors' dense bf16; CPU: fp32 GEMM of one core, measured."""

    name: str
    peak_flops: float
    memory_bytes: float
    vit_utilisation: float = 0.4
    resnet_utilisation: float = 0.25
    step_seconds: float = 0.01
    is_gpu: bool = True


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device(
            name="cpu",
            peak_flops=1.0e11,
            memory_bytes=4 * 2**30,
            vit_utilisation=0.35,
            resnet_utilisation=0.35,
            step_seconds=0.004,
            is_gpu=False,
        ),
        Device(name="a100", peak_flops=312e12, memory_bytes=80e9),
        Device(name="h100", peak_flops=989e12, memory_bytes=80e9),
        Device(name="h200", peak_flops=989e12, memory_bytes=141e9),
        Device(name="tpuv3", peak_flops=61.5e12, memory_bytes=16e9),
    )
}


@dataclass(frozen=True, kw_only=True, order=True)
class Group:
    """The worker group that a bundle runs in."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    zero_stage: int
    max_workers: int = 0  # of a group that takes what there is room for; 0: `workers` it is

    def __str__(self) -> str:
        upward = f" to {self.max_workers}" if self.max_workers else ""
        return f"{self.workers}{upward} x {'1 GPU' if self.gpus_per_worker else f'{self.cpus_per_worker} CPU'}"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How one run uses its group, and what that is expected to cost."""

    group: Group
    micro_batch: int
    accumulation: int
    activation_checkpointing: bool
    memory_bytes: int  # of one worker
    seconds: float


def device_of(resources: Resources) -> Device:
    """The stated device; `auto` is a CPU core, or an A100 where GPUs are asked for."""
    if resources.device != "auto":
        return DEVICES[resources.device]
    return DEVICES["a100" if resources.gpus_per_worker == 1 else "cpu"]


def group_for(
    model: ModelConfig,
    image_size: int,
    classes: int,
    recipe: Recipe,
    resources: Resources,
    *,
    objective: Objective = SUPERVISED,
) -> Group:
    """The smallest group, by ZeRO stage and then by workers, whose memory holds model states and one image.

    Raises UserError where no stage fits.
    """
    device = device_of(resources)
    gpus = int(device.is_gpu) if resources.gpus_per_worker == "auto" else resources.gpus_per_worker
    cpus = (4 if gpus else 1) if resources.cpus_per_worker == "auto" else resources.cpus_per_worker
    params = count_params(model, image_size, classes, objective)
    image = activation_bytes(model, image_size, _value_bytes(recipe, device), objective)
    asked = resources.workers
    least = asked.min if isinstance(asked, Workers) else asked
    worker_choices = [1, 2, 4, 8, 16, 32, 64] if least == "auto" else [least]
    stages = [0, 1, 2, 3] if resources.zero_stage == "auto" else [resources.zero_stage]
    for workers in worker_choices:
        for stage in stages if workers > 1 or resources.zero_stage != "auto" else [0]:
            if state_bytes(params, stage, workers, recipe, device) + image <= device.memory_bytes:
                return Group(
                    workers=workers,
                    cpus_per_worker=cpus,
                    gpus_per_worker=gpus,
                    zero_stage=stage,
                    max_workers=asked.max if isinstance(asked, Workers) else 0,
                )
    raise UserError(
        f"{model.variant} does not fit into {worker_choices[-1]} x {device.name} ({device.memory_bytes / 1e9:.0f} GB)",
        field="resources",
        allowed="more workers, a higher zero_stage, a larger device",
    )


def place(config: RunConfig, group: Group, resources: Resources, flops: int) -> Placement:
    """Micro-batch, accumulation, memory and time of a run in a group.

    Raises UserError where the batch cannot be split exactly.
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
            f"batch {batch} over {lanes} lanes and {group.workers} workers does not come out even",
            field="lanes",
            allowed="lanes that divide the batch, workers that divide the lanes",
        )
    share = batch // group.workers
    params = count_params(config.model, config.image_size, config.classes, config.objective)
    state = state_bytes(params, group.zero_stage, group.workers, config.recipe, device)
    image = activation_bytes(config.model, config.image_size, _value_bytes(config.recipe, device), config.objective)
    room = max(1, int((device.memory_bytes - state) * ACTIVATION_SHARE / image))
    wanted = share if resources.micro_batch == "auto" else resources.micro_batch
    micro = max(size for size in range(1, share + 1) if share % size == 0 and (size <= min(wanted, room) or size == 1))
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


def check_fits(name: str, group: Group, nodes: list[dict[str, float]]) -> None:
    """Raise UserError where the nodes, all free, could not hold the group: names the run and the largest node."""
    for resource, need in (("GPU", group.gpus_per_worker), ("CPU", group.cpus_per_worker)):
        if not need:
            continue
        room = sum(int(node.get(resource, 0) // need) for node in nodes)
        if room < group.workers:
            largest = max((node.get(resource, 0) for node in nodes), default=0)
            raise UserError(
                f"{name} needs {group.workers} workers x {need} {resource}; {len(nodes)} node(s) have room for {room}, "
                f"the largest has {largest:g} {resource}",
                field="resources",
            )


def slots(group: Group, nodes: list[dict[str, float]]) -> int:
    """How many such groups run side by side."""
    rooms = []
    for resource, need in (("CPU", group.cpus_per_worker), ("GPU", group.gpus_per_worker)):
        if need:
            rooms.append(sum(int(node.get(resource, 0) // need) for node in nodes) // group.workers)
    return max(1, min(rooms))


def local_node() -> list[dict[str, float]]:
    """This machine as a node, without asking Ray."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        len(list(Path("/dev").glob("nvidia[0-9]*"))) if visible is None else len([g for g in visible.split(",") if g.strip()])
    )
    return [{"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(gpus)}]


def _value_bytes(recipe: Recipe, device: Device) -> int:
    return 2 if recipe.precision == "bf16" or (recipe.precision == "auto" and device.is_gpu) else 4


def _speed(model: ModelConfig, device: Device, group: Group) -> float:
    """Expected FLOP/s of a whole group."""
    utilisation = device.vit_utilisation if model.family == "vit" else device.resnet_utilisation
    return device.peak_flops * utilisation * group.workers * (1 if device.is_gpu else group.cpus_per_worker)
