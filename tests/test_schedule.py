"""Durations and learning rates, as tables of cases."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vitmodel.config.recipe import Recipe
from vitmodel.config.schedule import learning_rate, steps_of


def recipe(**keys: object) -> Recipe:
    base = {"preset": "t", "optimizer": "adamw", "lr": 1.0, "batch_size": 10, "schedule": "constant", "warmup": 0.0}
    return Recipe.model_validate({**base, **keys})


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ({"epochs": 7}, 70),
        ({"epochs": 0.5}, 5),
        ({"epochs": 0.01}, 1),  # never none at all
        ({"steps": 13}, 13),
        ({"examples": 255}, 25),  # whole batches only
    ],
)
def test_steps_of(duration: dict[str, float], steps: int) -> None:
    assert steps_of(batch_size=10, dataset_size=100, **duration) == steps  # type: ignore[arg-type]


def test_one_unit_only() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        steps_of(batch_size=10, dataset_size=100, epochs=1, steps=2)


@pytest.mark.parametrize(
    ("keys", "step", "rate"),
    [
        ({"warmup": 10}, 0, 0.1),
        ({"warmup": 10}, 9, 1.0),
        ({"warmup": 0.1}, 4, 0.5),  # a fraction of the 100 steps
        ({"schedule": "linear"}, 50, 0.5),
        ({"schedule": "linear", "warmup": 10}, 55, 0.5),
        ({"schedule": "cosine"}, 50, 0.5),
        ({"schedule": "cosine"}, 25, 0.8536),
        ({"schedule": "rsqrt", "warmup": 25}, 99, 0.5),
        ({"cooldown": 10}, 89, 1.0),
        ({"schedule": "step"}, 29, 1.0),
        ({"schedule": "step"}, 30, 0.1),
        ({"schedule": "step"}, 60, 0.01),
        ({"schedule": "step", "warmup": 10}, 99, 0.001),
        ({"schedule": "step", "warmup": 10}, 4, 0.5),
        ({"cooldown": 10}, 95, 0.5),
    ],
)
def test_learning_rate(keys: dict[str, object], step: int, rate: float) -> None:
    assert learning_rate(recipe(**keys), step, 100) == pytest.approx(rate, abs=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_decay_never_rises_and_ends_near_zero(schedule: str) -> None:
    rates = [learning_rate(recipe(schedule=schedule), step, 1000) for step in range(1000)]
    assert all(a >= b for a, b in pairwise(rates))
    assert rates[-1] < 0.002
