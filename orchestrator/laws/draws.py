"""Bootstrap draws of one or two laws, evaluated: errors at given x, and x at given errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, t

from orchestrator.laws import bands
from orchestrator.laws.bootstrap import BootstrapDraws
from orchestrator.laws.law import Law
from orchestrator.laws.points import Array

SEED = 20222


@dataclass(frozen=True, kw_only=True)
class Width:
    """How draws become an interval: its tails, and the factor from normal to Student's t.

    Few runs determine their own noise poorly, and draws do not include that.
    """

    tails: tuple[float, float]
    wider: float

    @staticmethod
    def of(level: float, freedom: float) -> Width:
        tails = ((1 - level) / 2, (1 + level) / 2)
        return Width(tails=tails, wider=float(t.ppf(tails[1], freedom) / norm.ppf(tails[1])) if np.isfinite(freedom) else 1.0)

    def interval(self, draws: Array, middle: float) -> tuple[float, float]:
        """The interval of draws (R,) about the estimate `middle`, which it contains. Draws may be infinite."""
        ends = np.quantile(draws, self.tails, method="linear" if np.isfinite(draws).all() else "inverted_cdf")
        if not np.isfinite(middle):
            return min(float(ends[0]), middle), max(float(ends[1]), middle)
        low, high = middle + self.wider * (ends - middle)
        return min(float(low), middle), max(float(high), middle)


def combined_freedom(parts: tuple[Array, Array], freedom: tuple[float, float]) -> float:
    """Degrees of freedom of a difference of two independent estimates (Satterthwaite 1946), from draws (R, n) of each."""
    variances = []
    for draws in parts:
        known = np.where(np.isfinite(draws), draws, np.nan)[np.isfinite(draws).any(axis=1)]
        variances.append(float(np.var(np.nanmean(known, axis=1))) if len(known) > 1 else 0.0)
    total = sum(variances)
    if total <= 0:
        return float(sum(freedom))
    return float(total**2 / sum(variance**2 / free for variance, free in zip(variances, freedom, strict=True)))


def log_draws(law: Law, x: ArrayLike) -> Array:
    """log error (R, n) at each x of each bootstrap draw of the law."""
    return log_error(law, np.atleast_1d(np.asarray(x, dtype=float)), law.draws)


def log_gap_draws(first: Law, second: Law, x: ArrayLike) -> Array:
    """log(error of the first / error of the second) (R, n) at each x; draws are independent unless fitted together."""
    values = np.atleast_1d(np.asarray(x, dtype=float))
    one, two = paired_draws(first, second)
    return log_error(first, values, one) - log_error(second, values, two)


def paired_draws(first: Law, second: Law) -> tuple[BootstrapDraws, BootstrapDraws]:
    """Draws to be compared row by row: unchanged for laws that were fitted together, else shuffled to be independent."""
    one, two = first.draws, second.draws
    if first.joint_draws is not None and second.joint_draws is not None:
        return one, two
    order = np.random.default_rng(SEED).permutation(len(two.log_scale))
    return one, replace(two, theta=two.theta[order], log_scale=two.log_scale[order])


def log_error(law: Law, x: Array, draws: BootstrapDraws) -> Array:
    """log error (R, n) at each x for these draws of the law."""
    return draws.log_scale[:, None] + law.curve.log_shape(draws.theta, law.centred(x))


def log_x(law: Law, errors: Array, draws: BootstrapDraws) -> Array:
    """log x (R, n) at which each draw of the law reaches each error; inf: never; -inf: at any x."""
    with np.errstate(divide="ignore"):  # log 0 = -inf
        return np.log(bands.invert(draws.theta, draws.log_scale, law.curve, float(law.centre[0]), errors))
