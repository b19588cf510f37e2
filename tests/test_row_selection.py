"""Which rows make a curve over compute: best recipe, data sizes of all families, frontier; one rule for all families."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from claim_rows import SIZES, frame, judged, row, study_with
from conftest import ROOT

from orchestrator.spec.claims import Claims
from orchestrator.verdicts import findings
from orchestrator.verdicts.evidence import Evidence, gather
from orchestrator.verdicts.recipe_choice import split_recipe
from orchestrator.verdicts.row_selection import envelope
from orchestrator.verdicts.views import views

FLOPS = np.geomspace(1e15, 1e18, 6)
PARAMS = {"vit": "S/16", "resnet": "R1"}


def evidence(rows: list[dict[str, Any]], **claims: Any) -> Evidence:
    table, given = frame(rows), Claims(**claims)
    return gather(table, views(table, given, {})[0], given)


def swept(family: str, rates: dict[str, float], seed: int = 0) -> list[dict[str, Any]]:
    """Six models of a family, each with every learning rate; the values are the rates' penalties."""
    random = np.random.default_rng(seed)
    return [
        {**row(family, PARAMS[family], 64000, 0.4 * (f / 1e15) ** -0.1 * math.exp(penalty + 0.01 * random.standard_normal()))}
        | {"variant": f"m{i} lr={rate}", "pretrain_flops": f, "run_id": f"{family} {i} {rate}"}
        for i, f in enumerate(FLOPS)
        for rate, penalty in rates.items()
    ]


@pytest.mark.parametrize(
    ("variant", "recipe", "expected"),
    [
        ("B/16", "", ("B/16", "")),
        ("vit0 lr=1e-3", "", ("vit0", "lr=1e-3")),
        ("B/16 lr=0.001 weight_decay=0.1 masked", "lr=0.001 weight_decay=0.1", ("B/16 masked", "lr=0.001 weight_decay=0.1")),
        ("B/16", "long", ("B/16", "long")),
    ],
)
def test_a_variant_is_a_model_and_a_recipe(variant: str, recipe: str, expected: tuple[str, str]) -> None:
    assert split_recipe(variant, recipe) == expected


def test_a_sweep_of_recipes_is_one_curve_of_the_best_ones() -> None:
    """Families that are identical at their best rate; the rates hurt one of them more. An edge of a sweep is named."""
    rows = swept("vit", {"1e-4": 0.3, "1e-3": 0.0, "1e-2": 0.3}) + swept("resnet", {"1e-3": 0.0, "1e-2": 0.05}, seed=1)
    known = evidence(rows)
    assert {(p.family, p.recipe) for p in known.points} == {("vit", "lr=1e-3"), ("resnet", "lr=1e-3")}
    assert len(known.points) == 12
    assert {left.reason for left in known.left_out} == {"lr=1e-3 is better"}
    assert len(known.left_out) == 18
    assert any("ResNet: the best lr is at the edge of its sweep for 6 of 6 points" in note for note in known.notes)
    assert any(note.startswith("swept unequally") for note in known.notes)
    claim = judged(rows, "less_compute", form="M1")
    assert claim.number.low < 1 < claim.number.high
    assert "another recipe is better" in claim.method


def test_the_best_of_several_equal_recipes_is_corrected_for_luck() -> None:
    """Three runs that differ in noise only: the best is 0.85 standard deviations too good, on average."""
    random = np.random.default_rng(0)
    rows = [
        {**row("vit", "S/16", 64000, 0.3 * math.exp(0.03 * random.standard_normal())), "variant": f"m{i} lr={rate}"}
        | {"pretrain_flops": 1e15 * (i + 1), "run_id": f"{i} {rate}"}
        for i in range(30)
        for rate in (1, 2, 3)
    ]
    points = evidence(rows, seed_spread=0.03).points
    corrected = np.mean([math.log(p.error) + p.optimism for p in points])
    assert np.mean([p.optimism for p in points]) == pytest.approx(0.85 * 0.03, rel=0.2)
    assert corrected == pytest.approx(math.log(0.3), abs=0.01)


def grid(family: str, params: np.ndarray, sizes: list[int], failed: int = -1) -> list[dict[str, Any]]:
    rows = [
        {**row(family, PARAMS[family], d, 0.05 + 0.1 * (n / 1e6) ** -0.3 + 0.5 * (d / 1000) ** -0.3), "variant": f"{n:.3g}"}
        | {"pretrain_flops": 6.0 * n * d, "run_id": f"{family} {n} {d}"}
        for n in params
        for d in sizes
    ]
    return [r for i, r in enumerate(rows) if i != failed]


def test_all_families_have_the_same_rule() -> None:
    """Four models against three, or one failed run: no family falls back to another rule, and the ratio stays at 1."""
    four, three = np.geomspace(1e6, 3e7, 4), np.geomspace(1e6, 3e7, 3)
    for rows in (
        grid("vit", four, SIZES) + grid("resnet", three, SIZES),
        grid("vit", four, SIZES) + grid("resnet", four, SIZES),
        grid("vit", four, SIZES) + grid("resnet", four, SIZES, failed=15),
    ):
        known = evidence(rows)
        assert known.over_compute.rule == "frontier of each family"
        assert {len({p.dataset_size for p in curve}) for curve in known.over_compute.curves.values()} == {4}
        claim = judged(rows, "less_compute", form="M2")
        assert claim.number.value == pytest.approx(1, rel=0.2)
        assert "frontier of each family" in claim.method


def test_only_data_sizes_that_all_families_have_are_compared() -> None:
    four = np.geomspace(1e6, 3e7, 4)
    known = evidence(grid("vit", four, [250, *SIZES]) + grid("resnet", four, SIZES[-1:]))
    assert known.over_compute.rule == "rows on 64k images, which all families have"
    reasons = [left.reason for left in known.over_compute.left_out]
    assert reasons == ["the other families have no such data size"] * 16


def test_a_step_that_leaves_a_family_without_a_curve_is_omitted_for_all() -> None:
    apart = evidence(grid("vit", np.array([1e6]), SIZES) + grid("resnet", np.array([1e6]), [n * 256 for n in SIZES]))
    assert {name: len(curve) for name, curve in apart.over_compute.curves.items()} == {"vit": 4, "resnet": 4}


def test_rows_left_out_are_listed_with_their_reasons() -> None:
    rows = swept("vit", {"1e-4": 0.3, "1e-3": 0.0})
    (rule,) = findings.as_data(findings.findings(frame(rows), study_with()))["rows"]
    assert rule["view"] == "t"
    assert [left["reason"] for left in rule["left_out"]] == ["lr=1e-3 is better"] * 6


def test_the_envelope_is_convex_and_below_all_points() -> None:
    random = np.random.default_rng(0)
    x, y = random.uniform(0, 5, 40), random.uniform(0, 1, 40)
    below = envelope(x, y)
    order = np.argsort(x)
    falling = order[: int(np.argmin(y[order])) + 1]
    assert (below <= y + 1e-12).all()
    slopes = np.diff(below[falling]) / np.diff(x[falling])
    assert (np.diff(slopes[1:]) >= -1e-9).all()


def test_ratios_of_simulated_tables_contain_the_truth_and_get_narrower_with_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A light run of bench/law_simulator.py (docs/laws.md has the figures over 200 tables)."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    law_simulator = import_module("law_simulator")
    for kind in law_simulator.KINDS:
        cases = [law_simulator.table(kind, seed) for seed in range(12)]
        found = [low <= case.truth <= high for case in cases for _, low, high in [law_simulator.judged(case)]]
        assert sum(found) >= 9, kind
    widths = []
    for models in (6, 12, 48):
        ends = [law_simulator.judged(law_simulator.table("runs", seed, models=models)) for seed in range(6)]
        widths.append(np.median([high / low for _, low, high in ends]))
    assert widths[0] > widths[1] > widths[2]
