"""The data points of one scaling curve: validation, and the test for a trend. Raises LawError where no law can be fitted.

Pure functions of arrays. x is data, compute or model size (one column, or two for L(N, D)); y is an error in any unit. Does
not know the forms of laws or how they are fitted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from orchestrator.laws.tolerance import count_distinct
from vitmodel.config.base import UserError

Array: TypeAlias = NDArray[np.float64]
Reason = Literal["too few points", "too narrow", "not positive", "rising", "bad input", "no solution"]

MIN_POINTS = 4  # every form has a curve through three points
MIN_FACTOR = 4.0  # of the range of x
SHORT_FACTOR = 10.0  # a curve below a decade is fitted, and marked as short
FACTOR_TOLERANCE = 0.0225  # relative: sizes and budgets are rounded, so a factor of 10 may be measured as 9.78
FLAT_CHANGE = 0.01  # a curve whose log error changes by less over its whole range is flat
FLAT_SIGNIFICANCE = 0.05  # of the one-sided test for a trend


class LawError(UserError):
    """No scaling law can be fitted to these points, or the law cannot answer. `reason` is a fixed string for code to test."""

    def __init__(self, message: str, *, reason: Reason, allowed: str = "") -> None:
        self.reason = reason
        super().__init__(message, field="laws", allowed=allowed)


@dataclass(frozen=True, kw_only=True)
class Points:
    """A curve, sorted by x: x (n,) or (n, 2), y (n,), the precision of each log error, and the run of each point."""

    x: Array
    y: Array
    weights: Array
    runs: NDArray[np.int64] | None

    @property
    def first(self) -> Array:
        """The axis (n,) of roll-outs and growing weights: x, or the product of two columns."""
        return self.x if self.x.ndim == 1 else np.prod(self.x, axis=1)

    def part(self, mask: NDArray[np.bool_]) -> Points:
        """The points where `mask` is true."""
        runs = None if self.runs is None else self.runs[mask]
        return Points(x=self.x[mask], y=self.y[mask], weights=self.weights[mask], runs=runs)


def check_points(
    x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None, runs: Sequence[Hashable] | None = None
) -> Points:
    """Valid points, sorted by x. `weights` are precisions (1 / variance of log y) up to a common factor.

    Raises LawError if the lengths differ, if a value is not finite and positive, or if a weight is negative.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    precision = np.ones(len(ys)) if weights is None else np.asarray(weights, dtype=float)
    if xs.ndim not in (1, 2) or ys.ndim != 1 or not len(xs) == len(ys) == len(precision):
        raise LawError(
            f"x, y and weights have different lengths or wrong shapes: {xs.shape}, {ys.shape}, {precision.shape}",
            reason="bad input",
            allowed="x of shape (n,) or (n, 2), y and weights of shape (n,)",
        )
    if runs is not None and len(runs) != len(ys):
        raise LawError(f"{len(runs)} run names for {len(ys)} points", reason="bad input", allowed="one run name for each point")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all() and (xs > 0).all() and (ys > 0).all()):
        raise LawError(
            "a value of x or of the error is missing, infinite, zero or negative",
            reason="not positive",
            allowed="finite numbers above 0 (an error of 0 has no logarithm: leave out the row, or use half of one test image)",
        )
    if not np.isfinite(precision).all() or (precision < 0).any() or not precision.any():
        raise LawError("invalid weights", reason="bad input", allowed="finite numbers from 0, at least one above 0")
    order = np.argsort(xs if xs.ndim == 1 else np.prod(xs, axis=1), kind="stable")
    codes = None if runs is None else np.unique([str(run) for run in runs], return_inverse=True)[1].astype(np.int64)
    return Points(x=xs[order], y=ys[order], weights=precision[order], runs=None if codes is None else codes[order])


def require_enough_data(points: Points, parameters: int) -> None:
    """Raise LawError for fewer distinct x than parameters + 1 (and than 4), or for a range of x below a factor of four."""
    distinct = count_distinct(points.x)
    needed = max(MIN_POINTS, parameters + 1)
    if distinct < needed:
        raise LawError(
            f"{distinct} distinct x cannot determine a law with {parameters} parameters",
            reason="too few points",
            allowed=f"{needed} or more distinct x: add runs at {needed - distinct} more",
        )
    factor = range_of(points)
    if factor < MIN_FACTOR * (1 - FACTOR_TOLERANCE):
        raise LawError(
            f"x spans a factor of {factor:.3g}",
            reason="too narrow",
            allowed=f"a factor of {MIN_FACTOR:g} or more: add smaller or larger runs",
        )


def range_of(points: Points) -> float:
    """The largest x over the smallest; of two columns, the smaller of the two factors."""
    columns = points.x.reshape(len(points.x), -1)
    return float((columns.max(axis=0) / columns.min(axis=0)).min())


def is_short(points: Points) -> bool:
    """Whether x spans less than a decade."""
    return range_of(points) < SHORT_FACTOR * (1 - FACTOR_TOLERANCE)


def trend(points: Points) -> Literal["falling", "flat", "rising"]:
    """The trend of log error in log x: significant at 5% (one-sided) and above 1% over the whole range, else flat."""
    u, v = np.log(points.first), np.log(points.y)
    u, v = u - u.mean(), v - v.mean()
    slope = float(u @ v / (u @ u))
    freedom = len(u) - 2
    slope_error = float(np.sqrt(max(v @ v - slope * (u @ v), 0.0) / freedom / (u @ u)))
    if abs(slope) * np.ptp(u) < FLAT_CHANGE:
        return "flat"
    p_value = float(stdtr(freedom, -abs(slope) / slope_error)) if slope_error > 0 else 0.0
    if p_value > FLAT_SIGNIFICANCE:
        return "flat"
    return "falling" if slope < 0 else "rising"


def require_not_rising(points: Points) -> None:
    """Raise LawError if the error rises significantly with x: only broken power laws describe that."""
    if trend(points) == "rising":
        raise LawError(
            "the error rises with x", reason="rising", allowed="a falling or flat curve; form bnsl1 or bnsl2 for a rising one"
        )
