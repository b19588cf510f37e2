"""Bands and inversions of a batch of laws: what bootstrap draws predict, and the x at which they reach an error."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from orchestrator.laws.bootstrap import SEED, BootstrapDraws
from orchestrator.laws.forms import FunctionalForm
from orchestrator.laws.points import Array, LawError

MAX_DISTANCE = 60.0  # in log x from the centre of the data: beyond any feasible training run
BISECTIONS = 70


def excess_error(rollout_rmse: float, noise: float) -> float:
    """The roll-out error of a law beyond the noise of a point (standard deviation of log error)."""
    return float(np.sqrt(max(rollout_rmse**2 - noise**2, 0.0))) if np.isfinite(rollout_rmse) else 0.0


def band(draws: BootstrapDraws, form: FunctionalForm, z: Array, *, middle: Array, level: float, spread: Array) -> Array:
    """Lower and upper log error (2, n) at z around `middle` (n,).

    The draws, blurred by a normal distribution of standard deviation `spread` (n,), and widened from normal to Student's t.
    The band contains `middle`, also where a bound of the search (a floor at 0) moves all draws to one side.
    """
    values = draws.log_scale[:, None] + form.log_shape(draws.theta, z)
    levels = norm.ppf((np.arange(len(values)) + 0.5) / len(values))
    values = values + spread * np.random.default_rng(SEED).permutation(levels)[:, None]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    widening = float(t.ppf(tails[1], draws.freedom) / norm.ppf(tails[1]))
    ends = middle + widening * (np.quantile(values, tails, axis=0) - middle)
    return np.asarray([np.minimum(ends[0], middle), np.maximum(ends[1], middle)])


def invert(theta: Array, log_scale: Array, form: FunctionalForm, centre: float, y: ArrayLike) -> Array:
    """The x (R, n) at which each of R laws falls to each error; inf: it never does, 0: it is below the error everywhere.

    Raises LawError for a form of two columns, for errors that are not positive, or for a law that rises somewhere.
    """
    goal = np.log(np.atleast_1d(np.asarray(y, dtype=float)))
    if form.columns != 1 or not np.isfinite(goal).all():
        raise LawError("the law cannot be inverted", reason="bad input", allowed="a law of one x, finite errors above 0")
    line = np.exp(np.linspace(-MAX_DISTANCE / 3, MAX_DISTANCE / 3, 200))
    if (np.diff(form.log_shape(theta, line), axis=1) > 1e-9).any():
        raise LawError(
            "the law cannot be inverted: it rises somewhere, so several x have the same error",
            reason="rising",
            allowed="a law that falls everywhere",
        )
    target = goal - log_scale[:, None]
    low, high = np.full(target.shape, -MAX_DISTANCE), np.full(target.shape, MAX_DISTANCE)
    never_above = form.log_shape(theta, np.exp(low)) <= target
    never_below = form.log_shape(theta, np.exp(high)) > target
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_above = form.log_shape(theta, np.exp(middle)) > target
        low, high = np.where(is_above, middle, low), np.where(is_above, high, middle)
    x = np.exp((low + high) / 2) * centre
    return np.asarray(np.where(never_below, np.inf, np.where(never_above, 0.0, x)))
