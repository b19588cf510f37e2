"""Converts durations to steps, and computes the learning rate of a step. Pure arithmetic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitmodel.config.recipe import Recipe


STEP_MARKS = (0.3, 0.6, 0.9)  # fractions of all steps at which `step` decays (Kolesnikov et al. 2020, section 3.3)


def steps_of(
    *, batch_size: int, dataset_size: int, epochs: float | None = None, steps: int | None = None, examples: int | None = None
) -> int:
    """Optimizer steps of a duration in exactly one unit: whole batches only, and at least one."""
    given = [value for value in (epochs, steps, examples) if value is not None]
    if len(given) != 1:
        raise ValueError("a duration must have exactly one of epochs, steps and examples")
    if steps is not None:
        return steps
    images = examples if examples is not None else math.floor((epochs or 0) * dataset_size)
    return max(1, images // batch_size)


def span_steps(span: float, total_steps: int) -> int:
    """A warm-up or cool-down in steps: values below 1 are fractions of all steps."""
    return min(total_steps, round(span * total_steps) if span < 1 else int(span))


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then the recipe's decay, then its cool-down.

    `linear` and `cosine` decay to 0 after the last step; `constant` and `rsqrt` (Zhai et al. 2022) do so only with a
    cool-down; `step` is divided by 10 at each of `STEP_MARKS`.
    """
    warmup, cooldown = span_steps(recipe.warmup, total_steps), span_steps(recipe.cooldown, total_steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "rsqrt": math.sqrt(max(1, warmup) / max(1, step + 1)),
        "step": 0.1 ** sum(step >= mark * total_steps for mark in STEP_MARKS),
    }[recipe.schedule]
    left = total_steps - step
    return recipe.lr * factor * (min(1.0, left / cooldown) if cooldown else 1.0)
