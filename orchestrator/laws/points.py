"""The points of one curve, checked and weighted: what a scaling law may be fitted to, and how much each point says.

Pure functions of arrays. x is data, compute or size (one column, or two for L(N, D)), y an error in the unit of choice.
Refuses what no law can be read from; knows nothing of forms or of how they are fitted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from vitmodel.config.base import UserError

Array: TypeAlias = NDArray[np.float64]
Reason = Literal["too few points", "too narrow", "not positive", "rising", "bad input", "no solution"]

LEAST_POINTS = 4  # three points lie on some curve of every form
LEAST_RATIO = 10.0  # of the largest x to the smallest: one decade
STEEPEST_GROWTH = 2.0  # weights grow as x^2 where there are enough points
POINTS_PER_PARAMETER = 4.0  # effective points that weights must leave for each parameter
FLAT_CHANGE = 0.01  # a change of log error over the whole range below which nobody would call the curve falling
FLAT_LEVEL = 0.05  # significance of a trend


class LawError(UserError):
    """These points carry no scaling law; `reason` says why in a word that code can branch on."""

    def __init__(self, message: str, *, reason: Reason, allowed: str = "") -> None:
        self.reason = reason
        super().__init__(message, field="laws", allowed=allowed)


@dataclass(frozen=True, kw_only=True)
class Points:
    """A curve, sorted by x: x (n,) or (n, 2), y (n,), the precision of each log error, and the run each came from."""

    x: Array
    y: Array
    weights: Array
    runs: NDArray[np.int64] | None

    @property
    def first(self) -> Array:
        """The axis a roll-out moves along and weights grow with: x, or for two columns their product."""
        return self.x if self.x.ndim == 1 else np.prod(self.x, axis=1)

    def part(self, mask: NDArray[np.bool_]) -> Points:
        """The points where `mask` is true."""
        runs = None if self.runs is None else self.runs[mask]
        return Points(x=self.x[mask], y=self.y[mask], weights=self.weights[mask], runs=runs)


def points(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None, runs: Sequence[Hashable] | None = None) -> Points:
    """Checked points in the order of x. `weights` are precisions (1 / variance of log y) up to a common factor.

    Raises LawError for lengths that differ, values that are not finite and positive, or weights below zero.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    precision = np.ones(len(ys)) if weights is None else np.asarray(weights, dtype=float)
    if xs.ndim not in (1, 2) or ys.ndim != 1 or not len(xs) == len(ys) == len(precision):
        raise LawError(
            "x, y and weights must be as long as each other", reason="bad input", allowed="x of shape (n,) or (n, 2)"
        )
    if runs is not None and len(runs) != len(ys):
        raise LawError(f"{len(runs)} run names for {len(ys)} points", reason="bad input")
    if not (np.isfinite(xs).all() and np.isfinite(ys).all() and (xs > 0).all() and (ys > 0).all()):
        raise LawError("a law needs finite x and error above zero (an error of 0 has no logarithm)", reason="not positive")
    if not np.isfinite(precision).all() or (precision < 0).any() or not precision.any():
        raise LawError("weights must be finite, not negative and not all zero", reason="bad input")
    order = np.argsort(xs if xs.ndim == 1 else np.prod(xs, axis=1), kind="stable")
    codes = None if runs is None else np.unique([str(run) for run in runs], return_inverse=True)[1].astype(np.int64)
    return Points(x=xs[order], y=ys[order], weights=precision[order], runs=None if codes is None else codes[order])


def refuse_too_little(found: Points, parameters: int) -> None:
    """Raise LawError for fewer different x than parameters + 1 (and than 4), or for less than a decade in x."""
    different = len(np.unique(found.x, axis=0))
    needed = max(LEAST_POINTS, parameters + 1)
    if different < needed:
        raise LawError(
            f"{different} different x for {parameters} parameters", reason="too few points", allowed=f"{needed} or more"
        )
    columns = found.x.reshape(len(found.x), -1)
    ratio = float((columns.max(axis=0) / columns.min(axis=0)).min())
    if ratio < LEAST_RATIO * (1 - 1e-9):
        raise LawError(f"x spans a factor of {ratio:.3g}", reason="too narrow", allowed="a decade (a factor of 10) or more")


def trend(found: Points) -> Literal["falling", "flat", "rising"]:
    """Whether log error falls with log x beyond chance (5%, one-sided) and by more than 1% over the whole range."""
    u, v = np.log(found.first), np.log(found.y)
    u, v = u - u.mean(), v - v.mean()
    slope = float(u @ v / (u @ u))
    freedom = len(u) - 2
    spread = float(np.sqrt(max(v @ v - slope * (u @ v), 0.0) / freedom / (u @ u)))
    if abs(slope) * np.ptp(u) < FLAT_CHANGE:
        return "flat"
    chance = float(stdtr(freedom, -abs(slope) / spread)) if spread > 0 else 0.0
    if chance > FLAT_LEVEL:
        return "flat"
    return "falling" if slope < 0 else "rising"


def refuse_rising(found: Points) -> None:
    """Raise LawError where error rises with x beyond chance: laws of falling error have nothing to say there."""
    if trend(found) == "rising":
        raise LawError("error rises with x", reason="rising", allowed="a curve that falls or is flat, or a form bnsl1, bnsl2")


# --- weights --------------------------------------------------------------------------------------------------


def effective_points(weights: Array) -> float:
    """How many equal points carry as much as these weighted ones (Kish): (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def growing_weights(found: Points, parameters: int, growth: float | None = None) -> tuple[Array, float]:
    """The points' precision times x^growth, largest 1, and the growth.

    An extrapolation starts at the largest x, so early points matter least. None: 2, or the steepest below it that leaves
    four effective sizes (different x) a parameter, because a handful of sizes cannot afford to lose most of themselves and
    more seeds of the same size say nothing about shape.
    """
    position = np.log(found.first) - np.log(found.first).max()
    size = np.unique(found.x, axis=0, return_inverse=True)[1].ravel()

    def weights(power: float) -> Array:
        product = found.weights * np.exp(power * position)
        return np.asarray(product / product.max())

    def effective_sizes(power: float) -> float:
        return effective_points(np.asarray(np.bincount(size, weights(power)), dtype=np.float64))

    if growth is not None:
        return weights(growth), growth
    needed = min(POINTS_PER_PARAMETER * parameters, effective_sizes(0.0))
    steps = np.linspace(STEEPEST_GROWTH, 0.0, 41)
    steepest = next((float(p) for p in steps if effective_sizes(p) >= needed * (1 - 1e-9)), 0.0)
    return weights(steepest), steepest


def noise_weights(y: ArrayLike, test_images: ArrayLike, seed_spread: float = 0.0) -> Array:
    """Precision of each log error: 1 / (binomial variance of a finite test set + variance between seeds).

    y: error rates as fractions; test_images: size of the test set; seed_spread: standard deviation of log error between
    seeds (see `seed_spread`). The binomial part is (1 - y) / (y n), by the delta method.
    """
    ys, images = np.asarray(y, dtype=float), np.asarray(test_images, dtype=float)
    if (ys <= 0).any() or (ys >= 1).any() or (images <= 0).any():
        raise LawError("error rates between 0 and 1 and test sets of one image or more", reason="bad input")
    return np.asarray(1 / ((1 - ys) / (ys * images) + seed_spread**2))


def seed_spread(x: ArrayLike, y: ArrayLike) -> float:
    """Standard deviation of log error between runs at the same x, pooled over x; nan where no x was repeated."""
    xs, log_y = np.asarray(x, dtype=float), np.log(np.asarray(y, dtype=float))
    groups = [log_y[xs == value] for value in np.unique(xs)]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return float(np.sqrt(squares / freedom)) if freedom else float("nan")
