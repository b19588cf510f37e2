"""Solves fit problems: a grid or a sequence of starting points, then a local search from all of them in one batch.

Reads arrays, returns arrays; deterministic. The search is a batch of Levenberg-Marquardt descents within bounds (Moré 1978):
hundreds of refits of a bootstrap take about as long as a few single ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from orchestrator.laws.points import Array
from orchestrator.laws.problem import FitProblem, residuals

MAX_STEPS = 80
DIFFERENCE = 1e-6  # of the forward differences; theta are exponents and logarithms, so of order one
CONVERGED = 1e-8  # relative decrease of the objective below which a descent has converged
MAX_STEP = 2.0  # in theta: a descent stays in the basin of its starting point
GRID_STARTS, SEQUENCE_STARTS = 6, 24  # descents from the best points of a grid, of a low-discrepancy sequence


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The end of each descent of a batch: theta (B, k), objective (B,), whether it converged (B,)."""

    theta: Array
    objective: Array
    converged: np.ndarray


def solve(problem: FitProblem, log_y: Array, starts: int | None = None) -> SearchResult:
    """Descents from the best `starts` starting points, the lowest objective first (ties: the better starting point first)."""
    form = problem.form
    if not form.parameters:
        theta = np.zeros((1, 0))
        cost = (residuals(problem, theta, log_y) ** 2).sum(axis=1)
        return SearchResult(theta=theta, objective=cost, converged=np.ones(1, dtype=bool))
    count = starts or (SEQUENCE_STARTS if form.sequence_points else GRID_STARTS)
    result = descend(problem, best_starts(problem, log_y, count), log_y)
    order = np.argsort(result.objective, kind="stable")
    return SearchResult(theta=result.theta[order], objective=result.objective[order], converged=result.converged[order])


def best_starts(problem: FitProblem, log_y: Array, count: int) -> Array:
    """The `count` best points of the form's grid or low-discrepancy sequence, the best first (ties: in grid order)."""
    grid = start_grid(problem)
    costs = (residuals(problem, grid, log_y) ** 2).sum(axis=1)
    return np.asarray(grid[np.argsort(costs, kind="stable")[:count]])


def start_grid(problem: FitProblem) -> Array:
    """All starting points (G, k) of the form: a grid or a low-discrepancy sequence."""
    form = problem.form
    if form.sequence_points:
        sample = qmc.Sobol(len(form.parameters), scramble=False).random(form.sequence_points)
        return np.asarray(problem.low + (problem.high - problem.low) * sample)
    lines = [np.linspace(p.low, p.high, p.starts + 2)[1:-1] for p in form.parameters]
    return np.array(list(itertools.product(*lines)))


def descend(problem: FitProblem, begin: Array, log_y: Array, weights: Array | None = None) -> SearchResult:
    """Levenberg-Marquardt within bounds from every start (B, k), in one batch.

    log_y, and weights in place of the problem's, are (n,) or one row per start (B, n).
    """
    shape = (len(begin), len(problem.z))
    all_log_y = np.broadcast_to(log_y, shape)
    if weights is None:
        return minimise(lambda t, rows: residuals(problem, t, all_log_y[rows]), begin, problem.low, problem.high)
    all_weights = np.broadcast_to(weights, shape)

    def value(theta: Array, rows: NDArray[np.int64]) -> Array:
        return residuals(replace(problem, weights=all_weights[rows]), theta, all_log_y[rows])

    return minimise(value, begin, problem.low, problem.high)


def minimise(value: Callable[[Array, NDArray[np.int64]], Array], begin: Array, low: Array, high: Array) -> SearchResult:
    """The least sum of squares of value(theta, rows), the residuals of these rows of the batch, within bounds."""
    theta = np.clip(begin, low, high)
    active = np.arange(len(theta))
    rest = value(theta, active)
    cost = (rest**2).sum(axis=1)
    damping, converged = np.full(len(theta), 1e-2), np.zeros(len(theta), dtype=bool)
    for _ in range(MAX_STEPS):
        rows = active
        slopes = jacobian(lambda t, rows=rows: value(t, rows), theta[rows], rest[rows])  # type: ignore[misc]
        moved = _step((low, high), theta[rows], slopes, rest[rows], damping[rows])
        new_rest = value(moved, rows)
        new_cost = (new_rest**2).sum(axis=1)
        better = new_cost < cost[rows]
        gain = np.where(better, cost[rows] - new_cost, 0.0)
        stuck = np.abs(moved - theta[rows]).max(axis=1) < 1e-9
        small_gain = better & (gain <= CONVERGED * cost[rows]) & (damping[rows] <= 1.0)
        done = stuck | small_gain | (damping[rows] > 1e10)
        accepted = rows[better]
        theta[accepted], rest[accepted], cost[accepted] = moved[better], new_rest[better], new_cost[better]
        damping[rows] = np.where(better, np.maximum(damping[rows] / 5, 1e-9), damping[rows] * 4)
        converged[rows[done]] = True
        active = rows[~done]
        if not len(active):
            break
    return SearchResult(theta=theta, objective=cost, converged=converged)


def jacobian(value: Callable[[Array], Array], theta: Array, base: Array) -> Array:
    """Forward differences (B, n, k) of residuals at theta, where they are `base`."""
    columns = []
    for index in range(theta.shape[1]):
        moved = theta.copy()
        moved[:, index] += DIFFERENCE
        columns.append((value(moved) - base) / DIFFERENCE)
    return np.stack(columns, axis=2)


def _step(bounds: tuple[Array, Array], theta: Array, slopes: Array, rest: Array, damping: Array) -> Array:
    """One damped Gauss-Newton step of each descent; parameters at a bound that the step would cross stay there."""
    low, high = bounds
    gradient = np.einsum("bnk,bn->bk", slopes, rest)
    held = ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    slopes = np.where(held[:, None, :], 0.0, slopes)
    normal = np.einsum("bnk,bnj->bkj", slopes, slopes)
    diagonal = np.einsum("bkk->bk", normal)
    size = diagonal.max(axis=1, keepdims=True)
    extra = damping[:, None] * (diagonal + 1e-9 * size) + 1e-300 + held
    step = np.linalg.solve(normal + extra[:, :, None] * np.eye(theta.shape[1]), -np.where(held, 0.0, gradient)[:, :, None])
    bounded = np.clip(step[:, :, 0], -MAX_STEP, MAX_STEP)
    return np.asarray(np.clip(theta + bounded, low, high))
