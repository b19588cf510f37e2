"""A fitted law: what it predicts, where it reaches an error, how sure it is, and what its fit had to say.

Frozen data and pure methods; the contract of DESIGN.md. x stays in the unit it was fitted in, y in the error's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws import bands
from orchestrator.laws.bands import Draws
from orchestrator.laws.points import Array, LawError, Points
from orchestrator.laws.solver import Task, scale_of


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """How the form would have done before: fitted on x up to each cut, scored on the points up to twice the cut.

    rmse and bias are of log error (bias above 0: the law promised too much error), the mean over cuts in the square and
    plain; spread is the standard error of the mean square over cuts, as a share of it. nan where no cut leaves enough.
    """

    rmse: float
    bias: float
    spread: float
    cuts: int


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """What a fit has to say about itself. Errors are log errors; names are those of the form's parameters."""

    points: int
    effective_points: float
    growth: float  # weights grew as x to this power
    trend: Literal["falling", "flat", "rising"]
    objective: float  # the sum that was made least
    rmse: float  # weighted, in sample
    noise: float  # the same with the parameters' degrees of freedom taken off
    converged: bool
    agreeing_starts: int  # descents that ended within 0.1% of the best objective
    bounds_hit: tuple[str, ...]
    unidentified: tuple[str, ...]  # less than two standard errors from zero
    condition: float  # of the scaled Jacobian: above 1e4 some parameters trade off against each other
    standard_errors: Mapping[str, float]  # of theta: exponents as they are, all else in logarithms
    rollout: Rollout
    candidates: Mapping[str, float]  # roll-out RMSE of every form `auto` weighed


@dataclass(frozen=True, kw_only=True)
class Law:
    """A form with its parameters: y = scale * shape(theta, x / centre)."""

    form: str
    formula: str
    params: Mapping[str, float]
    diagnostics: Diagnostics
    theta: Array = field(repr=False)
    log_scale: float = field(repr=False)
    centre: Array = field(repr=False)
    points: Points = field(repr=False)
    task: Task = field(repr=False)
    rivals: tuple[Law, ...] = field(default=(), repr=False)  # what roll-outs could not tell from this law
    joint_draws: Draws | None = field(default=None, repr=False)  # of a fit that shares parameters with other laws

    @property
    def x_range(self) -> tuple[float, float]:
        """The smallest and largest x that were fitted (of two columns: their product)."""
        return float(self.points.first.min()), float(self.points.first.max())

    def predict(self, x: ArrayLike) -> Array:
        """Error at each x (n,), or (n, 2) for two columns. Raises LawError for x that is not positive."""
        z = self.centred(x)
        return np.exp(self.log_scale + self.task.form.log_shape(self.theta[None], z))[0]

    def invert(self, y: ArrayLike) -> Array:
        """The x at which the law comes down to each error: inf where it never does, 0 where it is never above.

        Raises LawError for a law of two columns, or one that does not fall monotonically.
        """
        return bands.invert(self.theta[None], np.array([self.log_scale]), self.task.form, float(self.centre[0]), y)[0]

    def interval(self, x: ArrayLike, level: float = 0.9, kind: Literal["confidence", "prediction"] = "confidence") -> Array:
        """The band (2, n) at each x that holds the law (confidence) or a new run's error (prediction) with this level.

        From the draws of a bootstrap over runs or blocks, plus what laws disagree on that roll-outs could not tell apart. A
        prediction beyond the data is as uncertain as the law's own roll-outs were, where those did worse than the noise.
        Raises LawError for a level that is no fraction.
        """
        if not 0 < level < 1:
            raise LawError(f"level is {level}", reason="bad input", allowed="between 0 and 1")
        z = self.centred(x)
        rivals = [np.log(rival.predict(x)) for rival in self.rivals]
        middle = self.log_scale + self.task.form.log_shape(self.theta[None], z)[0]
        spread = np.std([middle, *rivals], axis=0, ddof=1) if rivals else np.zeros_like(middle)
        if kind == "prediction":
            beyond = _along(z) > _along(self.task.z).max()
            missed = np.where(beyond, bands.excess(self.diagnostics.rollout.rmse, self.draws.noise), 0.0)
            spread = np.sqrt(np.maximum(spread, missed) ** 2 + self.draws.noise**2)
        return np.exp(bands.band(self.draws, self.task.form, z, middle=middle, level=level, spread=spread))

    @cached_property
    def draws(self) -> Draws:
        """The bootstrap's refits of this law: deterministic, made when first asked for."""
        return self.joint_draws or bands.bootstrap(self.task, self.theta, self.points)

    def centred(self, x: ArrayLike) -> Array:
        """x in units of the fitted points' geometric mean."""
        values = np.atleast_1d(np.asarray(x, dtype=float))
        if self.task.form.columns == 2:
            values = np.atleast_2d(values)
        if not (values > 0).all() or values.ndim != self.task.form.columns:
            raise LawError("x must be positive, one column for each of the form", reason="bad input", allowed=self.formula)
        return np.asarray(values / (self.centre if self.task.form.columns == 2 else self.centre[0]))


def _along(z: Array) -> Array:
    return z if z.ndim == 1 else np.asarray(np.prod(z, axis=1))


def log_scale_of(task: Task, theta: Array, log_y: Array) -> float:
    """The log scale that belongs to theta (k,)."""
    return float(scale_of(task, log_y - task.form.log_shape(theta[None], task.z))[0, 0])
