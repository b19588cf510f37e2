"""What every judgement is made of: differences of log error with intervals, and the rule from interval to verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.verdicts.answers import Measure, Point, Verdict
from orchestrator.verdicts.evidence import Evidence

NOWHERE = math.nan


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A verdict before it is put in its place: which number decides it, what explains it, on which rows."""

    verdict: Verdict
    number: Measure
    parts: tuple[Measure, ...] = ()
    method: str
    sentence: str
    points: tuple[Point, ...]
    runs: tuple[str, ...] = ()  # rows besides the points'


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A difference of log error and its standard deviation: above 0, the first errs more."""

    value: float
    spread: float

    def percent(self, what: str, reach: float) -> Measure:
        """How many percent more the first errs, with its interval."""
        ends = [100 * math.expm1(self.value + side * reach * self.spread) for side in (0.0, -1.0, 1.0)]
        return Measure(what=what, value=ends[0], low=ends[1], high=ends[2], unit="%")


def mean_log_error(points: Sequence[Point], found: Evidence) -> Gap:
    """Mean log error of seeds of one model: seeds average out, the finite test set, common to all, does not."""
    seeds = found.seed_spread / math.sqrt(len(points))
    return Gap(
        value=float(np.mean([math.log(p.error) for p in points])), spread=math.hypot(seeds, max(p.noise for p in points))
    )


def difference(first: Sequence[Point], second: Sequence[Point], found: Evidence) -> Gap:
    """Log error of the first model minus that of the second."""
    one, two = mean_log_error(first, found), mean_log_error(second, found)
    return Gap(value=one.value - two.value, spread=math.hypot(one.spread, two.spread))


def mean_gap(gaps: Sequence[Gap]) -> Gap:
    """The mean of independent gaps. Where they differ by more than their noise, their own scatter counts."""
    values, spreads = np.array([g.value for g in gaps]), np.array([g.spread for g in gaps])
    own = math.sqrt(float((spreads**2).sum())) / len(gaps)
    scatter = float(values.std(ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return Gap(value=float(values.mean()), spread=max(own, scatter))


def side(number: Measure, line: float = 0.0, *, holds_above: bool = True) -> Verdict:
    """Holds where the whole interval lies on one side of the line, fails on the other, cannot tell where it straddles."""
    if not (math.isfinite(number.low) or math.isfinite(number.high)):
        return Verdict.CANNOT_TELL
    if number.low > line:
        return Verdict.HOLDS if holds_above else Verdict.FAILS
    if number.high < line:
        return Verdict.FAILS if holds_above else Verdict.HOLDS
    return Verdict.CANNOT_TELL


def unknown(what: str, unit: str = "x") -> Measure:
    """A number that the rows do not give."""
    empty = Measure(what=what, value=NOWHERE, low=NOWHERE, high=NOWHERE, unit="x")
    return replace(empty, unit="%") if unit == "%" else empty


def all_runs(points: Iterable[Point], others: Iterable[str] = ()) -> tuple[str, ...]:
    """The ids of the rows behind points, each once."""
    return tuple(dict.fromkeys([*(run for p in points for run in p.runs), *others]))


def best_variant(points: Sequence[Point], found: Evidence) -> tuple[Point, ...]:
    """The points of the variant with the least mean error (of equal ones the first by name)."""
    names = sorted({p.variant for p in points})
    groups = [tuple(p for p in points if p.variant == name) for name in names]
    return min(groups, key=lambda group: mean_log_error(group, found).value)


def longest(points: Sequence[Point]) -> tuple[Point, ...]:
    """Of each variant at each size and seed, the longest pretraining."""

    def flops(p: Point) -> float:
        return p.pretrain_flops if p.pretrain_flops > 0 else 0.0

    most: dict[tuple[str, int], float] = {}
    for p in points:
        most[p.variant, p.dataset_size] = max(most.get((p.variant, p.dataset_size), 0.0), flops(p))
    return tuple(p for p in points if flops(p) >= most[p.variant, p.dataset_size])


def errs(number: Measure) -> str:
    """`errs 3.1% more [+1.0%, +5.2%]`: a relative difference of error as a verb."""
    return f"errs {abs(number.value):.1f}% {'more' if number.value > 0 else 'less'} [{number.low:+.1f}%, {number.high:+.1f}%]"
