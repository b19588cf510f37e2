"""Profiles of an objective: how it rises as one linear function of the parameters moves away from its estimate.

The walk starts at the estimate and takes growing steps, one for each parameter and side in one batch. At each step all other
parameters are fitted again, from where they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.laws.points import Array
from orchestrator.laws.problem import FitProblem
from orchestrator.laws.solver import minimise

FIRST_STEP = 0.7  # in standard errors
MIN_STEP, MAX_STEP = 1e-4, 1.0
GROWTH = 1.4  # of steps
MAX_STEPS = 30
REFINEMENTS = 4
SAME = 1e-12
RIDGE = 1e-8  # relative, of directions that the data do not determine


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A solved problem: theta and log scale (k + 1,), the axes (P, k + 1) of its parameters, slopes (n, k + 1) of residuals."""

    problem: FitProblem
    log_y: Array
    estimate: Array
    axes: Array
    slopes: Array
    noise: float

    def objective_and_end(self, begin: Array, axis: NDArray[np.int64]) -> tuple[Array, Array]:
        """The objective (B,), with the value along the row's axis fixed, and where it is least (B, k + 1)."""
        free = np.array([_null_space(self.axes[i], self.problem.log_scale is not None) for i in range(len(self.axes))])[axis]

        def value(moves: Array, rows: NDArray[np.int64]) -> Array:
            return self.problem.residuals_at(begin[rows] + np.einsum("bij,bj->bi", free[rows], moves), self.log_y)

        if not free.shape[2]:
            return (self.problem.residuals_at(begin, self.log_y) ** 2).sum(axis=1), begin
        unbounded = np.full(free.shape[2], np.inf)
        result = minimise(value, np.zeros((len(begin), free.shape[2])), -unbounded, unbounded)
        return result.objective, begin + np.einsum("bij,bj->bi", free, result.theta)


@dataclass(frozen=True, kw_only=True)
class _Bracket:
    """For each row (an axis and a side): the farthest value inside the limit, the nearest one outside, and the fit inside."""

    inside: Array
    outside: Array  # nan: none was found
    rise_inside: Array
    rise_outside: Array
    fits: Array


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """The rows of a walk: their axes, each axis's direction, the allowed rise of each row, the objective at the estimate."""

    profile: Profile
    axis: NDArray[np.int64]
    directions: Array
    limits: Array
    least: float


def walk(profile: Profile, limits: Array, lowest: Array, highest: Array) -> tuple[Array, Array]:
    """The values (P,), (P,) along each axis where the objective has risen by `limits` (P,).

    At `lowest` or `highest` (P,), the walk ends: the objective has not risen by the limit there.
    """
    count = len(profile.axes)
    axis, side = np.tile(np.arange(count), 2), np.repeat([-1.0, 1.0], count)
    directions, errors = _directions(profile)
    least = float((profile.problem.residuals_at(profile.estimate[None], profile.log_y) ** 2).sum())
    rows = _Walk(profile=profile, axis=axis, directions=directions, limits=limits[axis], least=least)
    first = np.clip(profile.axes @ profile.estimate, lowest, highest)[axis]
    fits = profile.estimate + directions[axis] * (first - profile.axes[axis] @ profile.estimate)[:, None]
    nothing = np.full(2 * count, np.nan)
    start = _Bracket(inside=first, outside=nothing, rise_inside=np.zeros(2 * count), rise_outside=nothing, fits=fits)
    reach = np.concatenate([lowest, highest])
    steps = np.clip(FIRST_STEP * errors[axis], MIN_STEP, MAX_STEP)
    bracket = _refine(rows, _step_out(rows, start, side * (reach - first) > 0, steps, reach))
    unlimited = np.where(np.abs(reach - bracket.inside) <= SAME, reach, np.inf * side)
    ends = np.where(np.isfinite(bracket.outside), _between(bracket, rows.limits), unlimited)
    return ends[:count], ends[count:]


def _step_out(rows: _Walk, bracket: _Bracket, is_active: NDArray[np.bool_], steps: Array, reach: Array) -> _Bracket:
    """Growing steps until the objective has risen by more than the limit, or the row is at its reach."""
    active = np.flatnonzero(is_active)
    for _ in range(MAX_STEPS):
        if not len(active):
            break
        gap = reach - bracket.inside
        target = bracket.inside + np.sign(gap) * np.minimum(steps, np.abs(gap))
        bracket = _try(rows, bracket, target, active)
        steps = steps * GROWTH
        active = active[np.isnan(bracket.outside[active]) & (np.abs(reach - bracket.inside) > SAME)[active]]
    return bracket


def _refine(rows: _Walk, bracket: _Bracket) -> _Bracket:
    """The bracket after a few steps of false position."""
    for _ in range(REFINEMENTS):
        active = np.flatnonzero(np.isfinite(bracket.outside))
        if not len(active):
            break
        bracket = _try(rows, bracket, _between(bracket, rows.limits), active)
    return bracket


def _try(rows: _Walk, bracket: _Bracket, target: Array, active: NDArray[np.int64]) -> _Bracket:
    """The bracket after the fits of the rows `active` with their values fixed at `target`."""
    axis = rows.axis[active]
    begin = bracket.fits[active] + rows.directions[axis] * (target - bracket.inside)[active, None]
    objective, fits = rows.profile.objective_and_end(begin, axis)
    rise = objective - rows.least
    is_out = rise > rows.limits[active]
    out, kept = active[is_out], active[~is_out]
    new = {name: getattr(bracket, name).copy() for name in ("inside", "outside", "rise_inside", "rise_outside", "fits")}
    new["outside"][out], new["rise_outside"][out] = target[out], rise[is_out]
    new["inside"][kept], new["rise_inside"][kept], new["fits"][kept] = target[kept], rise[~is_out], fits[~is_out]
    return _Bracket(**new)


def _between(bracket: _Bracket, limit: Array) -> Array:
    """The value where the root of the rise, linear between the ends of the bracket, reaches that of the limit."""
    low, high = np.sqrt(np.maximum(bracket.rise_inside, 0)), np.sqrt(bracket.rise_outside)
    share = np.clip((np.sqrt(limit) - low) / np.maximum(high - low, 1e-300), 0.05, 0.95)
    return np.asarray(bracket.inside + share * (bracket.outside - bracket.inside))


def _directions(profile: Profile) -> tuple[Array, Array]:
    """The direction (P, k + 1) in which the fit moves as a value grows by one, and the value's standard error (P,)."""
    normal = profile.slopes.T @ profile.slopes
    inverse = np.linalg.inv(normal + RIDGE * max(float(np.trace(normal)), 1e-12) * np.eye(len(normal)))
    if profile.problem.log_scale is not None:  # a known scale does not move
        inverse[-1], inverse[:, -1] = 0.0, 0.0
    moves = profile.axes @ inverse
    squares = (moves * profile.axes).sum(axis=1)
    return moves / squares[:, None], np.sqrt(squares * profile.noise)


def _null_space(axis: Array, is_scale_known: bool) -> Array:
    """The directions (k + 1, k) that leave the value along `axis` unchanged; also the scale, if it is known."""
    fixed = np.vstack([axis, np.eye(len(axis))[-1]]) if is_scale_known else axis[None]
    _, size, right = np.linalg.svd(fixed)
    return np.asarray(right[int((size > 1e-9).sum()) :].T)
