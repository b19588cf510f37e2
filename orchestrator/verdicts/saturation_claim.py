"""The claim that a family does not saturate: more compute still lowers its error."""

from __future__ import annotations

import math

import numpy as np

from orchestrator import laws
from orchestrator.laws.draws import Width
from orchestrator.results.summary import family_name, flops_text
from orchestrator.verdicts.answers import Measure, Verdict
from orchestrator.verdicts.curves import compute_points, curve
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.verdict_rules import Judgement, compare, unknown

FLOOR_FORM = "M2"  # the simplest form that can saturate


def no_saturation(evidence: Evidence) -> Judgement | None:
    """At the largest measured compute, a doubling of compute lowers the error by more than `saturated_gain`."""
    family, claims = evidence.claims.challenger, evidence.claims
    points = compute_points(evidence, family)
    over_compute = curve(evidence.view.name, points, "pretrain_flops", FLOOR_FORM)
    if over_compute is None:
        return None
    what = f"{family_name(family)}: decrease of error for the last doubling of compute"
    if over_compute.law is None:
        return Judgement(
            verdict=Verdict.CANNOT_TELL,
            number=unknown(what, "%"),
            method=f"no {FLOOR_FORM} law",
            sentence=f"No law with a floor: {over_compute.refused}.",
            points=points,
        )
    end = over_compute.law.x_range[1]
    x = np.array([end / math.sqrt(2), end * math.sqrt(2)])
    change = float(np.diff(np.log(over_compute.law.predict(x)))[0])
    drawn = np.diff(laws.log_draws(over_compute.law, x), axis=1)[:, 0]
    low, high = Width.of(claims.level, over_compute.law.draws.freedom).interval(drawn, change)
    value, least, most = (-100 * math.expm1(end) for end in (change, high, low))
    number = Measure(what=what, value=value, low=least, high=most, unit="%")
    verdict = compare(number, 100 * claims.saturated_gain)
    conclusion = {
        Verdict.HOLDS: "it is not saturated in this range",
        Verdict.FAILS: "it is saturated",
        Verdict.CANNOT_TELL: "saturation cannot be excluded",
    }[verdict]
    sentence = (
        f"Near {flops_text(end)}, doubling the compute lowers the error of {family_name(family)} by {number}: {conclusion}."
    )
    method = f"{FLOOR_FORM} law, {evidence.rows_text}"
    return Judgement(verdict=verdict, number=number, method=method, sentence=sentence, points=points)
