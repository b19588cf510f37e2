"""The exponential moving average of the weights (Polyak and Juditsky 1992), kept where the optimizer keeps its moments.

So ZeRO shards the average as it shards the moments, checkpoints hold it, and a resume goes on with it to the last bit: it
is a further state of each fp32 master. BatchNorm's running statistics are averaged alike; they travel in the first
parameter group.

At step t (from 0) the decay is min(ema, t / (t + 9)), TensorFlow's form of forgetting the start: a short run is not held at
its first weights.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

STATE = "average"  # key in the optimizer's state
DECAY, STATISTICS = "average_decay", "averaged_statistics"  # keys in its parameter groups


def decay_at(ema: float, step: int) -> float:
    """The decay of optimizer step `step` (from 0); 0 copies the weights."""
    return min(ema, step / (step + 9))


def keep_average(optimizer: torch.optim.Optimizer) -> None:
    """From now on every step of this optimizer moves the average of its parameters, by the decay of their group."""
    for group in optimizer.param_groups:
        group[DECAY] = 0.0
    optimizer.param_groups[0][STATISTICS] = {}
    optimizer.register_step_post_hook(_move)


def set_decay(engine: Any, decay: float) -> None:
    """The decay of the next step."""
    for group in engine.optimizer.param_groups:
        group[DECAY] = decay


@torch.no_grad()
def average_statistics(engine: Any, decay: float) -> None:
    """Move the averages of the running statistics; once a step, after it."""
    averages: dict[str, Tensor] = engine.optimizer.param_groups[0][STATISTICS]
    for name, value in _statistics(engine.module).items():
        averages[name] = torch.lerp(value, averages[name].to(value), decay) if decay else value.clone()


def averaged_statistics(engine: Any) -> dict[str, Tensor]:
    """The averages of the running statistics, live, for a checkpoint to hold and to fill; none where nothing is averaged."""
    averages: dict[str, Tensor] | None = engine.optimizer.param_groups[0].get(STATISTICS)
    if averages is None:
        return {}
    for name, value in _statistics(engine.module).items():
        averages.setdefault(name, value.clone())
    return averages


@torch.no_grad()
def synchronise_averages(engine: Any) -> None:
    """The mean of the workers' averaged statistics, on every worker: wherever the statistics themselves are synchronised."""
    averages: dict[str, Tensor] = engine.optimizer.param_groups[0].get(STATISTICS, {})
    if not averages or dist.get_world_size() == 1:
        return
    flat = torch.cat([average.flatten() for average in averages.values()]).to(next(iter(_statistics(engine.module).values())))
    dist.all_reduce(flat)
    parts = torch.split(flat / dist.get_world_size(), [average.numel() for average in averages.values()])
    for (name, average), part in zip(list(averages.items()), parts, strict=True):
        averages[name] = part.view(average.shape)


@torch.no_grad()
def use_average(engine: Any) -> None:
    """Put the averaged weights and statistics in the place of the trained ones, for good. Collective."""
    from deepspeed.runtime.zero import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    for master, state in engine.basic_optimizer.state.items():  # this worker's flat parts, or the parameters themselves
        master.data.copy_(state[STATE])
    stage = engine.zero_optimization_stage()
    for parameter in engine.module.parameters() if stage else ():  # what the forward pass works with
        value = cast(Tensor, safe_get_full_fp32_param(parameter))
        with GatheredParameters([parameter], modifier_rank=0, enabled=stage == 3):
            parameter.data.copy_(value.view(parameter.shape))
    for name, value in _statistics(engine.module).items():
        value.copy_(engine.optimizer.param_groups[0][STATISTICS][name])


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    """BatchNorm's running statistics: the module's own tensors."""
    return {name: value for name, value in module.named_buffers() if value.is_floating_point()}


@torch.no_grad()
def _move(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if STATE in state and group[DECAY]:
                state[STATE].lerp_(parameter, 1 - group[DECAY])
            else:
                state[STATE] = parameter.detach().clone()
