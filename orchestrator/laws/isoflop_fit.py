"""IsoFLOP analysis: the best model size for each compute budget, and its power law in compute. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws.points import LawError
from orchestrator.laws.tolerance import ROUNDING, count_distinct, group_numbers

MIN_SIZES = 3  # of an IsoFLOP curve
SAME_COMPUTE = 0.01  # relative difference of equal budgets: a run of whole steps misses its budget by up to a step
FLAT_CURVATURE = 1e-9  # change of log error over half the range of sizes; a smaller one is rounding


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The best size at one compute, from a parabola in log size; valid only inside the range of the measured sizes."""

    state: Literal["interior", "edge", "no minimum", "too few sizes"]
    size: float
    error: float


def isoflop_minimum(size: ArrayLike, error: ArrayLike) -> Minimum:
    """The minimum error along one IsoFLOP curve, by a parabola through log error over log size.

    "edge": the best run or the vertex of the parabola is at or beyond the smallest or largest size, so the best size was not
    measured; "no minimum": the parabola opens downwards or is flat. Numbers are nan unless the minimum is interior.
    """
    sizes, errors = np.asarray(size, dtype=float), np.asarray(error, dtype=float)
    nothing = {"size": float("nan"), "error": float("nan")}
    if count_distinct(sizes) < MIN_SIZES:
        return Minimum(state="too few sizes", **nothing)
    u, v = np.log(sizes), np.log(errors)
    curvature, slope, level = np.polyfit(u - u.mean(), v, 2)
    if curvature * (np.ptp(u) / 2) ** 2 <= FLAT_CURVATURE:
        return Minimum(state="no minimum", **nothing)
    vertex = -slope / (2 * curvature)
    best = sizes[np.argmin(errors)]
    at_end = np.isclose(best, [sizes.min(), sizes.max()], rtol=ROUNDING, atol=0).any()
    if not u.min() < vertex + u.mean() < u.max() or at_end:
        return Minimum(state="edge", **nothing)
    return Minimum(state="interior", size=float(np.exp(vertex + u.mean())), error=float(np.exp(level + slope * vertex / 2)))


@dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """Best size against compute: size = factor * compute^exponent through the interior minima; nan with fewer than two."""

    minima: Mapping[float, Minimum]
    exponent: float
    factor: float


def isoflop(compute: ArrayLike, size: ArrayLike, error: ArrayLike) -> IsoFlop:
    """The minimum of every IsoFLOP curve and the power law through the interior ones.

    Rows whose compute (FLOPs) is equal within 1% form a curve; its key in `minima` is their median compute. Raises LawError
    for values that are not positive.
    """
    c, n, y = (np.asarray(values, dtype=float) for values in (compute, size, error))
    if not ((c > 0).all() and (n > 0).all() and (y > 0).all()):
        raise LawError("compute, size or error is not positive", reason="not positive", allowed="numbers above 0")
    budgets = group_numbers(c, SAME_COMPUTE)
    groups = [budgets == number for number in np.unique(budgets)]
    minima = {float(np.median(c[group])): isoflop_minimum(n[group], y[group]) for group in groups}
    interior = [(value, minimum.size) for value, minimum in minima.items() if minimum.state == "interior"]
    if len(interior) < 2:
        return IsoFlop(minima=minima, exponent=float("nan"), factor=float("nan"))
    logs = np.log(np.array(interior))
    exponent, offset = np.polyfit(logs[:, 0], logs[:, 1], 1)
    return IsoFlop(minima=minima, exponent=float(exponent), factor=float(np.exp(offset)))
