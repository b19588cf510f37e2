"""Findings as plain data for the report's template: verdicts, targets, laws, compute ratios.

Every value is text. The template escapes it.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from orchestrator.laws.law import Law
from orchestrator.laws.render import parameter_intervals, parameters_as_text
from orchestrator.report.law_charts import held_out_test
from orchestrator.results.summary import family_name, percent
from orchestrator.verdicts.answers import ClaimVerdict, Comparison, Curve, Findings, Forecast, Verdict

BADGES = {Verdict.HOLDS: "holds", Verdict.FAILS: "fails", Verdict.CANNOT_TELL: "unknown"}  # classes of report.css
AXES = {"pretrain_flops": "compute", "dataset_size": "images", "params": "parameters"}
SYMBOLS = {"pretrain_flops": "C", "dataset_size": "D"}
STATES = {
    "open": "not measured yet",
    "inside": "inside the interval",
    "outside": "outside the interval",
    "refused": "no forecast",
}


def tables_of_findings(findings: Findings | None) -> dict[str, Any]:
    """Everything that the template shows of the findings; empty lists without findings."""
    if findings is None:
        return {
            "verdicts": [],
            "targets": [],
            "laws": [],
            "unfitted": [],
            "comparisons": [],
            "is_unbounded": False,
            "ceilings": {},
            "level": "",
        }
    return {
        "verdicts": verdicts(findings),
        "targets": [_target(forecast) for forecast in findings.forecasts],
        "laws": [_law(curve, curve.law, findings.level) for curve in findings.curves if curve.law],
        "unfitted": unfitted(findings),
        "comparisons": [_comparison(comparison) for comparison in findings.comparisons],
        "is_unbounded": any(c.ratio.low == 0 or math.isinf(c.ratio.high) for c in findings.comparisons),
        "ceilings": dict(findings.ceilings),
        "level": f"{findings.level:.0%}",
    }


def verdicts(findings: Findings) -> list[dict[str, Any]]:
    """The headline verdict of each claim, with the verdicts of the claim's other views."""
    return [_with_other_views(claim, findings) for claim in findings.claims if claim.headline]


def _with_other_views(claim: ClaimVerdict, findings: Findings) -> dict[str, Any]:
    others = [other for other in findings.claims if other.name == claim.name and not other.headline]
    counts = Counter(str(other.verdict) for other in others)
    tally = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    return {**_verdict(claim), "others": [_verdict(other) for other in others], "tally": tally}


def unfitted(findings: Findings) -> list[str]:
    """Why curves have no law: each reason once, with the number of curves."""
    reasons = Counter(curve.refused for curve in findings.curves if curve.law is None and curve.refused)
    return [f"No law for {number} curve{'s' if number > 1 else ''}: {reason}" for reason, number in reasons.items()]


def parameters(law: Law, level: float) -> dict[str, tuple[float, float, float]]:
    """Each parameter in units of x, with its interval: the same as `vitscale fit` prints."""
    return {name: (law.params[name], *ends) for name, ends in parameter_intervals(law, level).items()}


def _verdict(claim: ClaimVerdict) -> dict[str, Any]:
    return {
        "verdict": str(claim.verdict),
        "style": BADGES[claim.verdict],
        "statement": claim.says,
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
        "badge": forecast.state,
        "state": STATES[forecast.state],
        "beyond": ", ".join(f"{AXES[axis]} {times:.3g}x" for axis, times in forecast.beyond.items()),
        "by": f"{forecast.form} law over {forecast.by}" if is_known else forecast.refused,
    }


def _law(curve: Curve, law: Law, level: float) -> dict[str, Any]:
    test = held_out_test(law)
    rollout = law.diagnostics.rollout.rmse
    return {
        "family": f"{family_name(curve.family)} {curve.variant}".rstrip(),
        "view": curve.view,
        "axis": AXES[curve.axis],
        "points": str(len(curve.points)),
        "law": law.formula.replace("x", SYMBOLS[curve.axis]),
        "params": [f"{name} = {' '.join(text.split())}" for name, text in parameters_as_text(law, level).items()],
        "rollout": _log_percent(rollout),
        "held_out": _log_percent(test.rmse) if test else "",
    }


def _comparison(comparison: Comparison) -> dict[str, str]:
    ratio = comparison.ratio
    first, second = family_name(comparison.first), family_name(comparison.second)
    is_known = math.isfinite(ratio.value)
    return {
        "view": comparison.view,
        "families": f"{first} / {second}",
        "ratio": f"{ratio.value:.2g}" if is_known else "not reached",
        "interval": f"{ratio.low:.2g} to {ratio.high:.2g}" if math.isfinite(ratio.low) else "",
        "errors": f"{percent(ratio.errors[0])} to {percent(ratio.errors[1])}" if is_known else "no common errors",
        "method": comparison.method,
    }


def _log_percent(log_error: float) -> str:
    """A root mean square of log errors as a relative error in percent."""
    return percent(math.expm1(log_error)) if math.isfinite(log_error) else ""
