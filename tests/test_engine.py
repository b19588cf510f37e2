"""A step of the DeepSpeed engine equals one of a hand-written loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.recipe import Recipe
from vitmodel.models.build import build
from vitmodel.training.deepspeed_internals import destroy_engine
from vitmodel.training.engine import ensure_process_group, full_weights, make_engine, make_optimizer, zero_settings

MODEL = ViTConfig(family="vit", variant="v", width=32, depth=2, mlp_dim=64, heads=2, patch=4)
RECIPE = Recipe(
    preset="t", optimizer="adamw", lr=1e-3, batch_size=12, schedule="constant", warmup=0, weight_decay=0.1, grad_clip=0.5
)
MICRO = 4


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        yield torch.randn(12, 3, 16, 16, generator=generator), torch.randint(10, (12,), generator=generator)


def by_hand() -> dict[str, Tensor]:
    module = build(MODEL, 16, 10, seed=0).train()
    optimizer = make_optimizer(module, RECIPE)
    for images, labels in batches():
        F.cross_entropy(module(images), labels).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach() for name, value in module.named_parameters()}


def take_steps(engine: Any) -> list[float]:
    """Train on all batches, and return the norm of the gradients of each step; 0 at stage 0."""
    engine.train()
    norms = []
    for images, labels in batches():
        for start in range(0, 12, MICRO):
            part = slice(start, start + MICRO)
            engine.backward(F.cross_entropy(engine(images[part]), labels[part]))
            engine.step()
        norms.append(float(engine.get_global_grad_norm() or 0.0))
    return norms


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_engine_takes_the_step_written_by_hand(stage: int) -> None:
    ensure_process_group()
    engine = make_engine(build(MODEL, 16, 10, seed=0), RECIPE, micro_batch=MICRO, workers=1, zero_stage=stage)
    take_steps(engine)
    weights = full_weights(engine)
    for name, value in by_hand().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    destroy_engine(engine)


def test_buckets_are_no_larger_than_the_model() -> None:
    module = build(MODEL, 16, 10, seed=0)
    assert zero_settings(module, 2)["reduce_bucket_size"] == sum(parameter.numel() for parameter in module.parameters())
