"""The optimisation problem of a fit: a form, centred x, weights and a loss; its residuals and its log scale.

The objective is the sum over points of weight * loss(log y - log law). The scale is eliminated: at any theta it has the value
that minimises the objective. All functions work on a batch of theta (B, k). Pure functions of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.laws.forms import FunctionalForm
from orchestrator.laws.points import Array, LawError, Points
from orchestrator.laws.weights import growing_weights

SMALL_STEP = 1e-6  # of differences in theta
CHANCE_TOLERANCE = 0.01  # relative; an untrained model's measured error scatters about the chance level


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of log y - log law. huber: linear beyond `delta`. asymmetric: weight `tilt` above the law, 1 - tilt below."""

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
class FitOptions:
    """Options of a fit: the loss, the chance level (None: fitted), the growth of weights (None: 0)."""

    loss: Loss = Loss()
    chance: float | None = None
    growth: float | None = None


@dataclass(frozen=True, kw_only=True)
class FitProblem:
    """What is fitted: a form, centred x, weights (n,) or (B, n), the loss, and the log scale if it is known."""

    form: FunctionalForm
    z: Array
    weights: Array
    loss: Loss
    log_scale: float | None = None

    @property
    def low(self) -> Array:
        return np.array([parameter.low for parameter in self.form.parameters])

    @property
    def high(self) -> Array:
        return np.array([parameter.high for parameter in self.form.parameters])

    def residuals_at(self, fits: Array, log_y: Array) -> Array:
        """Rooted, weighted residuals (B, n) at theta and log scale (B, k + 1); theta beyond its bounds count as at them."""
        theta = np.clip(fits[:, :-1], self.low, self.high)
        gap = log_y - fits[:, -1:] - self.form.log_shape(theta, self.z)
        return np.asarray(np.sqrt(self.weights) * self.loss.rooted(gap))

    def slopes(self, fit: Array, log_y: Array) -> Array:
        """Derivatives (n, k + 1) of the residuals at theta and log scale (k + 1,); a theta at its bound moves inwards."""
        at_high = np.append(fit[:-1] >= self.high - SMALL_STEP, False)
        steps = np.where(at_high, -SMALL_STEP, SMALL_STEP)
        moved = self.residuals_at(fit + np.diag(steps), log_y)
        return np.asarray(((moved - self.residuals_at(fit[None], log_y)) / steps[:, None]).T)


def build_problem(form: FunctionalForm, points: Points, options: FitOptions) -> tuple[FitProblem, Array, float]:
    """The problem, the centre of x (1,) or (2,), and the growth of the weights.

    Raises LawError if x has the wrong number of columns, or if an error is above the chance level.
    """
    columns = points.x.reshape(len(points.x), -1)
    if columns.shape[1] != form.columns:
        raise LawError(
            f"x has {columns.shape[1]} column(s), form {form.name} needs {form.columns}",
            reason="bad input",
            allowed=form.formula,
        )
    chance = options.chance if form.scale_is_chance else None
    largest = float(points.y.max())
    if chance is not None and not largest <= chance * (1 + CHANCE_TOLERANCE):
        raise LawError(
            f"error {largest:g} is above the chance level {chance:g}",
            reason="bad input",
            allowed="a chance level of at least the largest error, or none: then it is fitted",
        )
    weights, growth = growing_weights(points, form.num_parameters, options.growth or 0.0)
    centre = np.exp(np.log(columns).mean(axis=0))
    z = (columns / centre) if form.columns == 2 else points.x / centre[0]
    log_scale = None if chance is None else float(np.log(chance))
    return FitProblem(form=form, z=z, weights=weights, loss=options.loss, log_scale=log_scale), centre, growth


def best_log_scale(problem: FitProblem, gap: Array) -> Array:
    """The log scale (B, 1) that minimises the loss; gap (B, n) is log y - log shape."""
    if problem.log_scale is not None:
        return np.full((len(gap), 1), problem.log_scale)
    scale = (gap * problem.weights).sum(axis=1, keepdims=True) / problem.weights.sum(axis=-1, keepdims=True)
    if problem.loss.kind == "squared":
        return np.asarray(scale)
    for _ in range(30):  # iteratively reweighted means: the losses are convex
        rest = gap - scale
        share = np.where(rest == 0, 1.0, (problem.loss.rooted(rest) / np.where(rest == 0, 1.0, rest)) ** 2) * problem.weights
        scale = (share * gap).sum(axis=1, keepdims=True) / share.sum(axis=1, keepdims=True)
    return scale


def log_scale_at(problem: FitProblem, theta: Array, log_y: Array) -> float:
    """The log scale at theta (k,)."""
    return float(best_log_scale(problem, log_y - problem.form.log_shape(theta[None], problem.z))[0, 0])


def residuals(problem: FitProblem, theta: Array, log_y: Array) -> Array:
    """Rooted, weighted residuals (B, n) of theta (B, k) against log_y (B, n) or (n,); their squares sum to the objective."""
    gap = log_y - problem.form.log_shape(theta, problem.z)
    return np.asarray(np.sqrt(problem.weights) * problem.loss.rooted(gap - best_log_scale(problem, gap)))


def fitted_log_error(problem: FitProblem, theta: Array, log_y: Array) -> Array:
    """The law's log error (n,) at the fitted points, for theta (k,)."""
    shape = problem.form.log_shape(theta[None], problem.z)
    return np.asarray((shape + best_log_scale(problem, log_y - shape))[0])
