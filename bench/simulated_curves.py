"""Learning curves from a prior over shapes: to choose the settings of `auto` without looking at a benchmark.

A curve falls from a chance level, bends upwards or downwards at random places, and ends at a floor that may be zero. Its points
have noise that may be correlated; half of the curves are turned into monotone envelopes, as published curves often are. The
points ahead have noise as well. Every number is drawn from the ranges below; none was fitted to the curves in bench/data.

    python bench/simulated_curves.py [--curves 600]

prints the mean RMSE of log error ahead, against the law behind the points, of `auto` and of each form that it averages.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator import laws

Array = NDArray[np.float64]

SIZES = (6, 60)  # points to fit, log-uniform
NOISE = (0.002, 0.05)  # standard deviation of log error, log-uniform
SPAN = (6.0, 600.0)  # largest over smallest fitted x, log-uniform
AHEAD = (2.0, 10.0)  # largest x ahead over largest fitted x
POINTS_AHEAD = 12


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A curve to fit, the points ahead as measured, and the law behind them."""

    x: Array
    y: Array
    x_ahead: Array
    y_ahead: Array
    truth_ahead: Array


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _shape(random: np.random.Generator, span: float) -> tuple[float, ...]:
    """Exponent, place and strength of a bend, place of the fall from chance, floor: x is 1 at the largest fitted point."""
    exponent = _log_uniform(random, 0.1, 1.2)
    bend_at, bend = _log_uniform(random, 1 / span, 10.0), float(random.choice([0.0, 1.0])) * random.normal(0.0, 0.35)
    start = _log_uniform(random, 0.1 / span, 10 / span) if random.random() < 0.6 else 0.0
    floor = float(random.choice([0.0, 1.0], p=[0.35, 0.65])) * random.uniform(0.0, 0.8)
    return exponent, bend_at, bend, start, floor


def _error(x: Array, shape: tuple[float, ...]) -> Array:
    exponent, bend_at, bend, start, floor = shape
    slope_after = max(exponent + bend * exponent, 0.02)
    fall = -exponent * np.log(x + start) - (slope_after - exponent) * np.logaddexp(0.0, np.log((x + start) / bend_at))
    at_one = -exponent * np.log(1 + start) - (slope_after - exponent) * np.logaddexp(0.0, np.log((1 + start) / bend_at))
    return np.asarray(0.3 * (floor + (1 - floor) * np.exp(fall - at_one)))


def _noise(random: np.random.Generator, count: int) -> Array:
    """Noise of variance 1: independent, or autoregressive with a correlation of up to 0.8."""
    correlation = random.uniform(0.2, 0.8) if random.random() < 0.5 else 0.0
    values = random.standard_normal(count)
    for i in range(1, count):
        values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * values[i]
    return values


def simulate(random: np.random.Generator, sizes: tuple[int, int] = SIZES) -> Simulated:
    """One curve; x is spaced evenly, or in powers, or at random powers."""
    count = round(_log_uniform(random, *sizes))
    span, ahead = _log_uniform(random, *SPAN), AHEAD[0] if random.random() < 0.5 else _log_uniform(random, *AHEAD)
    kind = random.integers(3)
    if kind == 0:
        x = np.linspace(1 / span, 1, count)
    elif kind == 1:
        x = np.geomspace(1 / span, 1, count)
    else:
        x = np.concatenate([[1 / span], np.sort(span ** -random.uniform(0, 1, count - 2)), [1.0]])
    x_ahead = np.geomspace(1.0, ahead, POINTS_AHEAD + 1)[1:]
    shape, size = _shape(random, span), _log_uniform(random, *NOISE)
    noise = size * _noise(random, count + POINTS_AHEAD)
    y, truth = _error(x, shape) * np.exp(noise[:count]), _error(x_ahead, shape)
    if random.random() < 0.5:
        y = np.minimum.accumulate(y)
    return Simulated(x=1e6 * x, y=y, x_ahead=1e6 * x_ahead, y_ahead=truth * np.exp(noise[count:]), truth_ahead=truth)


def errors(curve: Simulated) -> dict[str, float]:
    """RMSE of log error ahead (at most 1) of `auto`, and of every form and growth that fits the curve. Raises LawError."""
    found = {"auto": laws.fit(curve.x, curve.y)}
    for form in ("M2", "M3", "zhai"):
        for growth in (0.0, 1.0, 2.0):
            found[form + (f" x^{growth:g}" if growth else "")] = laws.fit(curve.x, curve.y, form, growth=growth)
    misses = {name: np.log(law.predict(curve.x_ahead) / curve.truth_ahead) for name, law in found.items()}
    return {name: min(float(np.sqrt(np.mean(miss**2))), 1.0) for name, miss in misses.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--curves", type=int, default=600)
    random, scores = np.random.default_rng(1), defaultdict(list)
    for _ in range(parser.parse_args().curves):
        try:
            found = errors(simulate(random))
        except laws.LawError:
            continue
        for name, error in found.items():
            scores[name].append(error)
    for name, values in scores.items():
        print(f"{name:9} {np.mean(values):.4f}  ({len(values)} curves)")


if __name__ == "__main__":
    main()
