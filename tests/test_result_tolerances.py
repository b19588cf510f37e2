"""Summaries of rows do not depend on the rounding of epochs and FLOPs, or on the last digit of an error."""

from __future__ import annotations

from typing import Any

import pandas as pd
from claim_rows import SIZES, frame, row

from orchestrator.results import summary
from orchestrator.results.summary import FamilyBest


def best(family: str, mean: float) -> FamilyBest:
    return FamilyBest(family=family, variant="S/16", mean=mean, low=mean, high=mean, seeds=1)


def test_the_longest_training_may_differ_by_a_step() -> None:
    rows = frame([row("vit", "S/16", 1000, 0.2, seed=seed, pretrain_flops=1e15 * (1 - 1e-3 * seed)) for seed in range(3)])
    assert len(summary.longest(rows)) == 3
    rows = frame([row("vit", "S/16", n, 0.2, finetune_epochs=7.0 - 0.01 * i) for i, n in enumerate(SIZES)])
    assert len(summary.finetuned(rows)) == len(summary.finetuned(rows, epochs=7.0)) == len(SIZES)
    assert len(summary.finetuned(rows, epochs=6.0)) == 0


def test_families_that_differ_by_the_tie_margin_are_never_tied() -> None:
    """0.305 - 0.3 is above 0.005 in floating point, 0.105 - 0.1 is below it."""
    for first, margin, closer in ((0.1, 0.105, 0.1049), (0.3, 0.305, 0.3049)):
        assert summary.leaders([best("vit", first), best("resnet", margin)]) == ["ViT"]
        assert summary.leaders([best("vit", first), best("resnet", closer)]) == ["ViT", "ResNet"]


def curve(**flops: tuple[float, ...]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for family, values in flops.items():
        variant = {"vit": "S/16", "resnet": "R1"}[family]
        rows += [row(family, variant, 64000, 0.3 if family == "vit" else 0.2, pretrain_flops=f) for f in values]
    return summary.flops_curve(frame(rows))


def test_runs_of_one_compute_budget_are_compared_although_their_steps_are_whole() -> None:
    points = curve(vit=(0.9997e18,), resnet=(1.0003e18,))
    assert summary.common_flops(points) is not None
    assert summary.flops_headline(points).startswith("ResNet leads")
    assert summary.common_flops(curve(vit=(1e18,), resnet=(1.1e18,))) is None


def test_the_ends_of_an_axis_hold_values_that_differ_by_a_step() -> None:
    rows = [row("vit", "S/16", 1000, 0.3, finetune_epochs=e) for e in (1.0, 7.0)]
    rows += [row("resnet", "R1", 1000, 0.2, finetune_epochs=e) for e in (1.003, 6.98)]
    points = summary.curve(frame(rows), "finetune_epochs")
    assert summary.headline(points, "finetune_epochs", lambda e: f"after {e:.0f} epochs").startswith("ResNet leads")
