"""All findings of a study in one frozen structure: views, curves with laws, comparisons, verdicts on claims, forecasts.

`findings(frame, study)` is a pure function of the results frame and the study. `save` replaces fresh forecasts by those saved
earlier where their target is done, and writes findings.json, claims.json, claims.csv and targets.json into the study's folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator import laws
from orchestrator.laws import LawError
from orchestrator.laws.render import law_as_data
from orchestrator.spec.claims import LawForm
from orchestrator.spec.schema import Study
from orchestrator.verdicts.answers import Comparison, Curve, Findings, Forecast, RowRule
from orchestrator.verdicts.compute_ratio_claims import curve_pair, front_ratio_of
from orchestrator.verdicts.curves import compute_points, curve, data_points
from orchestrator.verdicts.data_ratio import data_ratio
from orchestrator.verdicts.evidence import Evidence, gather
from orchestrator.verdicts.forecast import forecasts, settle
from orchestrator.verdicts.judge import judge
from orchestrator.verdicts.views import ceilings, views
from vitmodel.files import write_json

FORMS_COMPARED: tuple[LawForm, ...] = ("M1", "M2", "auto")  # in the first view: the trend of a ratio depends on the form


def findings(frame: pd.DataFrame, study: Study) -> Findings:
    """The findings of the study's views, claims and targets. Deterministic."""
    claims = study.claims
    noisy = ceilings(frame, claims)
    evidence = [gather(frame, view, claims) for view in views(frame, claims, noisy)]
    return Findings(
        study=study.name,
        level=claims.level,
        views=tuple(e.view for e in evidence),
        curves=tuple(curve for e in evidence for curve in _curves(e)),
        comparisons=tuple(
            comparison for number, e in enumerate(evidence) for comparison in _comparisons(e, every_form=number == 0)
        ),
        ceilings=noisy,
        rows=tuple(
            RowRule(view=e.view.name, text=e.rows_text, left_out=(*e.left_out, *e.over_compute.left_out)) for e in evidence
        ),
        claims=judge(frame, evidence, claims),
        forecasts=forecasts(study, evidence),
    )


def save(findings: Findings, folder: Path) -> Findings:
    """The findings with settled forecasts, written to files in the study's folder."""
    settled = replace(findings, forecasts=settle(findings.forecasts, folder))
    write_json(folder / "findings.json", as_data(settled))
    write_json(folder / "claims.json", as_data(settled)["claims"])
    claims_table(settled).to_csv(folder / "claims.csv", index=False)
    return settled


def _curves(evidence: Evidence) -> Iterator[Curve]:
    """Every family's curve over compute, and the curve over data of every variant with two sizes or more."""
    families = list(dict.fromkeys(p.family for p in evidence.points))
    for family in families:
        points = compute_points(evidence, family)
        over_compute = curve(evidence.view.name, points, "pretrain_flops", evidence.claims.form)
        if over_compute is not None:
            yield over_compute
    for family in families:
        for variant in dict.fromkeys(p.variant for p in evidence.of(family)):
            points = data_points(evidence, family, variant)
            if len({p.dataset_size for p in points}) < 2:
                continue
            over_data = curve(evidence.view.name, points, "dataset_size", "auto", variant=variant)
            if over_data is not None:
                yield over_data


def _comparisons(evidence: Evidence, *, every_form: bool) -> Iterator[Comparison]:
    """Compute ratios of rival and hybrid over the challenger: by the study's form, in the first view by all, and by fronts."""
    claims = evidence.claims
    forms = dict.fromkeys([claims.form, *(FORMS_COMPARED if every_form else ())])
    for first in (claims.rival, claims.hybrid):
        common = partial(Comparison, view=evidence.view.name, first=first, second=claims.challenger)
        for form in forms:
            pair = curve_pair(evidence, first, claims.challenger, form)
            if pair is not None and pair.laws is not None:
                yield common(method=form, ratio=laws.compute_ratio(*pair.laws, level=claims.level))
        pair = curve_pair(evidence, first, claims.challenger, "M1")
        if pair is not None:
            try:
                yield common(method="fronts", ratio=front_ratio_of(pair, claims.level))
            except LawError:  # no finite compute or error: nothing to compare
                continue
    by_images = data_ratio(evidence)
    if by_images is not None:
        yield by_images


def as_data(findings: Findings) -> dict[str, Any]:
    """The findings as plain data for JSON: laws with parameters and intervals, None for unknown numbers."""
    return {
        "study": findings.study,
        "level": findings.level,
        "views": [asdict(view) for view in findings.views],
        "ceilings": dict(findings.ceilings),
        "rows": [asdict(rule) for rule in findings.rows],
        "claims": [_plain({**asdict(claim), "verdict": str(claim.verdict)}) for claim in findings.claims],
        "forecasts": [_plain(asdict(forecast)) for forecast in findings.forecasts],
        "comparisons": [_plain(asdict(comparison)) for comparison in findings.comparisons],
        "curves": [_curve_as_data(curve, findings.level) for curve in findings.curves],
    }


def _curve_as_data(curve: Curve, level: float) -> dict[str, Any]:
    return {
        "view": curve.view,
        "family": curve.family,
        "variant": curve.variant,
        "axis": curve.axis,
        "points": [_plain(asdict(point)) for point in curve.points],
        "law": None if curve.law is None else law_as_data(curve.law, level),
        "refused": curve.refused,
    }


def _plain(node: Any) -> Any:
    """Nested data with None for nan and infinity, which JSON does not have."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def claims_table(findings: Findings) -> pd.DataFrame:
    """A row for each claim and view: verdict, number, interval, method, number of rows, sentence."""
    rows = [
        {
            "claim": claim.name,
            "says": claim.says,
            "view": claim.view,
            "headline": claim.headline,
            "verdict": str(claim.verdict),
            "value": claim.number.value,
            "low": claim.number.low,
            "high": claim.number.high,
            "unit": claim.number.unit,
            "method": claim.method,
            "rows": len(claim.runs),
            "sentence": claim.sentence,
            "provisional": claim.provisional,
        }
        for claim in findings.claims
    ]
    names = ["claim", "says", "view", "headline", "verdict", "value", "low", "high", "unit", "method", "rows", "sentence"]
    names.append("provisional")
    return pd.DataFrame(rows, columns=names)


def as_text(findings: Findings) -> str:
    """The headline verdicts and the forecasts for a terminal, one per line."""
    headlines = [claim for claim in findings.claims if claim.headline]
    width = max((len(claim.says) for claim in headlines), default=0)
    marks = [", provisional" if claim.provisional else "" for claim in headlines]
    lines = [
        f"{claim.verdict!s:<11}  {claim.says:<{width}}  {claim.number}  ({claim.view}{mark})"
        for claim, mark in zip(headlines, marks, strict=True)
    ]
    lines += [_forecast_line(forecast) for forecast in findings.forecasts]
    return "\n".join(lines)


def _forecast_line(forecast: Forecast) -> str:
    if forecast.state == "refused":
        return f"no forecast  {forecast.target}: {forecast.refused}"
    distance = ", ".join(f"{factor:.3g} times the largest {axis}" for axis, factor in forecast.beyond.items())
    interval = f"[{100 * forecast.low:.2f}%, {100 * forecast.high:.2f}%]"
    prediction = f"{100 * forecast.error:.2f}% error {interval} by {forecast.by} ({forecast.form}; {distance})"
    if forecast.state == "open":
        return f"forecast     {forecast.target}: {prediction}"
    when = "saved before the run" if forecast.made_before else "made after the run, from the other rows"
    return f"{forecast.state:<11}  {forecast.target}: measured {100 * forecast.measured:.2f}%; forecast {prediction}, {when}"
