"""Intervals of a law's parameters, by profile likelihood, and whether the data identify them.

A value is inside a parameter's interval if the best fit with this value is not much worse than the best fit: the objective
rises by less than t^2 times the noise (Student's t of the degrees of freedom). Unlike a percentile bootstrap, this holds at a
bound (a floor of 0) and for few points. For correlated points or growing weights, the limit is multiplied by the variance of
the estimate over that of independent points with the right weights (a sandwich estimate). Reads a Law; deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from orchestrator.laws.bootstrap import assign_blocks, corrected_residuals, describe_draws
from orchestrator.laws.forms import FAR, MAX_EXPONENT
from orchestrator.laws.law import Law
from orchestrator.laws.points import Array
from orchestrator.laws.problem import fitted_log_error
from orchestrator.laws.profile import Profile, walk

FLOORS = ("e", "E")
BENDS = ("gamma", "d")
VANISHING = (*FLOORS, *BENDS)  # parameters that may be 0: without effect at their lower bound
EXPONENTS = ("c", "a", "b")  # of L(N,D): a and b; of one column a is the scale
BY_DRAWS = ("M4", "bnsl1", "bnsl2")  # their parameters are not linear in theta: percentiles of the bootstrap
MAX_RATIO = 1000.0  # upper over lower end of an identified scale
MAX_FLOOR_WIDTH = 0.5  # width of an identified floor's interval, over the smallest error
SMALLEST_FLOOR = 1e-4  # over the smallest error: a floor below has no effect


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The ends of a parameter's interval, and whether the data identify the parameter."""

    low: float
    high: float
    identified: bool


def parameter_intervals(law: Law, level: float = 0.9) -> dict[str, tuple[float, float]]:
    """Each parameter's interval (low, high). It contains the estimate; an end that the data do not limit is 0 or inf."""
    return {name: (interval.low, interval.high) for name, interval in intervals_of(law, level).items()}


def intervals_of(law: Law, level: float = 0.9) -> dict[str, Interval]:
    """Each parameter's interval. An M1 in place of an M2 whose floor is at 0 has the intervals of that M2."""
    ends = _from_draws(law, level) if law.form in BY_DRAWS or law.joint_draws else _from_profile(law, level)
    result = {}
    for name, value in law.params.items():
        low, high = min(ends[name][0], value), max(ends[name][1], value)
        result[name] = Interval(low=low, high=high, identified=_is_identified(law, name, low, high))
    return result


def is_exponent(form: str, name: str) -> bool:
    """Whether the parameter is an exponent: reported as it is, where scales and floors are logarithms in the search."""
    return name in EXPONENTS if form == "L(N,D)" else name == "c" or (name.startswith("c") and name[1:].isdigit())


def _is_identified(law: Law, name: str, low: float, high: float) -> bool:
    if name in FLOORS:
        return high - low <= MAX_FLOOR_WIDTH * float(law.points.y.min())
    if is_exponent(law.form, name):
        return high < MAX_EXPONENT * 0.999 and (low > 0.0 or law.form in BY_DRAWS)
    return low > 0 and high / low <= MAX_RATIO


def _from_draws(law: Law, level: float) -> dict[str, tuple[float, float]]:
    tails = [(1 - level) / 2, (1 + level) / 2]
    with np.errstate(over="ignore"):
        drawn = [
            law.curve.natural(theta, float(scale), law.centre)
            for theta, scale in zip(law.draws.theta, law.draws.log_scale, strict=True)
        ]
    ends = {name: np.quantile([params[name] for params in drawn], tails) for name in law.params}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _from_profile(law: Law, level: float) -> dict[str, tuple[float, float]]:
    names, estimate = list(law.params), np.append(law.theta, law.log_scale)
    axes = np.array([_axis(law, name) for name in names])
    slopes = law.problem.slopes(estimate, np.log(law.points.y))
    limits, noise = _limits(law, axes, slopes, level)
    profile = Profile(problem=law.problem, log_y=np.log(law.points.y), estimate=estimate, axes=axes, slopes=slopes, noise=noise)
    reach = [_reach(law, name, estimate, axis) for name, axis in zip(names, axes, strict=True)]
    offsets = np.array([_value(law, name) - axis @ estimate for name, axis in zip(names, axes, strict=True)])
    low, high = walk(profile, limits, np.array([r[0] for r in reach]), np.array([r[1] for r in reach]))
    ends = {}
    for i, name in enumerate(names):
        lower, upper = low[i] + offsets[i], high[i] + offsets[i]
        if not is_exponent(law.form, name):
            lower, upper = float(np.exp(lower)), float(np.exp(upper))
            lower = 0.0 if name in VANISHING and low[i] <= reach[i][0] + 1e-9 else lower
            upper = np.inf if name in BENDS and high[i] >= reach[i][1] - 1e-9 else upper
        ends[name] = (float(lower), float(upper))
    return ends


def _value(law: Law, name: str) -> float:
    """The parameter as in the search: an exponent, or the logarithm of a scale or floor."""
    return law.params[name] if is_exponent(law.form, name) else float(np.log(law.params[name]))


def _axis(law: Law, name: str) -> Array:
    """The derivative of `_value` with respect to theta and the log scale, in which it is linear."""

    def value(theta: Array, log_scale: float) -> float:
        number = law.problem.form.natural(theta, log_scale, law.centre)[name]
        return number if is_exponent(law.form, name) else float(np.log(number))

    base = value(law.theta, law.log_scale)
    moved = [value(law.theta + step, law.log_scale) for step in np.eye(len(law.theta))]
    axis = np.array([*moved, value(law.theta, law.log_scale + 1)]) - base
    return np.where(np.abs(axis) < 1e-9, 0.0, axis)


def _reach(law: Law, name: str, estimate: Array, axis: Array) -> tuple[float, float]:
    """How far the search goes on both sides of the estimate: values beyond are the same law, or not limited by the data."""
    middle = float(axis @ estimate)
    if is_exponent(law.form, name):
        return middle - law.params[name], middle - law.params[name] + MAX_EXPONENT
    if name in FLOORS:
        smallest = float(np.log(law.points.y.min() * SMALLEST_FLOOR)) - (_value(law, name) - middle)
        return smallest, smallest - float(np.log(SMALLEST_FLOOR)) + 1.0
    if name in BENDS:
        number = int(np.flatnonzero(axis)[0])
        return float(law.problem.low[number]), float(law.problem.high[number])
    return middle - 4 * FAR, middle + 4 * FAR


def _limits(law: Law, axes: Array, slopes: Array, level: float) -> tuple[Array, float]:
    """The increase of the objective at the ends of each parameter's interval (P,), and the noise variance."""
    problem, log_y = law.problem, np.log(law.points.y)
    rest = (log_y - fitted_log_error(problem, law.theta, log_y)) * np.sqrt(problem.weights)
    growth = problem.weights / np.where(law.points.weights > 0, law.points.weights, np.inf)
    left, size, right = np.linalg.svd(slopes, full_matrices=False)
    known = size > 1e-7 * size.max()
    left, size, right = left[:, known], size[known], right[known]
    leverage = (left**2).sum(axis=1)
    parameters = min(law.problem.form.num_parameters - (problem.log_scale is not None), len(log_y) - 1)
    share = float((growth * (1 - leverage)).sum()) / max(len(log_y) - leverage.sum(), 1e-9)
    noise = float(rest @ rest) / (share * (len(log_y) - parameters))
    effective = float(growth.sum() ** 2 / (growth**2).sum())
    freedom = max(effective - parameters, 1.0)
    pull = left @ ((right / size[:, None]) @ axes.T)  # (n, P): of each scaled residual on each parameter
    ideal = (pull**2).sum(axis=0)
    actual = (growth[:, None] * pull**2).sum(axis=0)
    ratio = np.where(ideal > 0, actual / np.where(ideal > 0, ideal, 1), 1.0)
    blocks, understated = assign_blocks(problem, law.theta, law.points)
    if len(np.unique(blocks)) < len(log_y) and noise > 0:
        corrected = corrected_residuals(problem, law.theta, log_y, blocks) * np.sqrt(problem.weights) * understated
        sums = np.array([(corrected[blocks == block, None] * pull[blocks == block]).sum(axis=0) for block in np.unique(blocks)])
        clustered = (sums**2).sum(axis=0) / (noise * np.where(ideal > 0, ideal, 1))
        ratio = np.maximum(ratio, clustered)
        freedom = min(freedom, describe_draws(problem, law.theta, law.points, law.theta[None], np.zeros(1)).freedom)
    return ratio * noise * float(t.ppf((1 + level) / 2, freedom)) ** 2, noise
