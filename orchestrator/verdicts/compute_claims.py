"""Claims about compute: one family needs less, hybrids lead only while small, and nothing saturates yet.

Each rests on laws of error over pretraining compute, whose form is named; a law that cannot be fitted is said, not replaced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from orchestrator import laws
from orchestrator.laws import Law, LawError, Ratio
from orchestrator.results.summary import family_name, flops_text
from orchestrator.verdicts.answers import Curve, Measure, Verdict
from orchestrator.verdicts.common import Judged, errs, side, unknown
from orchestrator.verdicts.evidence import Evidence, compute_points, curve

FLOOR_FORM = "M2"  # the simplest form that can saturate


@dataclass(frozen=True, kw_only=True)
class Two:
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


def two_curves(found: Evidence, first: str, second: str, form: str) -> Two | None:
    """Both families' curves; None where one has no rows."""
    curves = [curve(found.view.name, compute_points(found, family), "pretrain_flops", form) for family in (first, second)]
    return None if curves[0] is None or curves[1] is None else Two(first=curves[0], second=curves[1])


# --- less compute at equal error ------------------------------------------------------------------------------


def less_compute(found: Evidence) -> Judged | None:
    """The rival needs more compute than the challenger for the same error."""
    return _compute_judged(found, 1.0, math.inf)


def two_to_four_times_less(found: Evidence) -> Judged | None:
    """The challenger needs two to four times less compute (or whatever `times_less` asks)."""
    return _compute_judged(found, *found.claims.times_less)


def _compute_judged(found: Evidence, least: float, most: float) -> Judged | None:
    both = two_curves(found, found.claims.rival, found.claims.challenger, found.claims.form)
    if both is None:
        return None
    ratio, method = ratio_of(both, found)
    points = both.first.points + both.second.points
    what = f"compute of {family_name(found.claims.rival)} over {family_name(found.claims.challenger)} at equal error"
    if ratio is None or math.isnan(ratio.value):
        why = both.refused or "the families share no range of error"
        return Judged(
            verdict=Verdict.CANNOT_TELL,
            number=unknown(what),
            method=method,
            sentence=f"No compute ratio: {why}.",
            points=points,
        )
    number = _measure(what, ratio)
    parts = [
        Measure(what=f"at {100 * at.error:.2g}% error", value=at.ratio, low=at.low, high=at.high, unit="x") for at in ratio.at
    ]
    fronts = _measure("by fronts", front_ratio_of(both, found.claims.level))
    verdict = _between(number, least, most, ratio.covered)
    if {verdict, _between(fronts, least, most, 1.0)} == {Verdict.HOLDS, Verdict.FAILS}:
        verdict = Verdict.CANNOT_TELL  # a verdict that hangs on the law's form is none
    return Judged(
        verdict=verdict,
        number=number,
        parts=tuple(part for part in (*parts, fronts) if math.isfinite(part.value)),
        method=f"{method}, all rows of each family",
        sentence=_ratio_sentence(found, ratio, method, (least, most)),
        points=points,
    )


def _measure(what: str, ratio: Ratio) -> Measure:
    return Measure(what=what, value=ratio.value, low=ratio.low, high=ratio.high, unit="x")


def ratio_of(both: Two, found: Evidence) -> tuple[Ratio | None, str]:
    """The compute ratio by laws; by fronts where there are no laws, but there are fronts."""
    level = found.claims.level
    if both.laws is not None:
        return laws.compute_ratio(*both.laws, level=level), f"{' and '.join(dict.fromkeys(law.form for law in both.laws))} laws"
    try:
        return front_ratio_of(both, level), "fronts"
    except LawError:
        return None, "no law"


def front_ratio_of(both: Two, level: float) -> Ratio:
    """The compute ratio by interpolated Pareto fronts. Raises LawError."""
    one, two = (
        (np.array([p.pretrain_flops for p in c.points]), np.array([p.error for p in c.points]))
        for c in (both.first, both.second)
    )
    return laws.front_ratio(one, two, level=level)


def _between(number: Measure, least: float, most: float, covered: float) -> Verdict:
    if not (math.isfinite(number.low) and math.isfinite(number.high)) or covered < 0.5:
        return Verdict.CANNOT_TELL
    if number.low >= least and number.high <= most:
        return Verdict.HOLDS
    return Verdict.FAILS if number.high < least or number.low > most else Verdict.CANNOT_TELL


def _ratio_sentence(found: Evidence, ratio: Ratio, method: str, asked: tuple[float, float]) -> str:
    names = family_name(found.claims.rival), family_name(found.claims.challenger)
    errors = f"errors from {100 * ratio.errors[1]:.2g}% to {100 * ratio.errors[0]:.2g}%"
    needs = f"{ratio.value:.1f}x [{ratio.low:.1f}, {ratio.high:.1f}]"
    text = f"By {method}, {names[0]} needs {needs} the compute of {names[1]} at {errors}"
    ends = [at.ratio for at in ratio.at if math.isfinite(at.ratio)]
    if len(ends) > 1:
        text += f" ({ends[0]:.1f}x at the largest of them, {ends[-1]:.1f}x at the smallest)"
    if math.isfinite(asked[1]) and asked[0] < ratio.low <= asked[1] < ratio.high:
        text += f": more than {asked[0]:g}x for sure, whether below {asked[1]:g}x is open"
    return text + "."


# --- hybrids --------------------------------------------------------------------------------------------------


def hybrid_advantage_vanishes(found: Evidence) -> Judged | None:
    """At equal compute hybrids lead the challenger while small, and no longer when large."""
    both = two_curves(found, found.claims.challenger, found.claims.hybrid, found.claims.form)
    if both is None:
        return None
    points = both.first.points + both.second.points
    names = family_name(found.claims.challenger), family_name(found.claims.hybrid)
    what = f"{names[0]} over {names[1]}, error at equal compute"
    if both.laws is None or not _common(*both.laws):
        why = both.refused or "the families share no range of compute"
        return Judged(
            verdict=Verdict.CANNOT_TELL, number=unknown(what, "%"), method="no law", sentence=f"No laws: {why}.", points=points
        )
    common = _common(*both.laws)
    small, large, shrinkage = _gaps(*both.laws, np.array(common), found.claims.level, what)
    verdict = Verdict.CANNOT_TELL
    if small.high < 0 or large.low > 0:
        verdict = Verdict.FAILS
    elif small.low > 0 and shrinkage.low > 0:
        verdict = Verdict.HOLDS
    method = f"{' and '.join(dict.fromkeys(law.form for law in both.laws))} laws"
    start, end = (flops_text(value) for value in common)
    sentence = f"By {method}, at {start} {names[0]} {errs(small)} than {names[1]}, and at {end} it {errs(large)}."
    return Judged(verdict=verdict, number=large, parts=(small, shrinkage), method=method, sentence=sentence, points=points)


def _common(first: Law, second: Law) -> tuple[float, float] | tuple[()]:
    low, high = max(first.x_range[0], second.x_range[0]), min(first.x_range[1], second.x_range[1])
    return (low, high) if low < high else ()


def _gaps(first: Law, second: Law, ends: np.ndarray, level: float, what: str) -> tuple[Measure, Measure, Measure]:
    """How much more the first errs at both ends, and by how much that shrinks, with intervals from the laws' draws."""
    middle = np.log(first.predict(ends)) - np.log(second.predict(ends))
    drawn = laws.log_gap_draws(first, second, ends)
    tails = ((1 - level) / 2, (1 + level) / 2)

    def measure(name: str, value: float, draws: np.ndarray) -> Measure:
        low, high = np.quantile(draws, tails)
        found = [100 * math.expm1(v) for v in (value, low, high)]
        return Measure(what=name, value=found[0], low=found[1], high=found[2], unit="%")

    names = [f"{what}, at {flops_text(x)}" for x in ends]
    shrunk = measure("shrinkage", float(middle[0] - middle[1]), drawn[:, 0] - drawn[:, 1])
    return measure(names[0], float(middle[0]), drawn[:, 0]), measure(names[1], float(middle[1]), drawn[:, 1]), shrunk


# --- saturation -----------------------------------------------------------------------------------------------


def no_saturation(found: Evidence) -> Judged | None:
    """At the end of what was trained, a doubling of compute still lowers error by more than `saturated_gain`."""
    family = found.claims.challenger
    line = curve(found.view.name, compute_points(found, family), "pretrain_flops", FLOOR_FORM)
    if line is None:
        return None
    what = f"{family_name(family)}: fall of error for the last doubling of compute"
    if line.law is None:
        return Judged(
            verdict=Verdict.CANNOT_TELL,
            number=unknown(what, "%"),
            method=f"no {FLOOR_FORM} law",
            sentence=f"No law with a floor: {line.refused}.",
            points=line.points,
        )
    end = line.law.x_range[1]
    x = np.array([end / math.sqrt(2), end * math.sqrt(2)])
    value = 1 - float(np.divide(*line.law.predict(x)[::-1]))
    tails = ((1 - found.claims.level) / 2, (1 + found.claims.level) / 2)
    low, high = np.quantile(1 - np.exp(np.diff(laws.log_draws(line.law, x), axis=1)[:, 0]), tails)
    number = Measure(what=what, value=100 * value, low=100 * float(low), high=100 * float(high), unit="%")
    verdict = side(number, 100 * found.claims.saturated_gain)
    words = {
        Verdict.HOLDS: "it does not saturate in this range",
        Verdict.FAILS: "it has saturated",
        Verdict.CANNOT_TELL: "a floor just below cannot be ruled out",
    }[verdict]
    sentence = f"Around {flops_text(end)}, a doubling of compute lowers {family_name(family)}'s error by {number}: {words}."
    return Judged(verdict=verdict, number=number, method=f"{FLOOR_FORM} law", sentence=sentence, points=line.points)
