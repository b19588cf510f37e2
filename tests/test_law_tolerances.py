"""Limits of laws are compared with a tolerance: numbers that differ only by rounding give the same answer."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from orchestrator import laws
from orchestrator.laws.crossings import last_crossing
from orchestrator.laws.points import check_points
from orchestrator.laws.tables import fit_groups
from orchestrator.laws.tolerance import count_distinct, group_numbers
from orchestrator.laws.weights import growing_weights

X = np.geomspace(1, 1e3, 8)


def rounded(x: np.ndarray, error: float, seed: int = 7) -> np.ndarray:
    """x with relative errors of at most `error`."""
    return x * (1 + error * np.random.default_rng(seed).uniform(-1, 1, x.shape))


def test_numbers_are_grouped_by_relative_difference() -> None:
    assert group_numbers([3.0, 1.0, 3.0 * (1 + 1e-9), 2.0, 1.0]).tolist() == [2, 0, 2, 1, 0]
    assert group_numbers([1.0, 1.006, 1.012, 1.018], 0.01).tolist() == [0, 0, 1, 1], "a group does not grow without limit"
    assert group_numbers([[1.0, 5.0], [1.0, 6.0], [1.0 + 1e-9, 5.0]]).tolist() == [0, 1, 0]
    assert count_distinct([]) == 0


@pytest.mark.parametrize(("span", "is_short"), [(10.0, False), (9.99, False), (9.8, False), (9.7, True), (3.95, True)])
def test_a_range_just_below_a_decade_is_a_decade(span: float, is_short: bool) -> None:
    x = np.geomspace(1, span, 8)
    law = laws.fit(x, 0.5 * x**-0.3, "M1")
    assert law.params["c"] == pytest.approx(0.3, abs=0.01)
    assert law.diagnostics.short_range == is_short


def test_a_range_below_a_factor_of_four_is_refused() -> None:
    x = np.geomspace(1, 3.9, 8)
    with pytest.raises(laws.LawError, match=r"factor of 3\.9") as refusal:
        laws.fit(x, 0.5 * x**-0.3, "M1")
    assert refusal.value.reason == "too narrow"


def test_x_that_differ_by_rounding_are_one_x() -> None:
    three = rounded(np.repeat(X[[0, 4, 7]], 5), 1e-9)
    with pytest.raises(laws.LawError, match="3 distinct x") as refusal:
        laws.fit(three, np.repeat([0.5, 0.3, 0.2], 5))
    assert refusal.value.reason == "too few points"
    seeds = check_points(rounded(np.repeat(X, 5), 1e-9), np.repeat(np.geomspace(0.9, 0.1, 8), 5))
    assert growing_weights(seeds, 3)[1] == 0.0, "eight sizes are too few for growing weights"
    errors = 0.2 * np.exp(0.05 * np.random.default_rng(0).standard_normal(4000))
    assert laws.seed_spread(rounded(np.repeat(np.arange(1.0, 1001), 4), 1e-9), errors) == pytest.approx(0.05, rel=0.05)


def test_rollout_cuts_do_not_depend_on_rounding() -> None:
    x = np.array([1, 2, 4, 8, 16, 30, 50, 60, 100.0])
    off = x * np.where(x == 50, 1 + 1e-6, 1.0)  # 50 is the cut at half of the largest x
    cuts = [laws.fit(values, 0.5 * x**-0.3, "M1").diagnostics.rollout.cuts for values in (x, off)]
    assert cuts == [3, 3]


def test_a_prediction_band_at_the_largest_x_does_not_depend_on_rounding() -> None:
    x = np.geomspace(1e6, 1e9, 24)
    law = laws.fit(x, 90 * x**-0.4 + 0.05, "M1")  # a wrong form: its roll-out error is larger than the noise
    end = law.x_range[1]
    inside, at_end, beyond = (law.interval([x], 0.9, "prediction")[:, 0] for x in (end, end * (1 + 1e-9), end * 1.01))
    assert at_end == pytest.approx(inside, rel=1e-6)
    assert np.diff(np.log(beyond))[0] > 1.05 * np.diff(np.log(inside))[0]


def test_an_error_may_exceed_the_chance_level_by_noise() -> None:
    x = np.geomspace(1, 1e4, 20)
    y = 0.9 / (1 + 0.02 * x**0.5)
    y[0] = 0.9 * 1.004
    assert laws.fit(x, y, "M4", chance=0.9).params["chance"] == pytest.approx(0.9)
    y[0] = 0.95
    with pytest.raises(laws.LawError, match=r"error 0\.95 is above the chance level 0\.9"):
        laws.fit(x, y, "M4", chance=0.9)


def test_equal_compute_on_a_front_is_equal_up_to_rounding() -> None:
    _, y = laws.pareto([1, 2 * (1 - 1e-12), 2, 3], [0.5, 0.4, 0.3, 0.2])
    assert y.tolist() == [0.5, 0.3, 0.2]


def test_an_isoflop_curve_holds_runs_that_miss_their_budget_by_a_step() -> None:
    sizes, budgets = np.geomspace(1e6, 1e9, 9), np.geomspace(1e17, 1e20, 4)
    rows = [(c, n, 0.2 * math.exp(0.02 * math.log(n / (0.1 * c**0.45)) ** 2)) for c in budgets for n in sizes]
    compute, size, error = (np.array(column) for column in zip(*rows, strict=True))
    result = laws.isoflop(rounded(compute, 0.004), size, error)
    assert list(result.minima) == pytest.approx(budgets, rel=0.004)
    assert {minimum.state for minimum in result.minima.values()} == {"interior"}
    assert result.exponent == pytest.approx(0.45, abs=0.01)


def test_isoflop_states_do_not_depend_on_rounding() -> None:
    sizes = np.repeat(np.geomspace(1e6, 1e8, 5), 2)
    sizes[0] *= 1 - 1e-9  # the other of two seeds of the smallest size has the least error
    errors = np.array([0.30, 0.1, 0.21, 0.21, 0.2, 0.2, 0.21, 0.21, 0.3, 0.3])
    assert laws.isoflop_minimum(sizes, errors).state == "edge"
    assert laws.isoflop_minimum([1e6, 1e6 * (1 + 1e-9), 1e7], [0.2, 0.2, 0.1]).state == "too few sizes"
    flat = np.array([0.2, 0.2, 0.2 * (1 - 1e-12), 0.2, 0.2])
    assert laws.isoflop_minimum(sizes[::2], flat).state == "no minimum"


def test_laws_that_are_equal_at_a_sampled_x_cross_there() -> None:
    line = np.array([1.0, 2.0, 4.0, 8.0])
    assert last_crossing(np.array([[2.0, 1.0, 0.0, -1.0]]), line)[0] == pytest.approx(4.0)
    assert math.isnan(last_crossing(np.array([[2.0, 1.0, 0.0, 1.0]]), line)[0]), "they touch and do not cross"


def test_rows_are_grouped_by_numbers_that_are_equal_up_to_rounding() -> None:
    rows = [{"rate": rate * (1 + 1e-12 * i), "x": x, "y": 0.5 * x**-rate} for rate in (0.2, 0.3) for i, x in enumerate(X)]
    groups = fit_groups(pd.DataFrame(rows), x="x", y="y", form="M1", by=["rate"])
    assert [group.keys["rate"] for group in groups] == ["0.2", "0.3"]
    assert all(group.law for group in groups)
