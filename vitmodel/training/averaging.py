"""The exponential moving average of the weights (Polyak and Juditsky 1992), stored in the optimizer's state.

So ZeRO shards the average like Adam's moments, checkpoints contain it, and a resumed run has the same average bit for bit.
BatchNorm's running statistics are averaged too; their averages are stored in the optimizer's first parameter group.

At step t (from 0) the decay is min(ema, t / (t + 9)), as in TensorFlow, so that a short run does not average in its
initial weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitmodel.training.deepspeed_internals import set_weights_from_optimizer

STATE = "average"  # key in the optimizer's state
DECAY, STATISTICS = "average_decay", "averaged_statistics"  # keys in its parameter groups


def decay_at(ema: float, step: int) -> float:
    """The decay of optimizer step `step` (from 0); 0 copies the weights."""
    return min(ema, step / (step + 9))


def add_average(optimizer: torch.optim.Optimizer) -> None:
    """Make every step of this optimizer update the average of its parameters, with the decay of their group."""
    for group in optimizer.param_groups:
        group[DECAY] = 0.0
    optimizer.param_groups[0][STATISTICS] = {}
    optimizer.register_step_post_hook(_update_averages)


def set_decay(engine: Any, decay: float) -> None:
    """Set the decay of the next step."""
    for group in engine.optimizer.param_groups:
        group[DECAY] = decay


@torch.no_grad()
def update_statistics(engine: Any, decay: float) -> None:
    """Update the averages of the running statistics; call once after each step."""
    averages: dict[str, Tensor] = engine.optimizer.param_groups[0][STATISTICS]
    for name, value in _statistics(engine.module).items():
        averages[name] = torch.lerp(value, averages[name].to(value), decay) if decay else value.clone()


def averaged_statistics(engine: Any) -> dict[str, Tensor]:
    """The live averages of the running statistics, for a checkpoint to save and load; empty if nothing is averaged."""
    averages: dict[str, Tensor] | None = engine.optimizer.param_groups[0].get(STATISTICS)
    if averages is None:
        return {}
    for name, value in _statistics(engine.module).items():
        averages.setdefault(name, value.clone())
    return averages


@torch.no_grad()
def synchronise_averages(engine: Any) -> None:
    """Average the averaged statistics over all workers. Collective; call wherever the statistics are synchronised."""
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
    """Replace the trained weights and statistics by their averages. Collective; cannot be undone."""
    set_weights_from_optimizer(engine, STATE)
    for name, value in _statistics(engine.module).items():
        value.copy_(engine.optimizer.param_groups[0][STATISTICS][name])


def _statistics(module: nn.Module) -> dict[str, Tensor]:
    """BatchNorm's running statistics, live."""
    return {name: value for name, value in module.named_buffers() if value.is_floating_point()}


@torch.no_grad()
def _update_averages(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if STATE in state and group[DECAY]:
                state[STATE].lerp_(parameter, 1 - group[DECAY])
            else:
                state[STATE] = parameter.detach().clone()
