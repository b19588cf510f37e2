"""Compute ratios of two families: how many times the compute of one family the other needs for the same error.

Reads two laws, or the points of two families; returns ratios with intervals. Only errors that both families reached are
compared. Errors that one of them did not reach are reported as such, not extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws.draws import SEED, Width, combined_freedom, log_x, paired_draws
from orchestrator.laws.law import Law
from orchestrator.laws.pareto_front import front_inverse, pareto
from orchestrator.laws.points import Array, Points, check_points

LEVELS = 25  # errors over which a ratio is averaged, evenly spaced in their logarithm
FRONT_DRAWS = 400

ErrorRange = tuple[float, float]


class ReachedBy(StrEnum):
    """Which of the two families reached an error within its measured x."""

    BOTH = "both"
    SECOND_ONLY = "not reached by the first"
    FIRST_ONLY = "not reached by the second"
    NEITHER = "not reached by either"


@dataclass(frozen=True, kw_only=True)
class RatioAt:
    """The ratio at one error."""

    error: float
    reached: ReachedBy
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """x of the first family over x of the second at equal error: above 1, the second needs less.

    `value` is the geometric mean over the common range of errors, `errors`, with its interval; nan if there is no common
    range. `at` has ratios at single errors; its numbers are nan unless both families reached the error. `covered` is the
    share of bootstrap draws in which both families reach at least half of the common range. In the other draws the ratio is 0
    or infinite: if they are more than a tail, that end of the interval is 0 or infinite.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    errors: ErrorRange
    at: tuple[RatioAt, ...]
    covered: float


def compute_ratio(first: Law, second: Law, errors: ArrayLike | None = None, level: float = 0.9) -> Ratio:
    """How many times the x (compute, data) of `second` the family `first` needs at equal error, by their laws.

    Single ratios are given at `errors`, by default at both ends and the middle of the common range. Without a common range
    the value is nan. Raises LawError for laws that cannot be inverted.
    """
    low, high = _common_range(_law_range(first), _law_range(second))
    compared = np.concatenate([_averaged_errors((low, high)), _single_errors(errors, low, high)])
    with np.errstate(divide="ignore", invalid="ignore"):  # a requested error may be outside both laws
        middle = np.log(first.invert(compared)) - np.log(second.invert(compared))
    one, two = paired_draws(first, second)
    with np.errstate(invalid="ignore"):  # inf - inf: neither draw reaches the error
        parts = log_x(first, compared, one), log_x(second, compared, two)
        draws = parts[0] - parts[1]
    freedom = combined_freedom(parts, (first.draws.freedom, second.draws.freedom))
    ranges = _law_range(first), _law_range(second)
    return _ratio(middle, draws, compared, ranges=ranges, level=level, method="laws", freedom=freedom)


def front_ratio(
    first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike], errors: ArrayLike | None = None, level: float = 0.9
) -> Ratio:
    """The same ratio by the families' Pareto fronts, interpolated linearly in logarithms; the interval resamples the runs.

    Each family is (x, error). The value is nan if the fronts have no error in common.
    """
    one, two = check_points(*first), check_points(*second)
    ranges = _front_range(one), _front_range(two)
    low, high = _common_range(*ranges)
    compared = np.concatenate([_averaged_errors((low, high)), _single_errors(errors, low, high)])
    middle = front_inverse(one.x, one.y, compared) - front_inverse(two.x, two.y, compared)
    random = np.random.default_rng(SEED)
    draws = np.array(
        [_resampled_front(one, compared, random) - _resampled_front(two, compared, random) for _ in range(FRONT_DRAWS)]
    )
    return _ratio(middle, draws, compared, ranges=ranges, level=level, method="fronts")


def _law_range(law: Law) -> ErrorRange:
    """The errors of the law within its fitted x: (lowest, highest)."""
    ends = law.predict(np.array(law.x_range))
    return float(ends[1]), float(ends[0])


def _front_range(points: Points) -> ErrorRange:
    _, y = pareto(points.x, points.y)
    return float(y[-1]), float(y[0])


def _common_range(first: ErrorRange, second: ErrorRange) -> ErrorRange:
    """The errors that both reached; nan if there are none."""
    low, high = max(first[0], second[0]), min(first[1], second[1])
    return (low, high) if low < high else (float("nan"), float("nan"))


def _averaged_errors(common: ErrorRange) -> Array:
    return np.geomspace(*common, LEVELS) if np.isfinite(common[0]) else np.full(0, np.nan)


def _single_errors(errors: ArrayLike | None, low: float, high: float) -> Array:
    if errors is None:
        return np.array([high, np.sqrt(low * high), low]) if np.isfinite(low) else np.full(0, np.nan)
    return np.atleast_1d(np.asarray(errors, dtype=float))


def _resampled_front(points: Points, errors: Array, random: np.random.Generator) -> Array:
    """log x at each error on the front of runs drawn with replacement; nan outside that front."""
    pick = np.unique(random.integers(0, len(points.y), len(points.y)))
    return front_inverse(points.x[pick], points.y[pick], errors)


def _ratio(
    middle: Array,
    draws: Array,
    errors: Array,
    *,
    ranges: tuple[ErrorRange, ErrorRange],
    level: float,
    method: str,
    freedom: float = np.inf,
) -> Ratio:
    """The ratio from log ratios at each error: of the laws (n,) and of draws (R, n).

    `errors` has the errors that are averaged over the common range, followed by those that are reported one by one. Intervals
    are widened from normal to Student's t with these degrees of freedom: few runs determine their own noise poorly.
    """
    width = Width.of(level, freedom)
    finite = np.where(np.isfinite(draws), draws, np.nan)
    common = _common_range(*ranges)
    averaged = len(_averaged_errors(common))
    covered = np.isfinite(finite[:, :averaged]).mean(axis=1) >= 0.5 if averaged else np.zeros(len(draws), dtype=bool)
    value, low, high = np.nan, np.nan, np.nan
    if averaged:
        value = float(np.exp(middle[:averaged].mean()))
    if covered.any():
        never = np.nan_to_num(draws[~covered, :averaged], posinf=1.0, neginf=-1.0, nan=0.0)
        sides = np.sign(np.where(np.isfinite(draws[~covered, :averaged]), 0.0, never).sum(axis=1))
        infinite = sides[sides != 0] * np.inf
        logs = np.concatenate([np.nanmean(finite[covered, :averaged], axis=1), infinite])
        low, high = (float(np.exp(end)) for end in width.interval(logs, float(middle[:averaged].mean())))
    return Ratio(
        value=value,
        low=float(low),
        high=float(high),
        level=level,
        method=method,
        errors=common,
        at=tuple(_ratio_at(errors[i], middle[i], draws[:, i], ranges, width) for i in range(averaged, len(errors))),
        covered=float(covered.mean()),
    )


def _ratio_at(error: float, middle: float, draws: Array, ranges: tuple[ErrorRange, ErrorRange], width: Width) -> RatioAt:
    inside = [low * (1 - 1e-9) <= error <= high * (1 + 1e-9) for low, high in ranges]
    if not all(inside):
        reached = ReachedBy.NEITHER if not any(inside) else ReachedBy.FIRST_ONLY if inside[0] else ReachedBy.SECOND_ONLY
        return RatioAt(error=float(error), reached=reached, ratio=float("nan"), low=float("nan"), high=float("nan"))
    known = draws[~np.isnan(draws)]
    low, high = (float(np.exp(end)) for end in width.interval(known, middle)) if len(known) else (np.nan, np.nan)
    return RatioAt(error=float(error), reached=ReachedBy.BOTH, ratio=float(np.exp(middle)), low=low, high=high)
