"""Scaling laws: known parameters are recovered, unusable points are refused, forms are chosen by roll-out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import laws
from orchestrator.laws.points import check_points, trend
from orchestrator.laws.render import law_as_data, law_as_text
from orchestrator.laws.weights import effective_points, growing_weights

GRID = np.geomspace(1e6, 1e9, 24)
CURVES = ROOT / "bench" / "data" / "learning_curves.csv"


def noisy(y: np.ndarray, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    return y * np.exp(noise * np.random.default_rng(seed).standard_normal(y.shape))


def broken(x: np.ndarray) -> np.ndarray:
    return 0.05 + 40 * x**-0.3 * (1 + (x / 3e7) ** (1 / 0.3)) ** (-0.4 * 0.3)


KNOWN_LAWS = {
    "M1": (30 * GRID**-0.3, {"c": (0.3, 0.01), "a": (30, 5)}),
    "M2": (90 * GRID**-0.4 + 0.05, {"c": (0.4, 0.03), "e": (0.05, 0.01)}),
    "M3": (400 * (1 / GRID + 1e-8) ** 0.5, {"c": (0.5, 0.05), "gamma": (1e-8, 3e-9)}),
    "zhai": (900 * (GRID + 2e7) ** -0.45 + 0.05, {"c": (0.45, 0.1), "d": (2e7, 8e6), "e": (0.05, 0.03)}),
    "bnsl1": (broken(GRID), {"d1": (3e7, 2.5e7)}),
}


@pytest.mark.parametrize("form", KNOWN_LAWS)
def test_known_parameters_are_recovered(form: str) -> None:
    y, expected = KNOWN_LAWS[form]
    law = laws.fit(GRID, noisy(y, 0.003), form, growth=0.0)
    for name, (value, tolerance) in expected.items():
        assert law.params[name] == pytest.approx(value, abs=tolerance), f"{name} in {law.params}"
    assert law.diagnostics.converged
    assert law.predict(GRID) == pytest.approx(y, rel=0.02)


@pytest.mark.parametrize("form", ["M1", "M2", "M3", "zhai"])
def test_exact_points_are_followed_exactly(form: str) -> None:
    y = KNOWN_LAWS[form][0]
    assert laws.fit(GRID, y, form).predict(GRID) == pytest.approx(y, rel=1e-4)


def test_m4_solves_its_own_equation_and_keeps_the_chance_level() -> None:
    chance, alpha, floor = 0.99, 0.6, 0.1
    y = np.linspace(0.95, 0.2, 30)
    x = ((y - floor) / (chance - y) ** alpha / 5e3) ** (-1 / 0.5)
    law = laws.fit(x, noisy(y, 0.002), "M4", chance=chance, growth=0.0)
    p, predicted = law.params, law.predict(x)
    assert p["chance"] == pytest.approx(chance)
    assert (predicted - p["e"]) / (chance - predicted) ** p["alpha"] == pytest.approx(p["beta"] * x ** -p["c"], rel=1e-6)
    assert p["c"] == pytest.approx(0.5, abs=0.05)
    assert law.predict([1e-12])[0] <= chance
    with pytest.raises(laws.LawError, match="chance"):
        laws.fit(x, y, "M4", chance=0.5)


def test_two_columns() -> None:
    sizes, data = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e7, 1e10, 6)))
    truth = 1.7 + 400 * sizes**-0.34 + 410 * data**-0.28  # Hoffmann et al. 2022, approach 3
    law = laws.fit(np.column_stack([sizes, data]), noisy(truth, 0.002), "L(N,D)")
    assert law.params["a"] == pytest.approx(0.34, abs=0.03)
    assert law.params["b"] == pytest.approx(0.28, abs=0.03)
    assert law.params["E"] == pytest.approx(1.7, abs=0.15)
    low, high = law.interval([[1e9, 1e10]], 0.9, "prediction")
    assert low[0] < 1.7 + 400 * 1e9**-0.34 + 410 * 1e10**-0.28 < high[0]
    with pytest.raises(laws.LawError, match="inverted"):
        law.invert([2.0])


def test_families_share_an_asymptote() -> None:
    x = np.geomspace(1, 1e4, 10)
    rows = {"vit": (x, noisy(0.5 * x**-0.5 + 0.08, 0.02)), "resnet": (x, noisy(0.9 * x**-0.25 + 0.08, 0.02, seed=1))}
    shared = laws.fit_shared(rows)
    assert shared["vit"].params["e"] == pytest.approx(shared["resnet"].params["e"], rel=1e-9)
    assert shared["vit"].params["e"] == pytest.approx(0.08, abs=0.01)
    alone = laws.fit(*rows["resnet"], form="M2")
    width = {
        name: float(np.diff(np.log(law.interval([1e6]).ravel()))[0]) for name, law in (("s", shared["resnet"]), ("a", alone))
    }
    assert width["s"] < width["a"], "the data of one family on the floor narrow the band of the other"


def test_one_outlier_moves_a_huber_fit_less() -> None:
    y = 30 * GRID**-0.3
    y[11] *= 1.5
    squared, huber = (
        laws.fit(GRID, y, "M1", growth=0.0, loss=laws.Loss(kind=kind, delta=0.01)) for kind in ("squared", "huber")
    )
    assert abs(huber.params["c"] - 0.3) < abs(squared.params["c"] - 0.3) + 1e-9
    assert huber.params["a"] == pytest.approx(30, rel=0.02)


def test_an_asymmetric_loss_fits_the_lower_edge() -> None:
    y = noisy(30 * GRID**-0.3, 0.1)
    edge = laws.fit(GRID, y, "M1", growth=0.0, loss=laws.Loss(kind="asymmetric", tilt=0.05))
    assert np.mean(y < edge.predict(GRID)) < 0.35


X8 = np.geomspace(1, 1e3, 8)
REFUSED = {
    "three points": ((X8[[0, 4, 7]], [0.5, 0.3, 0.2]), "auto", "too few points"),
    "three points, M1": ((X8[[0, 4, 7]], [0.5, 0.3, 0.2]), "M1", "too few points"),
    "three sizes, many seeds": ((np.repeat(X8[[0, 4, 7]], 5), np.repeat([0.5, 0.3, 0.2], 5)), "auto", "too few points"),
    "four points, zhai": ((X8[:4], [0.5, 0.4, 0.3, 0.25]), "zhai", "too few points"),
    "under a factor of four": ((np.linspace(1, 3.8, 20), np.linspace(0.5, 0.3, 20)), "auto", "too narrow"),
    "zero error": ((X8, [0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01, 0.0]), "auto", "not positive"),
    "missing value": ((X8, [0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01, math.nan]), "auto", "not positive"),
    "rising": ((X8, X8**0.2), "auto", "rising"),
    "lengths": ((X8, X8[:5]), "auto", "bad input"),
    "misspelt form": ((X8, X8**-0.2), "M22", "bad input"),
    "one column for two": ((X8, X8**-0.2), "L(N,D)", "bad input"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    (x, y), form, reason = REFUSED[case]
    with pytest.raises(laws.LawError) as refusal:
        laws.fit(x, y, form)
    assert refusal.value.reason == reason


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_flat_curve_is_flat(noise: float) -> None:
    law = laws.fit(GRID, noisy(np.full(24, 0.3), noise, seed=3))
    assert law.form == "flat"
    assert law.diagnostics.trend == "flat"
    assert law.predict([1e12])[0] == pytest.approx(0.3, rel=0.02)
    assert law.invert([0.2, 0.4]).tolist() == [math.inf, 0.0]
    assert laws.fit(GRID, noisy(np.full(24, 0.3), noise, seed=3), "M1").diagnostics.trend == "flat"


def test_a_flat_curve_has_a_trend_in_at_most_one_of_ten_samples() -> None:
    wrong = [trend(check_points(GRID, noisy(np.full(24, 0.3), 0.05, seed=seed))) != "flat" for seed in range(200)]
    assert np.mean(wrong) <= 0.15, "5% on either side"


def test_diagnostics_name_parameters_that_the_data_do_not_determine() -> None:
    law = laws.fit(GRID, noisy(30 * GRID**-0.3, seed=2), "M2", growth=0.0)
    assert "e" in law.diagnostics.bounds_hit + law.diagnostics.unidentified, "a pure power law has no floor"
    clear = laws.fit(GRID, noisy(90 * GRID**-0.4 + 0.05, 0.002), "M2").diagnostics
    assert clear.bounds_hit == clear.unidentified == ()
    assert clear.agreeing_starts >= 1
    assert clear.rollout.cuts == 3
    assert clear.rollout.rmse < 0.02
    assert clear.noise == pytest.approx(0.002, rel=0.6)


def test_auto_averages_forms_by_rollout_and_has_the_parameters_of_one() -> None:
    law = laws.fit(GRID, noisy(90 * GRID**-0.4 + 0.05, 0.002))
    found = law.diagnostics
    assert {label.split()[0] for label in found.candidates} == {"M2", "M3", "zhai"}
    assert sum(found.weights.values()) == pytest.approx(1)
    ordered = sorted(found.candidates, key=lambda label: found.candidates[label])
    assert found.weights[ordered[0]] > found.weights.get(ordered[-1], 0.0)
    assert law.form == "M2"
    assert law.params["c"] == pytest.approx(0.4, abs=0.02)
    assert law.predict([2e9])[0] == pytest.approx(90 * 2e9**-0.4 + 0.05, rel=0.02)
    assert law.invert(law.predict([3e7, 2e9])) == pytest.approx([3e7, 2e9], rel=1e-6)


@pytest.mark.parametrize("form", ["M2", "auto"])
def test_a_floor_at_zero_is_left_out(form: str) -> None:
    law = laws.fit(GRID, noisy(30 * GRID**-0.3, seed=4), form)
    assert law.form == "M1"
    assert set(law.params) == {"a", "c"}
    assert law.is_floor_left_out
    assert "allow for one" in law_as_text(law)


def test_four_points_over_a_factor_of_four_have_a_law_marked_as_short() -> None:
    law = laws.fit([1.0, 1.6, 2.5, 4.0], [0.5, 0.43, 0.37, 0.32])
    assert law.diagnostics.short_range
    assert "less than a decade" in law_as_text(law)
    assert not laws.fit([1.0, 2, 5, 10], [0.5, 0.4, 0.3, 0.25], "M1").diagnostics.short_range


def test_an_unidentified_parameter_is_named_and_has_no_numbers() -> None:
    law = laws.fit(np.geomspace(1e8, 5e8, 5), noisy(2 * np.geomspace(1e8, 5e8, 5) ** -0.1, 0.05, seed=1), "M2")
    data, text = law_as_data(law), law_as_text(law)
    assert "a" in data["unidentified"]
    assert not data["params"]["a"]["identified"]
    assert "not identified" in text
    assert "e+" not in text.split("roll-out")[0], text


def test_weights_grow_as_fast_as_the_number_of_points_allows() -> None:
    many, few = (check_points(np.geomspace(1, 1e3, n), np.geomspace(0.9, 0.1, n)) for n in (120, 8))
    weights, growth = growing_weights(many, 3)
    assert growth == 2.0
    assert effective_points(weights) >= 12
    assert growing_weights(few, 3)[1] == 0.0
    seeds = check_points(np.repeat(few.x, 5), np.repeat(few.y, 5))
    assert growing_weights(seeds, 3)[1] == 0.0, "more seeds are not more sizes"


def test_noise_weights() -> None:
    weights = laws.noise_weights([0.5, 0.1, 0.01], 10_000)
    assert weights == pytest.approx([10_000, 1111.1, 101.01], rel=1e-3)
    assert laws.noise_weights([0.5], 10**9, seed_spread=0.1)[0] == pytest.approx(100, rel=1e-3)
    seeds = noisy(np.full(4000, 0.2), 0.05)
    assert laws.seed_spread(np.repeat(np.arange(1000), 4), seeds) == pytest.approx(0.05, rel=0.05)
    assert math.isnan(laws.seed_spread([1, 2, 3], [0.3, 0.2, 0.1]))


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 1.0), st.floats(0.0, 0.3), st.sampled_from(["M1", "M2", "M3", "zhai"]))
def test_predictions_fall_and_invert_is_the_inverse_of_predict(exponent: float, floor: float, form: str) -> None:
    x = np.geomspace(1, 1e4, 12)
    law = laws.fit(x, noisy(0.7 * x**-exponent + floor + 1e-4, 0.01), form)
    line = np.geomspace(0.1, 1e5, 50)
    y = law.predict(line)
    assert (np.diff(y) <= 1e-12).all()
    steep = -np.gradient(np.log(y), np.log(line)) > 1e-4
    assert law.invert(y)[steep] == pytest.approx(line[steep], rel=1e-3)


def test_errors_below_the_floor_are_never_reached() -> None:
    law = laws.fit(GRID, 90 * GRID**-0.4 + 0.05, "M2")
    assert law.invert([0.04, 0.06])[0] == math.inf
    assert math.isfinite(law.invert([0.06])[0])


def test_the_same_rows_give_the_same_law_in_any_order() -> None:
    y = noisy(90 * GRID**-0.4 + 0.05, 0.02)
    order = np.random.default_rng(5).permutation(len(GRID))
    one, two = laws.fit(GRID, y), laws.fit(GRID[order], y[order])
    assert one.params == two.params
    assert one.diagnostics == two.diagnostics
    assert (one.interval([1e10]) == two.interval([1e10])).all()


def test_units_of_x_do_not_matter() -> None:
    y = noisy(90 * GRID**-0.4 + 0.05, 0.02)
    assert laws.fit(GRID * 1e12, y).predict([1e22]) == pytest.approx(laws.fit(GRID, y).predict([1e10]), rel=1e-4)


def test_learning_curves_are_extrapolated() -> None:
    """The 36 curves of bench/laws.py: mean RMSE of log error on their second halves."""
    frame = pd.read_csv(CURVES).sort_values(["Task", "Model", "Seen Examples"], kind="stable")
    errors = []
    for _, curve in frame.groupby(["Task", "Model"]):
        past, ahead = (curve[curve["Training"] == flag] for flag in (1, 0))
        law = laws.fit(past["Seen Examples"], past["Loss"])
        errors.append(float(np.sqrt(np.mean((np.log(law.predict(ahead["Seen Examples"])) - np.log(ahead["Loss"])) ** 2))))
    assert np.mean(errors) <= 0.028
