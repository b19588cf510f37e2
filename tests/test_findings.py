"""Verdicts on claims, for made-up rows with known errors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from claim_rows import SIZES, frame, headline, judged, over_compute, power_law_rows, row, study_with
from conftest import WriteStudy

from orchestrator.spec.study import read_study
from orchestrator.verdicts import findings
from orchestrator.verdicts.answers import Verdict
from vitmodel.config.base import UserError


@pytest.mark.parametrize(("large_error", "verdict"), [(1.3, Verdict.HOLDS), (0.7, Verdict.FAILS), (1.01, Verdict.CANNOT_TELL)])
def test_larger_needs_data(large_error: float, verdict: Verdict) -> None:
    rows = [row("vit", "S/16", n, 0.5 * (n / 1000) ** -0.2) for n in SIZES]
    rows += [row("vit", "L/16", n, 0.5 * large_error * (n / 1000) ** -0.4) for n in SIZES]
    claim = judged(rows, "larger_needs_data")
    assert claim.verdict is verdict
    assert claim.number.low < 100 * (large_error - 1) < claim.number.high
    assert len(claim.runs) == 4, "two models at the fewest and at the most images"


CROSSINGS = {"falls": (-0.6, Verdict.HOLDS), "level": (-0.2, Verdict.FAILS), "touches": (-0.37, Verdict.CANNOT_TELL)}


@pytest.mark.parametrize("case", CROSSINGS)
def test_overtakes_with_data(case: str) -> None:
    exponent, verdict = CROSSINGS[case]
    rows = [row("resnet", "R1", n, 0.3 * (n / 1000) ** -0.2) for n in SIZES]
    rows += [row("vit", "S/16", n, 0.6 * (n / 1000) ** exponent) for n in SIZES]
    claim = judged(rows, "overtakes_with_data")
    assert claim.verdict is verdict, claim.sentence
    if verdict is Verdict.HOLDS:
        crossing = next(part for part in claim.parts if part.unit == "images")
        assert crossing.value == pytest.approx(1000 * 2 ** (1 / 0.4), rel=0.01)
        assert crossing.low < crossing.value < crossing.high


@pytest.mark.parametrize(
    ("ratio", "less", "two_to_four"),
    [
        (3.0, Verdict.HOLDS, Verdict.HOLDS),
        (10.0, Verdict.HOLDS, Verdict.FAILS),
        (0.2, Verdict.FAILS, Verdict.FAILS),
        (1.0, Verdict.CANNOT_TELL, Verdict.FAILS),
        (4.0, Verdict.HOLDS, Verdict.CANNOT_TELL),
    ],
)
def test_compute_ratio_claims(ratio: float, less: Verdict, two_to_four: Verdict) -> None:
    rows = power_law_rows("resnet", "R1", ratio, seed=1) + power_law_rows("vit", "S/16", 1.0, seed=5)
    result = findings.findings(frame(rows), study_with(form="M1"))
    claim = headline(result, "less_compute")
    assert (claim.verdict, headline(result, "two_to_four_times_less").verdict) == (less, two_to_four), claim.sentence
    assert claim.number.low < ratio < claim.number.high
    assert claim.method.startswith("M1 laws"), "the method states the form"
    assert {c.method for c in result.comparisons} >= {"M1", "M2", "fronts"}


def test_hybrid_advantage_vanishes() -> None:
    vit = power_law_rows("vit", "S/16", 1.0)
    assert (
        judged(vit + power_law_rows("hybrid", "H1", 0.3, 0.25, 1), "hybrid_advantage_vanishes", form="M1").verdict
        is Verdict.HOLDS
    )
    assert (
        judged(vit + power_law_rows("hybrid", "H1", 0.3, 0.3, 1), "hybrid_advantage_vanishes", form="M1").verdict
        is Verdict.FAILS
    )


def test_saturation() -> None:
    flops = np.geomspace(1e15, 1e18, 9)

    def verdict(error: np.ndarray) -> Verdict:
        noisy = error * np.exp(0.003 * np.random.default_rng(0).standard_normal(9))
        return judged(over_compute("vit", "S/16", flops, noisy), "no_saturation").verdict

    assert verdict(0.4 * (flops / 1e15) ** -0.3) is Verdict.HOLDS
    assert verdict(0.1 + 0.3 * (flops / 1e15) ** -1.2) is Verdict.FAILS


@pytest.mark.parametrize(("excess", "verdict"), [(1.0, Verdict.HOLDS), (1.3, Verdict.FAILS)])
def test_few_epochs_suffice(excess: float, verdict: Verdict) -> None:
    error = {1.0: 2.0, 3.0: excess, 7.0: 1.0}
    noise = np.random.default_rng(0).normal(0, 0.01, (4, 3))
    rows = [
        row("vit", "S/16", n, 0.1 * error[e] * math.exp(noise[i, j]), finetune_epochs=e)
        for i, n in enumerate(SIZES)
        for j, e in enumerate(error)
    ]
    claim = judged(rows, "few_epochs_suffice")
    assert claim.verdict is verdict, claim.sentence
    assert "After 3 fine-tune epochs" in claim.sentence
    assert len(claim.runs) == 8
    assert judged(rows, "few_epochs_suffice", few_epochs=1.0).verdict is Verdict.FAILS


def test_small_test_sets_and_noisy_seeds_widen_intervals() -> None:
    def width(seeds: float, images: int) -> float:
        noise = np.random.default_rng(0).normal(0, seeds, (2, 4, 3))
        rows = [
            row(*model, n, 0.3 * math.exp(noise[i, j, s]), seed=s, test_images=images)
            for i, model in enumerate([("vit", "S/16"), ("vit", "L/16")])
            for j, n in enumerate(SIZES)
            for s in range(3)
        ]
        claim = judged(rows, "larger_needs_data")
        assert "measured" in claim.method
        return claim.number.high - claim.number.low

    assert width(0.1, 10**6) > 3 * width(0.02, 10**6)
    assert width(0.02, 100) > 3 * width(0.02, 10**6)


def test_the_method_states_that_the_spread_between_seeds_is_assumed() -> None:
    rows = [row("vit", v, n, 0.3 if v == "S/16" else 0.32) for v in ("S/16", "L/16") for n in SIZES]
    claim = judged(rows, "larger_needs_data", seed_spread=0.1)
    assert claim.verdict is Verdict.CANNOT_TELL
    assert "a spread of 10% between seeds is assumed" in claim.method
    assert judged(rows, "larger_needs_data", seed_spread=0.001).verdict is Verdict.HOLDS


def test_without_rows_there_are_no_claims_and_without_a_law_no_verdict() -> None:
    assert findings.findings(frame([row("vit", "S/16", 1000, math.nan, status="FAILED")]), study_with()).claims == ()
    rows = [row(family, v, 1000, 0.3) for family, v in (("vit", "S/16"), ("vit", "L/16"), ("resnet", "R1"))]
    result = findings.findings(frame(rows), study_with())
    assert headline(result, "less_compute").verdict is Verdict.CANNOT_TELL
    assert "distinct x" in headline(result, "no_saturation").sentence
    assert "overtakes_with_data" not in {claim.name for claim in result.claims}, "the claim needs two sizes"


def test_a_mean_needs_every_task() -> None:
    rows = [row("vit", "S/16", n, 0.2, task=task) for n in SIZES for task in ("a", "b") if (n, task) != (4000, "b")]
    curve = next(c for c in findings.findings(frame(rows), study_with()).curves if c.view == "mean of 2 tasks")
    assert sorted(p.dataset_size for p in curve.points) == [1000, 16000, 64000]


def test_findings_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = frame(power_law_rows("resnet", "R1", 3.0, seed=1) + power_law_rows("vit", "S/16", 1.0))
    one, two = (json.dumps(findings.as_data(findings.findings(part, study_with()))) for part in (rows, rows.iloc[::-1]))
    assert one == two


@pytest.mark.parametrize(
    ("section", "field", "message"),
    [
        ({"claims": {"tasks": ["digit"]}}, "claims.tasks[0]", "did you mean digits"),
        ({"claims": {"check": ["less_computes"]}}, "claims.check[0]", "less_compute"),
        ({"claims": {"pairs": [["V16/8", "V8/8"]]}}, "claims.pairs[0][1]", "unknown model"),
        ({"claims": {"forms": "M1"}}, "claims.forms", "did you mean form"),
        ({"targets": [{"variant": "Q/16", "dataset_size": "1k"}]}, "targets[0].variant", "unknown model"),
        ({"targets": [{"variant": "V16/8"}]}, "targets[0].dataset_size", "required key is missing"),
    ],
)
def test_mistakes_in_claims_and_targets(section: dict[str, Any], field: str, message: str, write_study: WriteStudy) -> None:
    with pytest.raises(UserError, match=message) as mistake:
        read_study(write_study(lambda content: content.update(section)))
    assert mistake.value.field == field
    assert mistake.value.line


def test_a_remaining_advantage_is_not_gone_because_it_was_not_detected() -> None:
    """The hybrids keep 8% at the largest compute. With much noise that is not known; it is never called gone."""
    flops = np.geomspace(1e15, 1e18, 7)

    def verdict(noise: float, remaining: float) -> Verdict:
        random = np.random.default_rng(2)
        gap = np.exp(np.linspace(0.4, math.log1p(remaining), 7))
        hybrid = 0.4 * (flops / 1e15) ** -0.2
        errors = [e * np.exp(noise * random.standard_normal(7)) for e in (hybrid * gap, hybrid)]
        rows = over_compute("vit", "S/16", flops, errors[0]) + over_compute("hybrid", "H1", flops, errors[1])
        return judged(rows, "hybrid_advantage_vanishes", form="M1").verdict

    assert verdict(0.06, 0.08) is Verdict.CANNOT_TELL
    assert verdict(0.002, 0.08) is Verdict.FAILS
    assert verdict(0.002, 0.01) is Verdict.HOLDS


def test_verdicts_on_an_assumed_spread_are_provisional_until_two_runs_are_repeated() -> None:
    rows = [row("vit", v, n, error) for v, error in (("S/16", 0.2), ("L/16", 0.4)) for n in SIZES]
    claim = judged(rows, "larger_needs_data")
    assert claim.provisional
    assert claim.settle == "run S/16 on 1k images and L/16 on 64k images with a second seed to measure the spread"
    assert claim.settle in claim.method
    repeated = [row("vit", "S/16", 1000, 0.202, seed=1), row("vit", "L/16", 64000, 0.396, seed=1)]
    settled = judged(rows + repeated, "larger_needs_data")
    assert (settled.verdict, settled.provisional) == (Verdict.HOLDS, False)
    assert "measured" in settled.method


def test_each_family_has_its_own_spread_between_seeds() -> None:
    """A family that scatters more has wider intervals; the other one is not hurt by that."""
    random = np.random.default_rng(0)
    rows = [
        row(family, variant, n, 0.3 * math.exp(noise * random.standard_normal()), seed=seed)
        for family, variant, noise in (("vit", "S/16", 0.01), ("resnet", "R1", 0.2))
        for n in SIZES
        for seed in range(4)
    ]
    curves = findings.findings(frame(rows), study_with()).curves
    spread = {c.family: {round(p.spread, 3) for p in c.points} for c in curves}
    assert max(spread["vit"]) < 0.02
    assert min(spread["resnet"]) > 0.1


@pytest.mark.parametrize("sizes", [[1000, 2000, 4000, 8000, 16000, 32000, 64000], [1000, 8000, 64000]])
def test_the_data_ratio_is_known_beside_the_compute_ratio(sizes: list[int]) -> None:
    """ViT needs four times the images; with few sizes the ratio is that of fronts."""
    random = np.random.default_rng(1)
    rows = [
        row(family, variant, n, 0.6 * (n / factor / 1000) ** -0.3 * math.exp(0.005 * random.standard_normal()))
        for family, variant, factor in (("vit", "S/16", 4.0), ("resnet", "R1", 1.0))
        for n in sizes
    ]
    result = findings.findings(frame(rows), study_with(form="M1"))
    found = next(c for c in result.comparisons if c.axis == "dataset_size")
    assert (found.first, found.second) == ("vit", "resnet")
    assert found.ratio.value == pytest.approx(4, rel=0.1)
    assert found.ratio.low <= found.ratio.value <= found.ratio.high
    parts = headline(result, "overtakes_with_data").parts
    assert any("images of ViT over ResNet at equal error" in part.what for part in parts)
