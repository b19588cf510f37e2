"""IsoFLOP analysis: the best model size for each compute budget, and its power law in compute. Pure functions of arrays.

Rows of about equal compute form a curve of error over size. Only a minimum inside the range of the measured sizes counts.
Intervals are from a parametric bootstrap with the residuals of all curves pooled, because one curve has few sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

from orchestrator.laws.points import Array, LawError
from orchestrator.laws.tolerance import ROUNDING, count_distinct

MIN_SIZES = 3  # of an IsoFLOP curve
SAME_COMPUTE = 0.1  # budgets within this share of the smallest are one: runs of whole steps and published tables scatter
FLAT_CURVATURE = 1e-9  # change of log error over half the range of sizes; a smaller one is rounding
DRAWS = 1000
SEED = 20221
Interval = tuple[float, float]
UNKNOWN = (float("nan"), float("nan"))


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The best size at one compute, from a parabola in log size; valid only inside the range of the measured sizes."""

    state: Literal["interior", "edge", "no minimum", "too few sizes"]
    size: float = float("nan")
    error: float = float("nan")
    interval: Interval = UNKNOWN  # of the size, at 90%
    rows: int = 0


@dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """Best size against compute: size = factor * compute^exponent through the interior minima; nan with fewer than two.

    Intervals (90%) are nan if no curve has more rows than its parabola has parameters. noise is the standard deviation of
    log error about the parabolas.
    """

    minima: Mapping[float, Minimum]
    exponent: float
    factor: float
    exponent_interval: Interval = UNKNOWN
    noise: float = float("nan")


def isoflop_minimum(size: ArrayLike, error: ArrayLike) -> Minimum:
    """The minimum error along one IsoFLOP curve, by a parabola through log error over log size.

    "edge": the best run or the vertex of the parabola is at or beyond the smallest or largest size, so the best size was not
    measured; "no minimum": the parabola opens downwards or is flat. Numbers are nan unless the minimum is interior.
    """
    sizes, errors = np.asarray(size, dtype=float), np.asarray(error, dtype=float)
    if count_distinct(sizes) < MIN_SIZES:
        return Minimum(state="too few sizes", rows=len(sizes))
    u, v = np.log(sizes), np.log(errors)
    curvature, slope, level = np.polyfit(u - u.mean(), v, 2)
    if curvature * (np.ptp(u) / 2) ** 2 <= FLAT_CURVATURE:
        return Minimum(state="no minimum", rows=len(sizes))
    vertex = -slope / (2 * curvature)
    best = sizes[np.argmin(errors)]
    at_end = np.isclose(best, [sizes.min(), sizes.max()], rtol=ROUNDING, atol=0).any()
    if not u.min() < vertex + u.mean() < u.max() or at_end:
        return Minimum(state="edge", rows=len(sizes))
    return Minimum(
        state="interior",
        size=float(np.exp(vertex + u.mean())),
        error=float(np.exp(level + slope * vertex / 2)),
        rows=len(sizes),
    )


def isoflop(compute: ArrayLike, size: ArrayLike, error: ArrayLike, tolerance: float = SAME_COMPUTE) -> IsoFlop:
    """The minimum of every IsoFLOP curve and the power law through the interior ones.

    Rows whose compute (FLOPs) is equal within `tolerance` form a curve; its key in `minima` is their median compute, to which
    their errors are adjusted by the common trend of log error in log compute. Raises LawError for values that are not
    positive, or a tolerance that is not between 0 and 1.
    """
    c, n, y = (np.asarray(values, dtype=float) for values in (compute, size, error))
    if not ((c > 0).all() and (n > 0).all() and (y > 0).all()):
        raise LawError("compute, size or error is not positive", reason="not positive", allowed="numbers above 0")
    if not 0 < tolerance < 1:
        raise LawError(f"invalid tolerance {tolerance:g}", reason="bad input", allowed="between 0 and 1")
    bins = compute_bins(c, tolerance)
    groups = [bins == number for number in np.unique(bins)]
    adjusted = _at_median_compute(c, n, y, groups)
    minima = {float(np.median(c[group])): isoflop_minimum(n[group], adjusted[group]) for group in groups}
    curves = {
        at: (np.log(n[group]), np.log(adjusted[group]))
        for (at, minimum), group in zip(minima.items(), groups, strict=True)
        if minimum.state == "interior"
    }
    if len(curves) < 2:
        return IsoFlop(minima=minima, exponent=float("nan"), factor=float("nan"))
    exponent, offset = np.polyfit(np.log(list(curves)), np.log([minima[at].size for at in curves]), 1)
    law = IsoFlop(minima=minima, exponent=float(exponent), factor=float(np.exp(offset)))
    return _with_intervals(law, curves)


def compute_bins(compute: ArrayLike, tolerance: float) -> NDArray[np.int64]:
    """The bin (n,) of each row, numbered by ascending compute: the fullest window [c, c (1 + tolerance)] first.

    Windows that start at a row and end in the same row as others hold the same rows; so budgets that scatter about a nominal
    one stay together, whatever other rows lie between the budgets.
    """
    logs, width = np.log(np.asarray(compute, dtype=float)), np.log1p(tolerance) * (1 + 1e-12)
    bins, number, left = np.zeros(len(logs), dtype=np.int64), 0, np.argsort(logs, kind="stable")
    while len(left):
        ends = np.searchsorted(logs[left], logs[left] + width, side="right")
        first = int((ends - np.arange(len(left))).argmax())
        bins[left[first : ends[first]]] = number
        left, number = np.delete(left, np.s_[first : ends[first]]), number + 1
    order = np.argsort([np.median(logs[bins == k]) for k in range(number)], kind="stable")
    return np.asarray(np.argsort(order)[bins], dtype=np.int64)


def _at_median_compute(c: Array, n: Array, y: Array, groups: Sequence[NDArray[np.bool_]]) -> Array:
    """The errors at the median compute of their curve, by one trend for all curves; unchanged without spread in compute."""
    spread, rest = [], []
    for group in groups:
        if group.sum() > MIN_SIZES + 1 and count_distinct(n[group]) >= MIN_SIZES:
            curve = np.vander(np.log(n[group]) - np.log(n[group]).mean(), 3)
            logs = np.column_stack([np.log(c[group]), np.log(y[group])])
            about = logs - curve @ np.linalg.lstsq(curve, logs, rcond=None)[0]
            spread.append(about[:, 0])
            rest.append(about[:, 1])
    if not spread:
        return y
    x, z = np.concatenate(spread), np.concatenate(rest)
    slope = float(x @ z / (x @ x)) if x @ x > len(x) * ROUNDING**2 else 0.0
    adjusted = np.log(y)
    for group in groups:
        adjusted[group] -= min(slope, 0.0) * (np.log(c[group]) - np.log(np.median(c[group])))
    return np.asarray(np.exp(adjusted))


def _with_intervals(law: IsoFlop, curves: Mapping[float, tuple[Array, Array]]) -> IsoFlop:
    """The law with intervals: every interior curve is drawn again from its parabola with the pooled noise, and refitted.

    curves: log size and log error of each, by its key in `minima`.
    """
    designs = [np.vander(u - u.mean(), 3) for u, _ in curves.values()]
    fitted = [
        design @ np.linalg.lstsq(design, v, rcond=None)[0] for design, (_, v) in zip(designs, curves.values(), strict=True)
    ]
    squares = sum(float(((v - line) ** 2).sum()) for line, (_, v) in zip(fitted, curves.values(), strict=True))
    freedom = sum(len(v) - 3 for _, v in curves.values())
    if freedom < 1:
        return law
    noise = float(np.sqrt(squares / freedom))
    random, sizes = np.random.default_rng(SEED), []
    for design, line, (u, _) in zip(designs, fitted, curves.values(), strict=True):
        drawn = line[:, None] + noise * random.standard_normal((len(u), DRAWS))
        curvature, slope, _ = np.linalg.lstsq(design, drawn, rcond=None)[0]
        vertex = np.where(curvature > 0, -slope / (2 * np.where(curvature > 0, curvature, 1.0)), np.nan) + u.mean()
        sizes.append(np.where((vertex > u.min()) & (vertex < u.max()), vertex, np.nan))
    drawn_sizes = np.array(sizes)
    wider = float(student.ppf(0.95, freedom) / norm.ppf(0.95))
    minima = dict(law.minima)
    for at, draws in zip(curves, drawn_sizes, strict=True):
        low, high = _around(float(np.log(minima[at].size)), draws, wider)
        minima[at] = replace(minima[at], interval=(float(np.exp(low)), float(np.exp(high))))
    exponents = _slopes(np.log(list(curves)), drawn_sizes)
    return replace(law, minima=minima, exponent_interval=_around(law.exponent, exponents, wider), noise=noise)


def _slopes(x: Array, sizes: Array) -> Array:
    """The exponent of each draw (R,) through its interior minima; nan with fewer than two."""
    known = np.isfinite(sizes)
    count = known.sum(axis=0)
    mean_x = np.where(known, x[:, None], 0.0).sum(axis=0) / np.maximum(count, 1)
    about = np.where(known, x[:, None] - mean_x, 0.0)
    squares = (about**2).sum(axis=0)
    exponent = (about * np.where(known, sizes, 0.0)).sum(axis=0) / np.maximum(squares, 1e-12)
    return np.where((count > 1) & (squares > 0), exponent, np.nan)


def _around(value: float, draws: Array, wider: float) -> Interval:
    """The 90% interval from draws, which contains the value; unknown where a tenth of the draws have no minimum."""
    known = draws[np.isfinite(draws)]
    if len(known) < 0.9 * len(draws):
        return UNKNOWN
    low, high = np.quantile(known - value, [0.05, 0.95]) * wider
    return float(value + min(low, 0.0)), float(value + max(high, 0.0))
