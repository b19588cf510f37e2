"""Differences of log error between models, with their standard deviations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.verdicts.answers import CurvePoint, Measure
from orchestrator.verdicts.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A difference of log error and its standard deviation: above 0, the first model has the larger error."""

    value: float
    spread: float

    def percent(self, what: str, critical_value: float) -> Measure:
        """The relative difference of error in percent, with its interval."""
        ends = [100 * math.expm1(self.value + sign * critical_value * self.spread) for sign in (0.0, -1.0, 1.0)]
        return Measure(what=what, value=ends[0], low=ends[1], high=ends[2], unit="%")


def mean_log_error(points: Sequence[CurvePoint], evidence: Evidence) -> Gap:
    """Mean log error over the seeds of one model. Averaging reduces the noise of seeds, not that of their common test set."""
    seeds = max(p.spread**2 - p.noise**2 for p in points) / len(points)
    value = float(np.mean([math.log(p.error) + p.optimism for p in points]))
    return Gap(value=value, spread=math.sqrt(max(seeds, 0.0) + max(p.noise**2 for p in points)))


def difference(first: Sequence[CurvePoint], second: Sequence[CurvePoint], evidence: Evidence) -> Gap:
    """Log error of the first model minus that of the second."""
    one, two = mean_log_error(first, evidence), mean_log_error(second, evidence)
    return Gap(value=one.value - two.value, spread=math.hypot(one.spread, two.spread))


def mean_gap(gaps: Sequence[Gap]) -> Gap:
    """The mean of independent gaps. Its spread is from their noise or from their scatter, whichever is larger."""
    values, spreads = np.array([g.value for g in gaps]), np.array([g.spread for g in gaps])
    noise = math.sqrt(float((spreads**2).sum())) / len(gaps)
    scatter = float(values.std(ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return Gap(value=float(values.mean()), spread=max(noise, scatter))


def best_variant(points: Sequence[CurvePoint], evidence: Evidence) -> tuple[CurvePoint, ...]:
    """The points of the variant with the smallest mean error (of equal ones the first by name)."""
    names = sorted({p.variant for p in points})
    groups = [tuple(p for p in points if p.variant == name) for name in names]
    return min(groups, key=lambda group: mean_log_error(group, evidence).value)


def higher_or_lower(number: Measure) -> str:
    """`3.1% higher [+1.0%, +5.2%]`: a relative difference of error in a sentence."""
    return f"{abs(number.value):.1f}% {'higher' if number.value > 0 else 'lower'} [{number.low:+.1f}%, {number.high:+.1f}%]"
