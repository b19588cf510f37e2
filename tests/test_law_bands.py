"""Intervals of scaling laws contain the truth as often as they claim, and points of one run count once."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT

from orchestrator import laws
from orchestrator.laws.render import parameter_intervals

X = np.geomspace(1, 1e3, 8)[:5]
TRIALS = 150


def noisy(y: np.ndarray, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    return y * np.exp(noise * np.random.default_rng(seed).standard_normal(y.shape))


def test_few_points_have_a_finite_band() -> None:
    law = laws.fit(X * [1, 1, 1, 1, 5], noisy(0.5 * X**-0.3))
    assert law.diagnostics.rollout.cuts <= 1
    low, high = law.interval([1.0, 1e4], 0.9, "prediction")
    assert np.isfinite([low, high]).all()
    assert (low < high).all()


def coverage(form: str, sizes: int, seeds: int) -> tuple[float, float]:
    """The share of 90% bands, of the law and of a new run, that contain the truth in the data and at twice the largest x."""
    random = np.random.default_rng(0)
    x = np.repeat(np.geomspace(1, 1e3, sizes), seeds)
    runs = [f"{size} {seed}" for size in range(sizes) for seed in range(seeds)]
    at = np.array([30.0, 300.0, 2000.0])
    truth = 0.9 * at**-0.4 + 0.1
    law_inside, run_inside = [], []
    for _ in range(TRIALS):
        y = (0.9 * x**-0.4 + 0.1) * np.exp(0.03 * random.standard_normal(len(x)))
        law = laws.fit(x, y, form, runs=runs)
        new = truth * np.exp(0.03 * random.standard_normal(3))
        for inside, value, kind in ((law_inside, truth, "confidence"), (run_inside, new, "prediction")):
            low, high = law.interval(at, 0.9, kind)  # type: ignore[arg-type]
            inside.append((low <= value) & (value <= high))
    return float(np.mean(law_inside)), float(np.mean(run_inside))


@pytest.mark.parametrize(("form", "sizes", "seeds"), [("M2", 12, 1), ("M2", 20, 1), ("M2", 8, 3), ("auto", 16, 1)])
def test_ninety_percent_bands_contain_ninety_percent(form: str, sizes: int, seeds: int) -> None:
    of_law, of_run = coverage(form, sizes, seeds)
    print(f"{form}, {sizes} sizes x {seeds} seeds: law {of_law:.3f}, new run {of_run:.3f} of 90% bands")
    assert 0.85 <= of_law <= 0.95
    assert 0.85 <= of_run <= 0.95


def test_points_of_one_run_count_as_one() -> None:
    random = np.random.default_rng(2)
    x = np.tile(np.geomspace(1, 1e3, 8), 6)
    runs = np.repeat(np.arange(6), 8)
    y = (0.9 * x**-0.4 + 0.1) * np.exp(0.05 * random.standard_normal(6)[runs] + 0.005 * random.standard_normal(48))
    by_point, by_run = laws.fit(x, y, "M2", growth=0.0), laws.fit(x, y, "M2", growth=0.0, runs=runs.tolist())
    width = [float(np.diff(np.log(law.interval([100.0])[:, 0]))[0]) for law in (by_point, by_run)]
    assert width[1] > 1.5 * width[0]


@pytest.mark.parametrize(("form", "points", "has_floor"), [("M2", 5, True), ("M2", 12, False), ("auto", 8, False)])
def test_ninety_percent_intervals_of_parameters_contain_ninety_percent(
    form: str, points: int, has_floor: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A light version of bench/law_coverage.py: 60 curves, so a share of 90% is measured as 82 to 98%."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    import law_coverage

    found = law_coverage.coverage(law_coverage.Setting(form=form, points=points, has_floor=has_floor), curves=60)
    print(form, points, has_floor, found)
    assert 0.8 <= found["exponent"] <= 1
    assert 0.8 <= found["floor"] <= 1
    assert found["estimate_inside"] == 1
    assert found["exponent_identified"] >= 0.9


@pytest.mark.parametrize("form", ["M1", "M2", "M3", "zhai", "auto"])
def test_the_estimate_is_inside_its_intervals(form: str) -> None:
    for seed in range(8):
        law = laws.fit(np.geomspace(1, 1e3, 8), noisy(0.5 * np.geomspace(1, 1e3, 8) ** -0.3, 0.03, seed), form)
        for name, (low, high) in parameter_intervals(law).items():
            assert low <= law.params[name] <= high
        at = np.array([3.0, 1e3, 1e4])
        low, high = law.interval(at)
        assert (low <= law.predict(at)).all()
        assert (law.predict(at) <= high).all()
