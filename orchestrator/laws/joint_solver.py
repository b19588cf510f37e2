"""Fits y = A exp(-a u) + B exp(-b v) + E in log y, for many samples of weights in one batch.

theta (R, 5) is log A, log B, log E, a, b; u and v are centred logarithms of size and data. The search is a damped
Gauss-Newton descent whose rows are reweighted in each step for the Huber loss. Pure functions of arrays; deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from orchestrator.laws.points import Array

MAX_EXPONENT = 3.0
NEGLIGIBLE = 12.0  # a term exp(-12) times the smallest y or lower has no effect
LARGEST_TERM = 3.0  # a term is at most exp(3) times the largest y, at the centre of the rows
START_EXPONENTS = np.geomspace(0.03, 2.0, 12)
STARTS = 6
MAX_STEPS = 400
CONVERGED = 1e-9  # relative decrease of the objective
SMALLEST_RESIDUAL = 1e-12


@dataclass(frozen=True, kw_only=True)
class JointProblem:
    """Rows of u, v and log y (n,), their weights in each sample (R, n), and delta of the Huber loss (inf: squared)."""

    u: Array
    v: Array
    log_y: Array
    weights: Array
    delta: float

    @property
    def low(self) -> Array:
        return np.array([*[self.log_y.min() - NEGLIGIBLE] * 3, 0.0, 0.0])

    @property
    def high(self) -> Array:
        return np.array([*[self.log_y.max() + LARGEST_TERM] * 3, MAX_EXPONENT, MAX_EXPONENT])


def starts(problem: JointProblem) -> Array:
    """The best of a grid of exponents (starts, 5): at given exponents the law is linear in A, B and E, none below 0."""
    y, found = np.exp(problem.log_y), []
    for a in START_EXPONENTS:
        for b in START_EXPONENTS:
            columns = np.column_stack([np.exp(-a * problem.u), np.exp(-b * problem.v), np.ones_like(y)]) / y[:, None]
            factors, miss = nnls(columns, np.ones_like(y))
            found.append((miss, (*np.log(np.maximum(factors, y.min() * 1e-3)), a, b)))
    found.sort(key=lambda item: item[0])
    return np.array([theta for _, theta in found[:STARTS]])


def log_law(theta: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """log y (R, n) under each theta (R, 5), and the shares (3, R, n) of the three terms of y."""
    log_a, log_b, log_e, a, b = (theta[:, i : i + 1] for i in range(5))
    logs = np.stack([log_a - a * u, log_b - b * v, log_e + 0 * u])
    top = logs.max(axis=0)
    parts = np.exp(logs - top)
    total = parts.sum(axis=0)
    return top + np.log(total), parts / total


def descend(problem: JointProblem, begin: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Descents from every theta (R, 5), each with its sample: the ends, their objectives (R,), and whether they converged."""
    theta = np.clip(begin, problem.low, problem.high)
    cost, damping = _objective(problem, theta), np.full(len(theta), 1e-3)
    converged, active = np.zeros(len(theta), dtype=bool), np.arange(len(theta))
    for _ in range(MAX_STEPS):
        part = replace(problem, weights=problem.weights[active])
        moved = np.clip(theta[active] + _step(part, theta[active], damping[active]), problem.low, problem.high)
        new_cost = _objective(part, moved)
        better = new_cost < cost[active]
        gain = np.where(better, cost[active] - new_cost, 0.0)
        done = (better & (gain <= CONVERGED * cost[active]) & (damping[active] <= 1.0)) | (damping[active] > 1e8)
        theta[active[better]], cost[active[better]] = moved[better], new_cost[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-9), damping[active] * 5)
        converged[active[done]] = True
        active = active[~done]
        if not len(active):
            break
    return theta, cost, converged


def _objective(problem: JointProblem, theta: Array) -> Array:
    size, delta = np.abs(problem.log_y - log_law(theta, problem.u, problem.v)[0]), problem.delta
    linear = delta * (size - delta / 2) if np.isfinite(delta) else size
    return np.asarray((problem.weights * np.where(size <= delta, size**2 / 2, linear)).sum(axis=1))


def _step(problem: JointProblem, theta: Array, damping: Array) -> Array:
    """One damped step (R, 5); parameters at a bound that the step would cross stay there."""
    value, (size, data, floor) = log_law(theta, problem.u, problem.v)
    rest = problem.log_y - value
    slopes = np.stack([size, data, floor, -problem.u * size, -problem.v * data], axis=2)
    shares = problem.weights * np.minimum(1.0, problem.delta / np.maximum(np.abs(rest), SMALLEST_RESIDUAL))
    uphill = np.einsum("rnk,rn->rk", slopes, shares * rest)
    held = ((theta <= problem.low) & (uphill < 0)) | ((theta >= problem.high) & (uphill > 0))
    slopes = np.where(held[:, None, :], 0.0, slopes)
    normal = np.einsum("rnk,rn,rnj->rkj", slopes, shares, slopes, optimize=True)
    diagonal = np.einsum("rkk->rk", normal)
    extra = damping[:, None] * (diagonal + 1e-9 * diagonal.max(axis=1, keepdims=True)) + 1e-300 + held
    step = np.linalg.solve(normal + extra[:, :, None] * np.eye(5), np.where(held, 0.0, uphill)[:, :, None])[:, :, 0]
    return np.asarray(np.clip(step, -1.0, 1.0))
