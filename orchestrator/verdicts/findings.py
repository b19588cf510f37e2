"""Everything a study's rows say, in one frozen structure: views, curves with laws, comparisons, claims, forecasts.

`findings(frame, study)` is a pure function of the results frame and the study; `keep` settles its forecasts against those
saved earlier and writes findings.json, claims.json, claims.csv and targets.json into the study's folder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator import laws
from orchestrator.laws import LawError
from orchestrator.laws.render import law_as_data
from orchestrator.spec.claims import LawForm
from orchestrator.spec.schema import Study
from orchestrator.verdicts import judge
from orchestrator.verdicts.answers import Comparison, Curve, Findings, Forecast
from orchestrator.verdicts.compute_claims import front_ratio_of, two_curves
from orchestrator.verdicts.evidence import Evidence, ceilings, compute_points, curve, data_points, gather, views
from orchestrator.verdicts.forecast import forecasts, settle
from vitmodel.files import write_json

FORMS_COMPARED: tuple[LawForm, ...] = ("M1", "M2", "auto")  # of the first view: how a ratio changes depends on the form


def findings(frame: pd.DataFrame, study: Study) -> Findings:
    """What the rows say of the study's views, claims and targets. Deterministic."""
    claims = study.claims
    noisy = ceilings(frame, claims)
    evidence = [gather(frame, view, claims) for view in views(frame, claims, noisy)]
    return Findings(
        study=study.name,
        level=claims.level,
        views=tuple(e.view for e in evidence),
        curves=tuple(found for e in evidence for found in _curves(e)),
        comparisons=tuple(found for number, e in enumerate(evidence) for found in _comparisons(e, every_form=number == 0)),
        ceilings=noisy,
        claims=judge.judge(frame, evidence, claims),
        forecasts=forecasts(study, evidence),
    )


def keep(found: Findings, folder: Path) -> Findings:
    """Settle the forecasts and write what was found into the study's folder."""
    settled = replace(found, forecasts=settle(found.forecasts, folder))
    write_json(folder / "findings.json", as_data(settled))
    write_json(folder / "claims.json", as_data(settled)["claims"])
    claims_table(settled).to_csv(folder / "claims.csv", index=False)
    return settled


# --- curves and comparisons -----------------------------------------------------------------------------------


def _curves(found: Evidence) -> Iterator[Curve]:
    """Every family's curve over compute, and every variant's over data where it has two sizes."""
    families = list(dict.fromkeys(p.family for p in found.points))
    for family in families:
        over_compute = curve(found.view.name, compute_points(found, family), "pretrain_flops", found.claims.form)
        if over_compute is not None:
            yield over_compute
    for family in families:
        for variant in dict.fromkeys(p.variant for p in found.of(family)):
            points = data_points(found, family, variant)
            if len({p.dataset_size for p in points}) < 2:
                continue
            over_data = curve(found.view.name, points, "dataset_size", "auto", variant=variant)
            if over_data is not None:
                yield over_data


def _comparisons(found: Evidence, *, every_form: bool) -> Iterator[Comparison]:
    """Compute ratios of rival and hybrid over the challenger, by the asked form (in the first view by all) and by fronts."""
    claims = found.claims
    forms = dict.fromkeys([claims.form, *(FORMS_COMPARED if every_form else ())])
    for first in (claims.rival, claims.hybrid):
        common = {"view": found.view.name, "first": first, "second": claims.challenger}
        for form in forms:
            both = two_curves(found, first, claims.challenger, form)
            if both is not None and both.laws is not None:
                yield Comparison(**common, method=form, ratio=laws.compute_ratio(*both.laws, level=claims.level))
        both = two_curves(found, first, claims.challenger, "M1")
        if both is not None:
            try:
                yield Comparison(**common, method="fronts", ratio=front_ratio_of(both, claims.level))
            except LawError:  # no finite compute or error: nothing to compare
                continue


# --- as data, as text -----------------------------------------------------------------------------------------


def as_data(found: Findings) -> dict[str, Any]:
    """The findings as plain data for JSON: laws with parameters and intervals, unknown numbers as None."""
    return {
        "study": found.study,
        "level": found.level,
        "views": [asdict(view) for view in found.views],
        "ceilings": dict(found.ceilings),
        "claims": [_plain({**asdict(claim), "verdict": str(claim.verdict)}) for claim in found.claims],
        "forecasts": [_plain(asdict(one)) for one in found.forecasts],
        "comparisons": [_plain(asdict(one)) for one in found.comparisons],
        "curves": [_curve_as_data(one, found.level) for one in found.curves],
    }


def _curve_as_data(one: Curve, level: float) -> dict[str, Any]:
    return {
        "view": one.view,
        "family": one.family,
        "variant": one.variant,
        "axis": one.axis,
        "points": [_plain(asdict(point)) for point in one.points],
        "law": None if one.law is None else law_as_data(one.law, level),
        "refused": one.refused,
    }


def _plain(node: Any) -> Any:
    """Nested data with None for what is no number: JSON has neither nan nor infinity."""
    if isinstance(node, dict):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def claims_table(found: Findings) -> pd.DataFrame:
    """A row a claim and view: verdict, number, interval, method, how many rows, the sentence."""
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
        }
        for claim in found.claims
    ]
    names = ["claim", "says", "view", "headline", "verdict", "value", "low", "high", "unit", "method", "rows", "sentence"]
    return pd.DataFrame(rows, columns=names)


def as_text(found: Findings) -> str:
    """The verdicts and forecasts for a terminal: a line each."""
    heads = [claim for claim in found.claims if claim.headline]
    width = max((len(claim.says) for claim in heads), default=0)
    lines = [f"{claim.verdict!s:<11}  {claim.says:<{width}}  {claim.number}  ({claim.view})" for claim in heads]
    lines += [_forecast_line(one) for one in found.forecasts]
    return "\n".join(lines)


def _forecast_line(one: Forecast) -> str:
    if one.state == "refused":
        return f"forecast     {one.target}: none ({one.refused})"
    far = ", ".join(f"{factor:.3g} times the largest {axis}" for axis, factor in one.beyond.items())
    said = f"{100 * one.error:.2f}% error [{100 * one.low:.2f}%, {100 * one.high:.2f}%] by {one.by} ({one.form}; {far})"
    if one.state == "open":
        return f"forecast     {one.target}: {said}"
    when = "saved before it ran" if one.made_before else "made afterwards from the other rows"
    return f"{one.state:<11}  {one.target}: measured {100 * one.measured:.2f}%; forecast {said}, {when}"
