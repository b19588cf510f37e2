"""DeepSpeed drives the step, and the step is the one we would write by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmodel.config.models import ViTConfig
from vitmodel.config.recipe import Recipe
from vitmodel.models.build import build
from vitmodel.training.engine import end_engine, ensure_process_group, full_weights, make_engine, make_optimizer, zero_settings

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


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_engine_takes_the_step_written_by_hand(stage: int) -> None:
    ensure_process_group()
    engine = make_engine(build(MODEL, 16, 10, seed=0), RECIPE, micro_batch=MICRO, workers=1, zero_stage=stage)
    engine.train()
    for images, labels in batches():
        for start in range(0, 12, MICRO):
            part = slice(start, start + MICRO)
            engine.backward(F.cross_entropy(engine(images[part]), labels[part]))
            engine.step()
    weights = full_weights(engine)
    for name, value in by_hand().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    engine.destroy()


def trained(stage: int, is_lean: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], dict[str, Tensor]]:
    if not is_lean:
        monkeypatch.setattr("vitmodel.training.engine.make_lean", lambda *_: None)
    engine = make_engine(build(MODEL, 16, 10, seed=0), RECIPE, micro_batch=MICRO, workers=1, zero_stage=stage)
    engine.train()
    norms = []
    for images, labels in batches():
        for start in range(0, 12, MICRO):
            part = slice(start, start + MICRO)
            engine.backward(F.cross_entropy(engine(images[part]), labels[part]))
            engine.step()
        norms.append(float(engine.get_global_grad_norm()))
    weights = full_weights(engine)
    engine.destroy()
    return norms, weights


@pytest.mark.parametrize("stage", [1, 2])
def test_a_lean_engine_gives_deepspeeds_own_numbers(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_process_group()
    norms, weights = trained(stage, True, monkeypatch)
    their_norms, their_weights = trained(stage, False, monkeypatch)
    assert norms == pytest.approx(their_norms, rel=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(value, their_weights[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_is_told(stage: int, bad: float) -> None:
    ensure_process_group()
    engine = make_engine(build(MODEL, 16, 10, seed=0), RECIPE, micro_batch=12, workers=1, zero_stage=stage)
    images, labels = next(batches())
    engine.backward(F.cross_entropy(engine(images), labels) * bad)
    engine.step()
    norm = float(engine.get_global_grad_norm())
    assert not 0 <= norm < float("inf")
    engine.destroy()


def test_buckets_are_no_larger_than_the_model() -> None:
    module = build(MODEL, 16, 10, seed=0)
    assert zero_settings(module, 2)["reduce_bucket_size"] == sum(parameter.numel() for parameter in module.parameters())


def test_an_ended_engine_does_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory may be collected within an import, and what DeepSpeed would do then imports."""
    from deepspeed.module_inject import auto_ep_comm

    calls: list[object] = []
    monkeypatch.setattr(auto_ep_comm, "destroy_exchanges", calls.append)
    ensure_process_group()
    engine = make_engine(build(MODEL, 16, 10, seed=0), RECIPE, micro_batch=12, workers=1, zero_stage=0)
    end_engine(engine)
    assert len(calls) == 1
    engine.__del__()
    assert len(calls) == 1
