"""A fitted law: its predictions, the x at which it reaches an error, its intervals, and the diagnostics of its fit.

Frozen data and pure methods. x has the unit it was fitted in, y the unit of the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws import bands
from orchestrator.laws.bootstrap import BootstrapDraws, bootstrap, bootstrap_members, cleanest, describe_draws
from orchestrator.laws.forms import FunctionalForm
from orchestrator.laws.points import Array, LawError, Points
from orchestrator.laws.problem import FitProblem
from orchestrator.laws.tolerance import ROUNDING


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """The forecast error of a form on its own data: fitted on x up to each cut, scored on the points up to twice the cut.

    rmse (root of the mean square over cuts) and bias (mean over cuts) are of log error; a bias above 0 means that forecasts
    were too high. spread is the standard error of the mean square over cuts, relative to it. nan if no cut leaves enough
    points.
    """

    rmse: float
    bias: float
    spread: float
    cuts: int


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """Diagnostics of a fit. Errors are log errors; names are those of the form's parameters."""

    points: int
    effective_points: float
    growth: float  # weights grow as x to this power
    trend: Literal["falling", "flat", "rising"]
    objective: float  # the minimised sum
    rmse: float  # weighted, on the fitted points
    noise: float  # the same, corrected for the parameters' degrees of freedom
    converged: bool
    agreeing_starts: int  # descents that ended within 0.1% of the best objective
    bounds_hit: tuple[str, ...]
    unidentified: tuple[str, ...]  # less than two standard errors from zero
    condition: float  # of the scaled Jacobian: above 1e4 the data cannot separate some parameters
    standard_errors: Mapping[str, float]  # of theta: of exponents directly, of all other parameters in logarithms
    rollout: Rollout
    candidates: Mapping[str, float]  # roll-out RMSE of every form that `auto` averaged, or of this form
    weights: Mapping[str, float] = field(default_factory=dict)  # in the average of `auto`; M2 x^1: weights grow as x
    short_range: bool = False  # x spans less than a decade


@dataclass(frozen=True, kw_only=True)
class Member:
    """A form fitted with weights that grow as x^growth, and its weight in an average."""

    label: str
    weight: float
    growth: float
    problem: FitProblem
    theta: Array
    log_scale: float


@dataclass(frozen=True, kw_only=True)
class Law:
    """A form with its parameters: y = scale * shape(theta, x / centre).

    The law of `auto` predicts with the weighted average of its `members`, whose form is `average`. Its other fields are those
    of one form, fitted with weights by noise alone.
    """

    form: str
    formula: str
    params: Mapping[str, float]
    diagnostics: Diagnostics
    theta: Array = field(repr=False)
    log_scale: float = field(repr=False)
    centre: Array = field(repr=False)
    points: Points = field(repr=False)
    problem: FitProblem = field(repr=False)
    members: tuple[Member, ...] = field(default=(), repr=False)  # of the average of `auto`
    average: FunctionalForm | None = field(default=None, repr=False)  # see `blend.average_of`
    joint_draws: BootstrapDraws | None = field(default=None, repr=False)  # of a fit that shares parameters with other laws

    @property
    def is_floor_left_out(self) -> bool:
        """Whether this is M1 in place of an M2 whose floor is at 0. Bands and intervals allow for a floor."""
        return self.form == "M1" and self.problem.form.name == "M2"

    @property
    def curve(self) -> FunctionalForm:
        """The form of the predictions and of the bootstrap draws: the average, or the law's own form."""
        return self.average or self.problem.form

    @property
    def x_range(self) -> tuple[float, float]:
        """The smallest and largest fitted x (of two columns: their product)."""
        return float(self.points.first.min()), float(self.points.first.max())

    def predict(self, x: ArrayLike) -> Array:
        """Error at each x (n,), or (n, 2) for two columns. Raises LawError for x that is not positive."""
        return np.exp(self._log_error(self.centred(x)))

    def _log_error(self, z: Array) -> Array:
        theta, log_scale = self._solution
        return np.asarray(log_scale + self.curve.log_shape(theta[None], z)[0])

    @property
    def _solution(self) -> tuple[Array, float]:
        """theta and log scale of `curve`."""
        if self.average is None:
            return self.theta, self.log_scale
        return np.concatenate([self.theta, [self.log_scale], *([*m.theta, m.log_scale] for m in self.members)]), 0.0

    def invert(self, y: ArrayLike) -> Array:
        """The x at which the law falls to each error: inf if it never does, 0 if the law is below the error everywhere.

        Raises LawError for a law of two columns, or one that does not fall monotonically.
        """
        theta, log_scale = self._solution
        return bands.invert(theta[None], np.array([log_scale]), self.curve, float(self.centre[0]), y)[0]

    def interval(self, x: ArrayLike, level: float = 0.9, kind: Literal["confidence", "prediction"] = "confidence") -> Array:
        """The band (2, n) at each x that contains the law (confidence) or a new run's error (prediction) at this level.

        From bootstrap draws over runs or blocks, plus the disagreement of the averaged forms. A prediction beyond the data is
        also as uncertain as the law's roll-outs, if these were off by more than the noise. The band contains the law's own
        prediction. Raises LawError for an invalid level.
        """
        if not 0 < level < 1:
            raise LawError(f"invalid level {level}", reason="bad input", allowed="between 0 and 1")
        z = self.centred(x)
        middle = self._log_error(z)
        spread = self._disagreement(z, middle)
        if kind == "prediction":
            is_beyond = _first_axis(z) > _first_axis(self.problem.z).max() * (1 + ROUNDING)
            missed = np.where(is_beyond, bands.excess_error(self.diagnostics.rollout.rmse, self.draws.noise), 0.0)
            spread = np.sqrt(np.maximum(spread, missed) ** 2 + self.draws.noise**2)
        return np.exp(bands.band(self.draws, self.curve, z, middle=middle, level=level, spread=spread))

    def _disagreement(self, z: Array, middle: Array) -> Array:
        """The weighted standard deviation (n,) of the members' log errors."""
        total = np.zeros_like(middle)
        for member in self.members:
            gap = member.log_scale + member.problem.form.log_shape(member.theta[None], z)[0] - middle
            total += member.weight * gap**2
        return np.sqrt(total)

    @cached_property
    def draws(self) -> BootstrapDraws:
        """The bootstrap refits of this law: deterministic, computed at first use."""
        if self.joint_draws is not None:
            return self.joint_draws
        own = bootstrap(self.problem, self.theta, self.points)
        if self.average is None:
            return own
        fits = [(self.problem, self.theta), *((m.problem, m.theta) for m in self.members)]
        source = cleanest(fits, self.points)
        theta = np.hstack([own.theta, own.log_scale[:, None], bootstrap_members(fits[1:], source, self.points)])
        return describe_draws(*source, self.points, theta, np.zeros(len(theta)))

    def centred(self, x: ArrayLike) -> Array:
        """x in units of the fitted points' geometric mean. Raises LawError for x that is not positive."""
        values = np.atleast_1d(np.asarray(x, dtype=float))
        if self.problem.form.columns == 2:
            values = np.atleast_2d(values)
        if not (values > 0).all() or values.ndim != self.problem.form.columns:
            raise LawError(
                f"invalid x of shape {values.shape}",
                reason="bad input",
                allowed=f"positive values, {self.problem.form.columns} column(s), for {self.formula}",
            )
        return np.asarray(values / (self.centre if self.problem.form.columns == 2 else self.centre[0]))


def _first_axis(z: Array) -> Array:
    return z if z.ndim == 1 else np.asarray(np.prod(z, axis=1))
