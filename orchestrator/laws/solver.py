"""Fits one form to one or many sets of log errors: grid or many starts, then local search, all of them side by side.

Reads arrays, returns arrays; deterministic. The sum over points of weight * loss(log y - log law) is made least. The scale
is eliminated at each step, and the search is a batch of Levenberg-Marquardt descents within bounds (Moré 1978), which is
what makes a bootstrap of hundreds of refits as cheap as a few single ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import qmc

from orchestrator.laws.forms import Form
from orchestrator.laws.points import Array

STEPS = 80
DIFFERENCE = 1e-6  # of the forward differences; theta are exponents and logarithms, so of order one
SETTLED = 1e-8  # relative decrease of the objective below which a descent has converged
LONGEST_STEP = 2.0  # in theta: no descent jumps out of the valley it started in


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Of log y - log law. huber: linear beyond `delta`. asymmetric: points above the law weigh `tilt`, below 1 - tilt."""

    kind: Literal["squared", "huber", "asymmetric"] = "squared"
    delta: float = 0.02
    tilt: float = 0.5

    def rooted(self, residual: Array) -> Array:
        """The signed value whose square is twice the loss."""
        if self.kind == "huber":
            size = np.abs(residual)
            outside = np.sqrt(np.maximum(2 * self.delta * size - self.delta**2, 0.0))
            return np.asarray(np.sign(residual) * np.where(size <= self.delta, size, outside))
        if self.kind == "asymmetric":
            return np.asarray(residual * np.sqrt(2 * np.where(residual > 0, self.tilt, 1 - self.tilt)))
        return residual


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the caller asked of a fit: the loss, the chance level (None: fitted), how weights grow (None: by the points)."""

    loss: Loss = Loss()
    chance: float | None = None
    growth: float | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to fit: a form, centred x, weights, the loss, and the log scale where it is known."""

    form: Form
    z: Array
    weights: Array
    loss: Loss
    log_scale: float | None = None

    @property
    def low(self) -> Array:
        return np.array([axis.low for axis in self.form.axes])

    @property
    def high(self) -> Array:
        return np.array([axis.high for axis in self.form.axes])


def scale_of(task: Task, gap: Array) -> Array:
    """The log scale (B, 1) that makes the loss least, gap (B, n) being log y - log shape."""
    if task.log_scale is not None:
        return np.full((len(gap), 1), task.log_scale)
    scale = gap @ task.weights[:, None] / task.weights.sum()
    if task.loss.kind == "squared":
        return np.asarray(scale)
    for _ in range(30):  # iteratively reweighted means: the losses are convex
        rest = gap - scale
        share = np.where(rest == 0, 1.0, (task.loss.rooted(rest) / np.where(rest == 0, 1.0, rest)) ** 2) * task.weights
        scale = (share * gap).sum(axis=1, keepdims=True) / share.sum(axis=1, keepdims=True)
    return scale


def residuals(task: Task, theta: Array, log_y: Array) -> Array:
    """Rooted, weighted residuals (B, n) of theta (B, k) against log_y (B, n) or (n,); their squares sum to the objective."""
    gap = log_y - task.form.log_shape(theta, task.z)
    return np.asarray(np.sqrt(task.weights) * task.loss.rooted(gap - scale_of(task, gap)))


def starts(task: Task, log_y: Array, keep: int) -> Array:
    """The `keep` best points of the form's grid or low-discrepancy sequence, best first (ties: earlier)."""
    form = task.form
    if form.many_starts:
        sample = qmc.Sobol(len(form.axes), scramble=False).random(form.many_starts)
        grid = task.low + (task.high - task.low) * sample
    else:
        lines = [np.linspace(axis.low, axis.high, axis.starts + 2)[1:-1] for axis in form.axes]
        grid = np.array(list(itertools.product(*lines)))
    costs = (residuals(task, grid, log_y) ** 2).sum(axis=1)
    return np.asarray(grid[np.argsort(costs, kind="stable")[:keep]])


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Where each start of a batch came to rest: theta (B, k), objective (B,), whether it converged (B,)."""

    theta: Array
    objective: Array
    converged: np.ndarray


def jacobian(value: Callable[[Array], Array], theta: Array, base: Array) -> Array:
    """Forward differences (B, n, k) of residuals at theta, where they are `base`."""
    columns = []
    for index in range(theta.shape[1]):
        moved = theta.copy()
        moved[:, index] += DIFFERENCE
        columns.append((value(moved) - base) / DIFFERENCE)
    return np.stack(columns, axis=2)


def descend(task: Task, begin: Array, log_y: Array) -> Descent:
    """Levenberg-Marquardt within bounds from every start (B, k), side by side; log_y is (n,) or one row a start (B, n)."""
    theta = np.clip(begin, task.low, task.high)
    rest = residuals(task, theta, log_y)
    cost = (rest**2).sum(axis=1)
    damping, settled = np.full(len(theta), 1e-2), np.zeros(len(theta), dtype=bool)
    live = np.arange(len(theta))
    rows = np.broadcast_to(log_y, rest.shape)
    for _ in range(STEPS):
        own = rows[live]
        slopes = jacobian(lambda t, own=own: residuals(task, t, own), theta[live], rest[live])  # type: ignore[misc]
        moved = _step(task, theta[live], slopes, rest[live], damping[live])
        new_rest = residuals(task, moved, own)
        new_cost = (new_rest**2).sum(axis=1)
        better = new_cost < cost[live]
        gain = np.where(better, cost[live] - new_cost, 0.0)
        stuck = np.abs(moved - theta[live]).max(axis=1) < 1e-9
        done = stuck | (better & (gain <= SETTLED * cost[live]) & (damping[live] <= 1.0)) | (damping[live] > 1e10)
        taken = live[better]
        theta[taken], rest[taken], cost[taken] = moved[better], new_rest[better], new_cost[better]
        damping[live] = np.where(better, np.maximum(damping[live] / 5, 1e-9), damping[live] * 4)
        settled[live[done]] = True
        live = live[~done]
        if not len(live):
            break
    return Descent(theta=theta, objective=cost, converged=settled)


def _step(task: Task, theta: Array, slopes: Array, rest: Array, damping: Array) -> Array:
    """One damped Gauss-Newton step of every descent, held at bounds that it pushes against."""
    gradient = np.einsum("bnk,bn->bk", slopes, rest)
    held = ((theta <= task.low) & (gradient > 0)) | ((theta >= task.high) & (gradient < 0))
    slopes = np.where(held[:, None, :], 0.0, slopes)
    normal = np.einsum("bnk,bnj->bkj", slopes, slopes)
    own = np.einsum("bkk->bk", normal)
    size = own.max(axis=1, keepdims=True)
    extra = damping[:, None] * (own + 1e-9 * size) + 1e-300 + held
    step = np.linalg.solve(normal + extra[:, :, None] * np.eye(theta.shape[1]), -np.where(held, 0.0, gradient)[:, :, None])
    bounded = np.clip(step[:, :, 0], -LONGEST_STEP, LONGEST_STEP)
    return np.clip(theta + bounded, task.low, task.high)


def solve(task: Task, log_y: Array, keep: int | None = None) -> Descent:
    """Descents from the best starts, the best first (ties: the earlier start)."""
    if not task.form.axes:
        theta = np.zeros((1, 0))
        cost = (residuals(task, theta, log_y) ** 2).sum(axis=1)
        return Descent(theta=theta, objective=cost, converged=np.ones(1, dtype=bool))
    found = descend(task, starts(task, log_y, keep or (24 if task.form.many_starts else 6)), log_y)
    order = np.argsort(found.objective, kind="stable")
    return Descent(theta=found.theta[order], objective=found.objective[order], converged=found.converged[order])
