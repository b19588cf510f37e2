"""The claim about hybrids: at equal compute they have a lower error than the challenger while small, but not when large.

That an advantage is gone cannot be shown by a failure to detect it: it is gone if the whole interval is below a margin.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator import laws
from orchestrator.laws import Law
from orchestrator.laws.draws import Width, combined_freedom
from orchestrator.results.summary import family_name, flops_text
from orchestrator.verdicts.answers import Measure, Verdict
from orchestrator.verdicts.compute_ratio_claims import curve_pair
from orchestrator.verdicts.differences import higher_or_lower
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.verdict_rules import Judgement, compare, is_above, unknown

GONE = 0.05  # an advantage (share of the error) that is below this has vanished


def hybrid_advantage_vanishes(evidence: Evidence) -> Judgement | None:
    """The hybrids' advantage at equal compute is present at the smallest compute, shrinks, and is gone at the largest."""
    claims = evidence.claims
    pair = curve_pair(evidence, claims.challenger, claims.hybrid, claims.form)
    if pair is None:
        return None
    points = pair.first.points + pair.second.points
    challenger, hybrid = family_name(claims.challenger), family_name(claims.hybrid)
    what = f"{challenger} over {hybrid}, error at equal compute"
    if pair.laws is None or not _common_range(*pair.laws):
        why = pair.refused or "the families share no range of compute"
        return Judgement(
            verdict=Verdict.CANNOT_TELL, number=unknown(what, "%"), method="no law", sentence=f"No laws: {why}.", points=points
        )
    common = _common_range(*pair.laws)
    small, large, shrinkage = _gaps(*pair.laws, np.array(common), claims.level, what)
    margin = 100 * GONE
    is_gone = compare(large, margin, holds_above=False)
    verdict = Verdict.CANNOT_TELL
    if is_above(0, small.high) or is_gone is Verdict.FAILS:
        verdict = Verdict.FAILS
    elif is_above(small.low, 0) and is_above(shrinkage.low, 0) and is_gone is Verdict.HOLDS:
        verdict = Verdict.HOLDS
    start, end = (flops_text(value) for value in common)
    sentence = (
        f"By {pair.forms}, at {start} the error of {challenger} is {higher_or_lower(small)} than that of {hybrid}, "
        f"and at {end} it is {higher_or_lower(large)}; below {margin:g}% counts as gone."
    )
    return Judgement(
        verdict=verdict,
        number=large,
        parts=(small, shrinkage),
        method=f"{pair.forms}, {evidence.rows_text}",
        sentence=sentence,
        points=points,
    )


def _common_range(first: Law, second: Law) -> tuple[float, float] | tuple[()]:
    low, high = max(first.x_range[0], second.x_range[0]), min(first.x_range[1], second.x_range[1])
    return (low, high) if low < high else ()


def _gaps(first: Law, second: Law, ends: np.ndarray, level: float, what: str) -> tuple[Measure, Measure, Measure]:
    """The relative difference of error at both ends, and by how much it shrinks, with intervals from the laws' draws."""
    middle = np.log(first.predict(ends)) - np.log(second.predict(ends))
    drawn = laws.log_gap_draws(first, second, ends)
    parts = laws.log_draws(first, ends), laws.log_draws(second, ends)
    width = Width.of(level, combined_freedom(parts, (first.draws.freedom, second.draws.freedom)))

    def measure(name: str, value: float, draws: np.ndarray) -> Measure:
        low, high = width.interval(draws, value)
        percents = [100 * math.expm1(v) for v in (value, low, high)]
        return Measure(what=name, value=percents[0], low=percents[1], high=percents[2], unit="%")

    names = [f"{what}, at {flops_text(x)}" for x in ends]
    shrinkage = measure("shrinkage", float(middle[0] - middle[1]), drawn[:, 0] - drawn[:, 1])
    return measure(names[0], float(middle[0]), drawn[:, 0]), measure(names[1], float(middle[1]), drawn[:, 1]), shrinkage
