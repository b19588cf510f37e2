"""Bootstrap draws of one or two laws, evaluated: errors at given x, and x at given errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws import bands
from orchestrator.laws.bootstrap import BootstrapDraws
from orchestrator.laws.law import Law
from orchestrator.laws.points import Array

SEED = 20222


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
