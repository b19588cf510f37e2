"""The result of judging one claim in one view, and the rule that turns an interval into a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator.verdicts.answers import CurvePoint, Measure, Verdict


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict, the number that decides it, the numbers that explain it, and the points and rows it is based on."""

    verdict: Verdict
    number: Measure
    parts: tuple[Measure, ...] = ()
    method: str
    sentence: str
    points: tuple[CurvePoint, ...]
    runs: tuple[str, ...] = ()  # rows that are not part of a point
    needs_seeds: bool = False  # the interval rests on the spread between seeds, measured or assumed


def is_above(value: float, limit: float) -> bool:
    """Whether a value is above a limit by more than rounding: a verdict must not depend on the last digit."""
    return value > limit and not math.isclose(value, limit, rel_tol=1e-9, abs_tol=1e-9)


def compare(number: Measure, limit: float = 0.0, *, holds_above: bool = True) -> Verdict:
    """HOLDS if the whole interval is on one side of the limit, FAILS on the other, CANNOT_TELL if it contains the limit."""
    if not (math.isfinite(number.low) or math.isfinite(number.high)):
        return Verdict.CANNOT_TELL
    if is_above(number.low, limit):
        return Verdict.HOLDS if holds_above else Verdict.FAILS
    if is_above(limit, number.high):
        return Verdict.FAILS if holds_above else Verdict.HOLDS
    return Verdict.CANNOT_TELL


def unknown(what: str, unit: str = "x") -> Measure:
    """A number that the rows do not determine."""
    empty = Measure(what=what, value=math.nan, low=math.nan, high=math.nan, unit="x")
    return replace(empty, unit="%") if unit == "%" else empty


def all_runs(points: Iterable[CurvePoint], others: Iterable[str] = ()) -> tuple[str, ...]:
    """The ids of the rows of these points, and others, each once."""
    return tuple(dict.fromkeys([*(run for p in points for run in p.runs), *others]))
