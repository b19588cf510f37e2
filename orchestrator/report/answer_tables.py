"""What findings say, as plain data for the report's template: verdicts, targets, laws, compute ratios.

Every value is text, ready to be escaped and shown.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from orchestrator.laws.law import Law
from orchestrator.report.law_charts import held_out
from orchestrator.results.summary import family_name, percent
from orchestrator.verdicts.answers import Claim, Comparison, Curve, Findings, Forecast, Verdict

STYLES = {Verdict.HOLDS: "holds", Verdict.FAILS: "fails", Verdict.CANNOT_TELL: "tell"}
AXES = {"pretrain_flops": "compute", "dataset_size": "images"}
ALONG = {"pretrain_flops": "C", "dataset_size": "D"}


def of_findings(findings: Findings | None) -> dict[str, Any]:
    """All that the template shows of findings; empty lists without them."""
    if findings is None:
        return {
            "verdicts": [],
            "targets": [],
            "laws": [],
            "unfitted": [],
            "comparisons": [],
            "unending": False,
            "ceilings": {},
            "level": "",
        }
    return {
        "verdicts": verdicts(findings),
        "targets": [_target(forecast) for forecast in findings.forecasts],
        "laws": [_law(curve, curve.law, findings.level) for curve in findings.curves if curve.law],
        "unfitted": unfitted(findings),
        "comparisons": [_comparison(comparison) for comparison in findings.comparisons],
        "unending": any(one.ratio.low == 0 or math.isinf(one.ratio.high) for one in findings.comparisons),
        "ceilings": dict(findings.ceilings),
        "level": f"{findings.level:.0%}",
    }


def verdicts(findings: Findings) -> list[dict[str, Any]]:
    """The headline of each claim, with what the other views say of it."""
    return [_with_others(claim, findings) for claim in findings.claims if claim.headline]


def _with_others(claim: Claim, findings: Findings) -> dict[str, Any]:
    others = [other for other in findings.claims if other.name == claim.name and not other.headline]
    tally = Counter(str(other.verdict) for other in others)
    said = ", ".join(f"{number} {verdict}" for verdict, number in tally.items())
    return {**_verdict(claim), "others": [_verdict(other) for other in others], "tally": said}


def unfitted(findings: Findings) -> list[str]:
    """Why curves have no law, each reason once with how many curves it met."""
    reasons = Counter(curve.refused for curve in findings.curves if curve.law is None and curve.refused)
    return [f"{number} curve{'s' if number > 1 else ''} without a law: {reason}" for reason, number in reasons.items()]


def parameters(law: Law, level: float) -> dict[str, tuple[float, float, float]]:
    """Each parameter in x's own unit: its value and the interval of the bootstrap's refits."""
    form, draws = law.task.form, law.draws
    drawn = [form.natural(theta, float(scale), law.centre) for theta, scale in zip(draws.theta, draws.log_scale, strict=True)]
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name, value in law.params.items():
        low, high = np.quantile([draw[name] for draw in drawn], tails) if drawn else (math.nan, math.nan)
        found[name] = (value, float(low), float(high))
    return found


def _verdict(claim: Claim) -> dict[str, Any]:
    return {
        "verdict": str(claim.verdict),
        "style": STYLES[claim.verdict],
        "says": claim.says,
        "sentence": claim.sentence,
        "view": claim.view,
        "number": f"{claim.number.what}: {claim.number}",
        "parts": [f"{part.what}: {part}" for part in claim.parts],
        "method": claim.method,
        "runs": list(claim.runs),
    }


def _target(forecast: Forecast) -> dict[str, str]:
    is_known = forecast.state != "refused"
    return {
        "target": forecast.target,
        "view": forecast.view,
        "error": percent(forecast.error) if is_known else "",
        "interval": f"{percent(forecast.low)} to {percent(forecast.high)}" if is_known else "",
        "measured": percent(forecast.measured) if math.isfinite(forecast.measured) else "",
        "state": forecast.state,
        "beyond": ", ".join(f"{AXES.get(axis, axis)} x {times:.3g}" for axis, times in forecast.beyond.items()),
        "by": f"{forecast.by}, {forecast.form}" if is_known else forecast.refused,
    }


def _law(curve: Curve, law: Law, level: float) -> dict[str, Any]:
    known = parameters(law, level)
    test = held_out(law)
    rollout = law.diagnostics.rollout.rmse
    return {
        "family": f"{family_name(curve.family)} {curve.variant}".rstrip(),
        "view": curve.view,
        "axis": AXES[curve.axis],
        "points": str(len(curve.points)),
        "law": law.formula.replace("x", ALONG[curve.axis]),
        "params": [f"{name} = {value:.3g} [{low:.3g}, {high:.3g}]" for name, (value, low, high) in known.items()],
        "rollout": _log_percent(rollout),
        "held_out": _log_percent(test.rmse) if test else "",
    }


def _comparison(comparison: Comparison) -> dict[str, str]:
    ratio = comparison.ratio
    first, second = family_name(comparison.first), family_name(comparison.second)
    is_known = math.isfinite(ratio.value)
    return {
        "view": comparison.view,
        "question": f"{first} needs this many times {second}'s compute",
        "ratio": f"{ratio.value:.2g}" if is_known else "not reached",
        "interval": f"{ratio.low:.2g} to {ratio.high:.2g}" if math.isfinite(ratio.low) else "",
        "errors": f"{percent(ratio.errors[0])} to {percent(ratio.errors[1])}" if is_known else "none in common",
        "method": comparison.method,
    }


def _log_percent(log_error: float) -> str:
    """A root mean square of log error as a share of the error."""
    return percent(math.expm1(log_error)) if math.isfinite(log_error) else ""
