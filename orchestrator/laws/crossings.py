"""The x at which the law of one family falls below the law of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator.laws.draws import log_error, paired_draws
from orchestrator.laws.law import Law
from orchestrator.laws.points import Array, LawError


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """The x from which one law is below the other, and which one (`gains`).

    x, low and high are nan if the laws do not cross in the common range; `chance` is the share of draws that cross there.
    """

    x: float
    low: float
    high: float
    gains: Literal["first", "second", "none"]
    chance: float
    common: tuple[float, float]


def crossing(first: Law, second: Law, level: float = 0.9) -> Crossing:
    """The x at which one law crosses the other, within the x that both were fitted to; the largest one if there are several.

    Raises LawError if the two ranges of x do not overlap.
    """
    low = max(first.x_range[0], second.x_range[0])
    high = min(first.x_range[1], second.x_range[1])
    if not low < high:
        ranges = " and ".join(f"{law.x_range[0]:.3g} to {law.x_range[1]:.3g}" for law in (first, second))
        raise LawError(
            f"the two laws share no range of x ({ranges})", reason="no solution", allowed="laws with overlapping ranges of x"
        )
    line = np.exp(np.linspace(np.log(low), np.log(high), 400))
    gap = np.log(first.predict(line)) - np.log(second.predict(line))
    one, two = paired_draws(first, second)
    x = last_crossing(gap[None], line)[0]
    all_drawn = last_crossing(log_error(first, line, one) - log_error(second, line, two), line)
    drawn = all_drawn[np.isfinite(all_drawn)]
    is_known = len(drawn) > 0 and np.isfinite(x)
    ends = np.quantile(np.log(drawn), [(1 - level) / 2, (1 + level) / 2]) if is_known else np.full(2, np.nan)
    gains: Literal["first", "second", "none"] = "none" if not np.isfinite(x) else "second" if gap[-1] > 0 else "first"
    low_x, high_x = np.exp(ends)
    share = len(drawn) / len(all_drawn)
    return Crossing(x=float(x), low=float(low_x), high=float(high_x), gains=gains, chance=share, common=(low, high))


def last_crossing(gap: Array, line: Array) -> Array:
    """x (R,) of the last change of sign along each row of log gaps (R, n); nan if there is none."""
    signs = np.sign(gap)
    for column in range(1, signs.shape[1]):  # a gap of exactly 0 has the sign before it, so that a crossing there counts
        signs[:, column] = np.where(signs[:, column] == 0, signs[:, column - 1], signs[:, column])
    change = signs[:, :-1] * signs[:, 1:] < 0
    x = np.full(len(gap), np.nan)
    for row in np.flatnonzero(change.any(axis=1)):
        i = int(np.flatnonzero(change[row])[-1])
        share = gap[row, i] / (gap[row, i] - gap[row, i + 1])
        x[row] = np.exp(np.log(line[i]) + share * (np.log(line[i + 1]) - np.log(line[i])))
    return x
