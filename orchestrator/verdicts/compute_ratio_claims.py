"""Claims about the compute ratio: the challenger needs less compute than the rival at equal error.

They rest on laws of error over pretraining compute, whose form is part of the method. If a law cannot be fitted, the ratio is
that of Pareto fronts, and the method states it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from orchestrator import laws
from orchestrator.laws import Law, LawError, Ratio
from orchestrator.results.summary import family_name
from orchestrator.verdicts.answers import Curve, Measure, Verdict
from orchestrator.verdicts.curves import compute_points, curve
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.verdict_rules import Judgement, is_above, unknown


@dataclass(frozen=True, kw_only=True)
class CurvePair:
    """The compute curves of two families in one view."""

    first: Curve
    second: Curve

    @property
    def laws(self) -> tuple[Law, Law] | None:
        return None if self.first.law is None or self.second.law is None else (self.first.law, self.second.law)

    @property
    def refused(self) -> str:
        """Why there are not two laws."""
        return "; ".join(f"{family_name(c.family)}: {c.refused}" for c in (self.first, self.second) if c.law is None)

    @property
    def forms(self) -> str:
        """`M1 laws`, `M2 and zhai laws`."""
        return f"{' and '.join(dict.fromkeys(law.form for law in self.laws or ()))} laws"


def curve_pair(evidence: Evidence, first: str, second: str, form: str) -> CurvePair | None:
    """The curves of both families; None if one has no points."""
    curves = [curve(evidence.view.name, compute_points(evidence, family), "pretrain_flops", form) for family in (first, second)]
    return None if curves[0] is None or curves[1] is None else CurvePair(first=curves[0], second=curves[1])


def less_compute(evidence: Evidence) -> Judgement | None:
    """The rival needs more compute than the challenger for the same error."""
    return _judge_ratio(evidence, 1.0, math.inf)


def two_to_four_times_less(evidence: Evidence) -> Judgement | None:
    """The challenger needs `times_less` (by default 2 to 4) times less compute."""
    return _judge_ratio(evidence, *evidence.claims.times_less)


def _judge_ratio(evidence: Evidence, least: float, most: float) -> Judgement | None:
    claims = evidence.claims
    pair = curve_pair(evidence, claims.rival, claims.challenger, claims.form)
    if pair is None:
        return None
    ratio, method = ratio_of(pair, evidence)
    points = pair.first.points + pair.second.points
    what = f"compute of {family_name(claims.rival)} over {family_name(claims.challenger)} at equal error"
    if ratio is None or math.isnan(ratio.value):
        why = pair.refused or "the families share no range of error"
        return Judgement(
            verdict=Verdict.CANNOT_TELL,
            number=unknown(what),
            method=f"{method}, {evidence.rows_text}",
            sentence=f"No compute ratio: {why}.",
            points=points,
        )
    number = _measure(what, ratio)
    parts = [
        Measure(what=f"at {100 * at.error:.2g}% error", value=at.ratio, low=at.low, high=at.high, unit="x") for at in ratio.at
    ]
    by_fronts = _measure("by fronts", front_ratio_of(pair, claims.level))
    verdict = _within(number, least, most, ratio.covered)
    if {verdict, _within(by_fronts, least, most, 1.0)} == {Verdict.HOLDS, Verdict.FAILS}:
        verdict = Verdict.CANNOT_TELL  # laws and fronts contradict each other
    return Judgement(
        verdict=verdict,
        number=number,
        parts=tuple(part for part in (*parts, by_fronts) if math.isfinite(part.value)),
        method=f"{method}, {evidence.rows_text}",
        sentence=_sentence(evidence, ratio, method, (least, most)),
        points=points,
    )


def _measure(what: str, ratio: Ratio) -> Measure:
    return Measure(what=what, value=ratio.value, low=ratio.low, high=ratio.high, unit="x")


def ratio_of(pair: CurvePair, evidence: Evidence) -> tuple[Ratio | None, str]:
    """The compute ratio and its method: by laws; by fronts if a law is missing; None without fronts."""
    level = evidence.claims.level
    if pair.laws is not None:
        return laws.compute_ratio(*pair.laws, level=level), pair.forms
    try:
        return front_ratio_of(pair, level), "fronts"
    except LawError:
        return None, "no law"


def front_ratio_of(pair: CurvePair, level: float) -> Ratio:
    """The compute ratio by interpolated Pareto fronts. Raises LawError."""
    one, two = (
        (np.array([p.pretrain_flops for p in c.points]), np.array([p.error for p in c.points]))
        for c in (pair.first, pair.second)
    )
    return laws.front_ratio(one, two, level=level)


def _within(number: Measure, least: float, most: float, covered: float) -> Verdict:
    """HOLDS if the interval is between the two limits, FAILS if it is outside, CANNOT_TELL if it contains a limit."""
    if not (math.isfinite(number.low) and math.isfinite(number.high)) or covered < 0.5:
        return Verdict.CANNOT_TELL
    if is_above(number.low, least) and is_above(most, number.high):
        return Verdict.HOLDS
    return Verdict.FAILS if is_above(least, number.high) or is_above(number.low, most) else Verdict.CANNOT_TELL


def _sentence(evidence: Evidence, ratio: Ratio, method: str, limits: tuple[float, float]) -> str:
    rival, challenger = family_name(evidence.claims.rival), family_name(evidence.claims.challenger)
    errors = f"errors from {100 * ratio.errors[1]:.2g}% to {100 * ratio.errors[0]:.2g}%"
    times = f"{ratio.value:.1f}x [{ratio.low:.1f}, {ratio.high:.1f}]"
    text = f"By {method}, {rival} needs {times} the compute of {challenger} at {errors}"
    ends = [at.ratio for at in ratio.at if math.isfinite(at.ratio)]
    if len(ends) > 1:
        text += f" ({ends[0]:.1f}x at the largest error, {ends[-1]:.1f}x at the smallest)"
    least, most = limits
    if math.isfinite(most) and least < ratio.low <= most < ratio.high:
        text += f"; the ratio is above {least:g}x, but may be above {most:g}x"
    return text + "."
