"""Two families beside each other: how much more compute one needs for the same error, and where one overtakes the other.

Reads two laws, or the points of two families; returns frozen answers with intervals. Only the range of errors that both
families reached is compared; what one of them did not reach is said, never extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws import bands
from orchestrator.laws.bands import Draws
from orchestrator.laws.fronts import front_inverse, pareto
from orchestrator.laws.law import Law
from orchestrator.laws.points import Array, LawError, Points, points

LEVELS = 25  # errors, evenly spaced in their logarithm, over which a ratio is averaged
DRAWS = 400
SEED = 20222


class Reached(StrEnum):
    """Who reached an error within the x it was measured at."""

    BOTH = "both"
    FIRST_NOT = "not reached by the first"
    SECOND_NOT = "not reached by the second"
    NEITHER = "not reached by either"


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """x of the first family over x of the second at equal error: above 1, the second needs less.

    `value` is the geometric mean over the common range of errors, with its interval. `at` gives single errors: ratio, low,
    high and who reached it; the numbers are nan where `reached` is not BOTH, and all are nan where `errors`, the common
    range, is. `covered` is the share of bootstrap draws that reach at least half of that range. Others, in which one family
    never gets there, count as 0 or infinitely many times: where they are more than a tail, so is that end of the interval.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    errors: tuple[float, float]
    at: tuple[RatioAt, ...]
    covered: float


@dataclass(frozen=True, kw_only=True)
class RatioAt:
    """The ratio at one error."""

    error: float
    reached: Reached
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where the second law comes to lie below the first (`gains` "second") or the first below the second.

    x, low and high are nan where the laws do not cross in the common range; `chance` is the share of draws that cross there.
    """

    x: float
    low: float
    high: float
    gains: str
    chance: float
    common: tuple[float, float]


def compute_ratio(first: Law, second: Law, errors: ArrayLike | None = None, level: float = 0.9) -> Ratio:
    """How many times the x (compute, data) of `second` the family `first` needs, by their laws, at equal error.

    Without `errors`, at both ends and the middle of the common range. Where the families share no error, the value is nan
    ("not reached" is an answer). Raises LawError for laws that cannot be inverted.
    """
    low, high = _common(_error_range(first), _error_range(second))
    both = np.concatenate([_line((low, high)), _asked(errors, low, high)])
    with np.errstate(divide="ignore", invalid="ignore"):  # an error asked for may lie outside either law
        middle = np.log(first.invert(both)) - np.log(second.invert(both))
    one, two = _pairs(first, second)
    with np.errstate(invalid="ignore"):  # inf - inf: neither draw gets there
        draws = _log_x(first, both, one) - _log_x(second, both, two)
    return _ratio(middle, draws, both, ranges=(_error_range(first), _error_range(second)), level=level, method="laws")


def front_ratio(
    first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike], errors: ArrayLike | None = None, level: float = 0.9
) -> Ratio:
    """The same by the families' Pareto fronts, joined by straight lines in logarithms; the interval redraws the runs.

    Each family is (x, error); the value is nan where the fronts share no error.
    """
    one, two = points(*first), points(*second)
    ranges = _front_range(one), _front_range(two)
    low, high = _common(*ranges)
    both = np.concatenate([_line((low, high)), _asked(errors, low, high)])
    middle = front_inverse(one.x, one.y, both) - front_inverse(two.x, two.y, both)
    random = np.random.default_rng(SEED)
    draws = np.array([_redrawn(one, both, random) - _redrawn(two, both, random) for _ in range(DRAWS)])
    return _ratio(middle, draws, both, ranges=ranges, level=level, method="fronts")


def crossing(first: Law, second: Law, level: float = 0.9) -> Crossing:
    """The x at which one law overtakes the other, inside the x that both were measured at; the last one if several.

    Raises LawError where the families share no range of x.
    """
    low = max(first.x_range[0], second.x_range[0])
    high = min(first.x_range[1], second.x_range[1])
    if not low < high:
        raise LawError("the families share no range of x", reason="no solution")
    line = np.exp(np.linspace(np.log(low), np.log(high), 400))
    gap = np.log(first.predict(line)) - np.log(second.predict(line))
    one, two = _pairs(first, second)
    found = _last_crossing(gap[None], line)[0]
    all_drawn = _last_crossing(_log_y(first, line, one) - _log_y(second, line, two), line)
    drawn = all_drawn[np.isfinite(all_drawn)]
    seen = len(drawn) > 0 and np.isfinite(found)
    ends = np.quantile(np.log(drawn), [(1 - level) / 2, (1 + level) / 2]) if seen else np.full(2, np.nan)
    gains = "none" if not np.isfinite(found) else "second" if gap[-1] > 0 else "first"
    low_x, high_x = np.exp(ends)
    share = len(drawn) / len(all_drawn)
    return Crossing(x=float(found), low=float(low_x), high=float(high_x), gains=gains, chance=share, common=(low, high))


def log_draws(law: Law, x: ArrayLike) -> Array:
    """log error (R, n) at each x by each of the law's bootstrap draws."""
    return _log_y(law, np.atleast_1d(np.asarray(x, dtype=float)), law.draws)


def log_gap_draws(first: Law, second: Law, x: ArrayLike) -> Array:
    """log error of the first over the second (R, n) at each x, drawn independently unless the laws were fitted together."""
    values = np.atleast_1d(np.asarray(x, dtype=float))
    one, two = _pairs(first, second)
    return _log_y(first, values, one) - _log_y(second, values, two)


# --- parts ----------------------------------------------------------------------------------------------------


def _error_range(law: Law) -> tuple[float, float]:
    """The errors the law passes within the x it was fitted to: (lowest, highest)."""
    ends = law.predict(np.array(law.x_range))
    return float(ends[1]), float(ends[0])


def _front_range(found: Points) -> tuple[float, float]:
    _, y = pareto(found.x, found.y)
    return float(y[-1]), float(y[0])


def _common(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """The errors both reached; nan where there are none."""
    low, high = max(first[0], second[0]), min(first[1], second[1])
    return (low, high) if low < high else (float("nan"), float("nan"))


def _line(common: tuple[float, float]) -> Array:
    return np.geomspace(*common, LEVELS) if np.isfinite(common[0]) else np.full(0, np.nan)


def _asked(errors: ArrayLike | None, low: float, high: float) -> Array:
    if errors is None:
        return np.array([high, np.sqrt(low * high), low]) if np.isfinite(low) else np.full(0, np.nan)
    return np.atleast_1d(np.asarray(errors, dtype=float))


def _log_x(law: Law, errors: Array, draws: Draws) -> Array:
    """log x (R, n) at which each draw of the law reaches each error; inf where it never does."""
    with np.errstate(divide="ignore"):  # log 0 = -inf: reached from the start
        return np.log(bands.invert(draws.theta, draws.log_scale, law.task.form, float(law.centre[0]), errors))


def _log_y(law: Law, x: Array, draws: Draws) -> Array:
    return draws.log_scale[:, None] + law.task.form.log_shape(draws.theta, law.centred(x))


def _pairs(first: Law, second: Law) -> tuple[Draws, Draws]:
    """Draws to be read side by side: of laws fitted together as they are, else independent of each other."""
    one, two = first.draws, second.draws
    if first.joint_draws is not None and second.joint_draws is not None:
        return one, two
    order = np.random.default_rng(SEED).permutation(len(two.log_scale))
    return one, replace(two, theta=two.theta[order], log_scale=two.log_scale[order])


def _redrawn(found: Points, errors: Array, random: np.random.Generator) -> Array:
    """log x at each error on the front of runs drawn with replacement; nan outside that front."""
    pick = np.unique(random.integers(0, len(found.y), len(found.y)))
    return front_inverse(found.x[pick], found.y[pick], errors)


def _ratio(
    middle: Array,
    draws: Array,
    errors: Array,
    *,
    ranges: tuple[tuple[float, float], tuple[float, float]],
    level: float,
    method: str,
) -> Ratio:
    """Of the errors, those along the common range come first and are averaged; the others are reported one by one."""
    tails = ((1 - level) / 2, (1 + level) / 2)
    finite = np.where(np.isfinite(draws), draws, np.nan)
    common = _common(*ranges)
    averaged = len(_line(common))
    covered = np.isfinite(finite[:, :averaged]).mean(axis=1) >= 0.5 if averaged else np.zeros(len(draws), dtype=bool)
    value, low, high = np.nan, np.nan, np.nan
    if averaged:
        value = float(np.exp(middle[:averaged].mean()))
    if covered.any():
        never = np.nan_to_num(draws[~covered, :averaged], posinf=1.0, neginf=-1.0, nan=0.0)
        sides = np.sign(np.where(np.isfinite(draws[~covered, :averaged]), 0.0, never).sum(axis=1))
        unending = sides[sides != 0] * np.inf
        low, high = _ends(np.concatenate([np.nanmean(finite[covered, :averaged], axis=1), unending]), tails)
        low, high = min(low, value), max(high, value)
    return Ratio(
        value=value,
        low=float(low),
        high=float(high),
        level=level,
        method=method,
        errors=common,
        at=tuple(_ratio_at(errors[i], middle[i], draws[:, i], ranges, tails) for i in range(averaged, len(errors))),
        covered=float(covered.mean()),
    )


def _ratio_at(
    error: float,
    middle: float,
    draws: Array,
    ranges: tuple[tuple[float, float], tuple[float, float]],
    tails: tuple[float, float],
) -> RatioAt:
    inside = [low * (1 - 1e-9) <= error <= high * (1 + 1e-9) for low, high in ranges]
    if not all(inside):
        reached = Reached.NEITHER if not any(inside) else Reached.SECOND_NOT if inside[0] else Reached.FIRST_NOT
        return RatioAt(error=float(error), reached=reached, ratio=float("nan"), low=float("nan"), high=float("nan"))
    seen = draws[~np.isnan(draws)]
    low, high = _ends(seen, tails) if len(seen) else (np.nan, np.nan)
    return RatioAt(error=float(error), reached=Reached.BOTH, ratio=float(np.exp(middle)), low=low, high=high)


def _ends(logs: Array, tails: tuple[float, float]) -> tuple[float, float]:
    """The interval of ratios with these logarithms, some of which may be infinite."""
    low, high = np.exp(np.quantile(logs, tails, method="linear" if np.isfinite(logs).all() else "inverted_cdf"))
    return float(low), float(high)


def _last_crossing(gap: Array, line: Array) -> Array:
    """x (R,) of the last change of sign along each row of log gaps (R, n); nan where there is none."""
    change = np.sign(gap[:, :-1]) * np.sign(gap[:, 1:]) < 0
    found = np.full(len(gap), np.nan)
    for row in np.flatnonzero(change.any(axis=1)):
        i = int(np.flatnonzero(change[row])[-1])
        share = gap[row, i] / (gap[row, i] - gap[row, i + 1])
        found[row] = np.exp(np.log(line[i]) + share * (np.log(line[i + 1]) - np.log(line[i])))
    return found
