"""Verdicts and forecasts do not depend on the rounding of epochs, FLOPs and sizes, or on the last digit of an interval."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from claim_rows import (
    SIZES,
    data_curve_rows,
    frame,
    judged,
    over_compute,
    row,
    study_with,
    with_target,
)

from orchestrator.verdicts import findings
from orchestrator.verdicts.advice import neighbouring_sizes
from orchestrator.verdicts.answers import Curve, Measure, Verdict
from orchestrator.verdicts.verdict_rules import compare


def curve_of(rows: list[dict[str, Any]], view: str, axis: str, variant: str = "") -> Curve:
    curves = findings.findings(frame(rows), study_with()).curves
    return next(c for c in curves if (c.view, c.axis, c.variant) == (view, axis, variant))


def test_the_longest_fine_tuning_may_differ_by_a_step() -> None:
    rows = [row("vit", "S/16", n, 0.2, finetune_epochs=epochs) for n, epochs in zip(SIZES, (7.0, 6.97, 7.0, 6.99), strict=True)]
    rows += [row("vit", "S/16", n, 0.3, finetune_epochs=3.0) for n in SIZES]
    points = curve_of(rows, "t", "dataset_size", "S/16").points
    assert [p.dataset_size for p in points] == SIZES
    assert {p.error for p in points} == {0.2}


def test_rows_of_one_pretraining_may_state_its_epochs_with_other_digits() -> None:
    rows = [row("vit", "S/16", n, 0.2, task=task, epochs=e) for n in SIZES for task, e in (("a", 6.0), ("b", 6.0000001))]
    assert [p.dataset_size for p in curve_of(rows, "mean of 2 tasks", "dataset_size", "S/16").points] == SIZES


def test_computes_that_differ_by_rounding_are_one_compute() -> None:
    flops = np.array([1e15, 1e16, 1e17])
    rows = over_compute("vit", "S/16", flops, np.full(3, 0.3))
    rows += [
        {**r, "seed": 1, "run_id": f"seed {r['run_id']}"}
        for r in over_compute("vit", "S/16", flops * (1 + 1e-9), np.full(3, 0.3))
    ]
    fewer_images = [row("vit", "S/16", n, 0.3) for n in SIZES[:3]]
    points = curve_of([*rows, *fewer_images], "t", "pretrain_flops").points
    assert len(points) == 9, "three computes at the most images are too few for a curve, so all rows are in it"


def test_the_longest_pretraining_has_seeds_of_almost_equal_compute() -> None:
    rows = [
        row("vit", "S/16", n, 0.3, seed=seed, pretrain_flops=6e6 * n * (1 + 1e-3 * seed)) for n in SIZES for seed in range(2)
    ]
    rows += [row("vit", "S/16", n, 0.4, epochs=3.0, pretrain_flops=3e6 * n) for n in SIZES]
    points = curve_of(rows, "t", "dataset_size", "S/16").points
    assert len(points) == 8
    assert {p.error for p in points} == {0.3}


@pytest.mark.parametrize("few", [None, 3.0])
def test_fine_tune_epochs_may_differ_by_a_step(few: float | None) -> None:
    rows = [
        row("vit", "S/16", n, error, finetune_epochs=epochs * (1 + 1e-3 * i))
        for i, n in enumerate(SIZES)
        for epochs, error in ((3.0, 0.101), (6.0, 0.1))
    ]
    claim = judged(rows, "few_epochs_suffice", few_epochs=few)
    assert "After 3 fine-tune epochs" in claim.sentence
    assert "4 pretrained models" in claim.method


def test_an_interval_that_ends_at_the_limit_decides_nothing() -> None:
    at_limit = Measure(what="error", value=0.5, low=1e-12, high=1.0, unit="%")
    assert compare(at_limit) is Verdict.CANNOT_TELL
    assert compare(replace(at_limit, low=1e-3)) is Verdict.HOLDS
    assert compare(replace(at_limit, low=-1.0, high=-1e-12)) is Verdict.CANNOT_TELL


def test_a_target_is_its_run_at_a_rounded_size() -> None:
    rows = data_curve_rows([10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 640_000])
    rows.append(row("vit", "S/16", 1_281_167, 0.08))
    (forecast,) = findings.findings(frame(rows), with_target(dataset_size=1_280_000)).forecasts
    assert forecast.measured == pytest.approx(0.08)
    assert forecast.beyond == {"dataset_size": 2.0}, "the result of the target is not among the rows of its forecast"


def test_neighbouring_sizes_differ_from_the_sizes_of_the_study_by_more_than_rounding() -> None:
    assert neighbouring_sizes([1000, 1999, 4000], 4000) == [500]
    assert neighbouring_sizes([320_292, 640_584, 1_281_167], 1_281_167) == [160_146]
