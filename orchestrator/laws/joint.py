"""Joint laws of model size and data, L(N, D) = E + A N^-a + B D^-b (Hoffmann et al. 2022, arXiv 2203.15556, approach 3).

Rows have equal weights, and the loss is a Huber loss on the residuals of log y, with delta 1e-3 as published: a joint law
interpolates, so no row is worth more than another, and a few failed runs must not decide it. Reads arrays, returns frozen
data; deterministic. Does not know files or columns: `tables` does.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws.joint_solver import MAX_EXPONENT, NEGLIGIBLE, STARTS, JointProblem, descend, log_law, starts
from orchestrator.laws.points import Array, LawError, check_points
from orchestrator.laws.tolerance import count_distinct

NAMES = ("E", "A", "B", "a", "b")
FORMULA = "y = E + A N^-a + B D^-b"
DELTA = 1e-3  # of the Huber loss, in log y: Hoffmann et al. 2022, appendix D.3
DRAWS = 300
SEED = 20221
MIN_ROWS, MIN_DISTINCT = 7, 3  # rows: two more than parameters; distinct sizes and distinct amounts of data


@dataclass(frozen=True, kw_only=True)
class JointLaw:
    """A joint law. theta holds log A, log B and log E at the centre of the rows, then a and b; draws are its refits (R, 5)."""

    theta: Array = field(repr=False)
    draws: Array = field(repr=False)
    centre: Array = field(repr=False)  # geometric means of N and D
    rows: int
    blocks: int
    rmse: float  # of log y
    delta: float
    converged: bool
    at_zero: tuple[str, ...]  # terms that the rows do not need: E, A or B is 0
    x: Array = field(repr=False)  # N and D of the rows (n, 2)

    @property
    def params(self) -> dict[str, float]:
        """E, A, B, a and b in the units of the rows."""
        return dict(zip(NAMES, (float(value) for value in natural(self.theta[None], self.centre)[0]), strict=True))

    def predict(self, size: ArrayLike, data: ArrayLike) -> Array:
        """y at each size and amount of data (n,)."""
        logs = np.log(np.asarray(size, dtype=float) / self.centre[0]), np.log(np.asarray(data, dtype=float) / self.centre[1])
        return np.asarray(np.exp(log_law(self.theta[None], *logs)[0][0]))

    def interval(self, value: float, draws: Array, level: float = 0.9) -> tuple[float, float]:
        """The interval of a quantity with this value () and these values under the refits (R,); contains the value.

        The refits' deviations are widened for the parameters that the fit used: with a few rows they follow the rows.
        """
        wider, tail = np.sqrt(self.blocks / max(self.blocks - len(NAMES), 1)), (1 + level) / 2
        low, high = np.quantile(draws - value, [1 - tail, tail]) * wider
        return float(value + min(low, 0.0)), float(value + max(high, 0.0))

    def parameter_intervals(self, level: float = 0.9) -> dict[str, tuple[float, float]]:
        """The interval of each parameter: exponents directly, factors and E in logarithms."""
        with np.errstate(divide="ignore"):
            logs, drawn = (_transformed(natural(theta, self.centre)) for theta in (self.theta[None], self.draws))
        result = {}
        for index, name in enumerate(NAMES):
            low, high = self.interval(float(logs[0, index]), drawn[:, index], level)
            with np.errstate(over="ignore"):
                result[name] = (max(low, 0.0), high) if name in "ab" else (float(np.exp(low)), float(np.exp(high)))
        return result

    def unidentified(self, level: float = 0.9) -> tuple[str, ...]:
        """Parameters that the rows do not determine: of a term that is 0 or whose exponent may be 0 or unbounded."""
        intervals = self.parameter_intervals(level)
        low, high = intervals["E"]
        result = set(self.at_zero) | ({"E"} if low < high * np.exp(-NEGLIGIBLE / 2) else set())
        for exponent, factor in (("a", "A"), ("b", "B")):
            low, high = intervals[exponent]
            if factor in self.at_zero or low <= 0 or high >= MAX_EXPONENT:
                result |= {exponent, factor}
        return tuple(name for name in NAMES if name in result)


def fit_joint(
    size: ArrayLike,
    data: ArrayLike,
    y: ArrayLike,
    *,
    delta: float | None = DELTA,
    blocks: Sequence[Hashable] | None = None,
) -> JointLaw:
    """Fit L(N, D) to rows of size N, data D and y, an error or a loss.

    delta: of the Huber loss; None for squared residuals. blocks: rows of equal value are correlated and are resampled
    together. Raises LawError: fewer than seven rows (or blocks), fewer than three distinct N or D, or values that are not
    positive and finite.
    """
    points = check_points(np.column_stack([np.asarray(size, dtype=float), np.asarray(data, dtype=float)]), y, None, blocks)
    codes = np.arange(len(points.y)) if points.runs is None else points.runs
    count = len(np.unique(codes))
    _require_enough(points.x, count, "rows" if blocks is None else "blocks of rows")
    means = np.log(points.x).mean(axis=0)
    u, v = (np.log(points.x) - means).T
    log_y, bend = np.log(points.y), np.inf if delta is None else delta
    problem = JointProblem(u=u, v=v, log_y=log_y, weights=np.ones((STARTS, len(log_y))), delta=bend)
    ends, costs, converged = descend(problem, starts(problem))
    best = int(np.argmin(costs))
    theta = ends[best]
    random = np.random.default_rng(SEED).exponential(size=(DRAWS, count))
    weights = (random / random.mean(axis=1, keepdims=True))[:, np.unique(codes, return_inverse=True)[1]]
    draws = descend(replace(problem, weights=weights), np.repeat(theta[None], DRAWS, axis=0))[0]
    return JointLaw(
        theta=theta,
        draws=draws,
        centre=np.exp(means),
        rows=len(log_y),
        blocks=count,
        rmse=float(np.sqrt(np.mean((log_y - log_law(theta[None], u, v)[0][0]) ** 2))),
        delta=bend,
        converged=bool(converged[best]),
        at_zero=tuple(name for name, value in zip("ABE", theta[:3], strict=True) if value < problem.low[0] + NEGLIGIBLE / 4),
        x=points.x,
    )


def natural(theta: Array, centre: Array) -> Array:
    """E, A, B, a, b (R, 5) of theta (R, 5)."""
    log_a, log_b, log_e, a, b = theta.T
    with np.errstate(over="ignore"):
        factors = np.exp(log_a + a * np.log(centre[0])), np.exp(log_b + b * np.log(centre[1]))
    return np.column_stack([np.exp(log_e), *factors, a, b])


def _transformed(values: Array) -> Array:
    """Logarithms of E, A and B; exponents as they are."""
    return np.column_stack([np.log(values[:, :3]), values[:, 3:]])


def _require_enough(x: Array, count: int, what: str) -> None:
    if count < MIN_ROWS:
        message = f"{count} {what} cannot determine a joint law with {len(NAMES)} parameters"
        raise LawError(message, reason="too few points", allowed=f"{MIN_ROWS} or more {what}")
    for name, column in zip(("N", "D"), x.T, strict=True):
        if (distinct := count_distinct(column)) < MIN_DISTINCT:
            message = f"{distinct} distinct values of {name} cannot determine its exponent"
            raise LawError(message, reason="too few points", allowed=f"{MIN_DISTINCT} or more distinct values of N and of D")
