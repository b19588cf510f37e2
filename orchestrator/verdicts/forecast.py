"""Forecasts of targets: runs without a result, predicted from the finished ones, and compared with their result later.

A forecast is saved while its target has no result, and the saved forecast is the one that is compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.spec.claims import Target
from orchestrator.spec.schema import Study
from orchestrator.verdicts.answers import Forecast
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.extrapolation import extrapolations, most_reliable
from orchestrator.verdicts.targets import evidence_for, is_target, target_run
from vitmodel.files import read_json, write_json

FILE = "targets.json"


def forecasts(study: Study, evidence: Sequence[Evidence]) -> tuple[Forecast, ...]:
    """A forecast for every target of the study, from all rows except the target's."""
    return tuple(forecast(target, study, evidence) for target in study.targets)


def forecast(target: Target, study: Study, evidence: Sequence[Evidence]) -> Forecast:
    """The forecast for one target; `refused` if there are no rows or no law can be fitted."""
    view = evidence_for(target, evidence)
    if view is None:
        return _refused(target, "", f"no finished row on {f'task {target.task}' if target.task else 'any task'}")
    run = target_run(target, study, view.points)
    results = tuple(p for p in view.points if is_target(p, run))
    measured = math.exp(float(np.mean([math.log(p.error) for p in results]))) if results else math.nan
    past = replace(view, points=tuple(p for p in view.points if p not in results))
    choices, refusals = extrapolations(past, run)
    if not choices:
        return replace(_refused(target, view.view.name, "; ".join(refusals)), measured=measured)
    chosen = most_reliable(choices)
    low, high = (min(float(end[0]), 1.0) for end in chosen.law.interval(chosen.x, study.claims.level, "prediction"))
    return Forecast(
        target=target.label,
        view=view.view.name,
        variant=target.variant,
        dataset_size=target.dataset_size,
        error=float(chosen.law.predict(chosen.x)[0]),
        low=low,
        high=high,
        form=chosen.law.form,
        by=chosen.by,
        beyond=chosen.beyond,
        rollout_rmse=chosen.law.diagnostics.rollout.rmse,
        runs=tuple(dict.fromkeys(run_id for p in chosen.points for run_id in p.runs)),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        made_before=not results,
        measured=measured,
        state=("inside" if _is_inside(measured, low, high) else "outside") if results else "open",
    )


def settle(fresh: Sequence[Forecast], folder: Path) -> tuple[Forecast, ...]:
    """The forecasts, with the saved one in place of the fresh one for a target that is done; saves all of them."""
    saved = {item["target"]: item for item in read_json(folder / FILE) or []}
    settled = tuple(_settled(forecast, saved.get(forecast.target)) for forecast in fresh)
    if settled:
        write_json(folder / FILE, [_plain(forecast) for forecast in settled])
    return settled


def _settled(fresh: Forecast, saved: dict[str, Any] | None) -> Forecast:
    if math.isnan(fresh.measured) or saved is None or not saved["made_before"] or saved["state"] == "refused":
        return fresh
    before = Forecast(**{**saved, "runs": tuple(saved["runs"]), "rollout_rmse": _number(saved["rollout_rmse"])})
    is_inside = _is_inside(fresh.measured, before.low, before.high)
    return replace(before, measured=fresh.measured, state="inside" if is_inside else "outside")


def _is_inside(measured: float, low: float, high: float) -> bool:
    """Whether the measured error is in the band, with a tolerance for rounding: `high` is at most 1, and so is an error."""
    return low * (1 - 1e-9) <= measured <= high * (1 + 1e-9)


def _plain(forecast: Forecast) -> dict[str, Any]:
    """A forecast for JSON, with None for nan."""
    facts = asdict(forecast)
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in facts.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _refused(target: Target, view: str, why: str) -> Forecast:
    return Forecast(
        target=target.label,
        view=view,
        variant=target.variant,
        dataset_size=target.dataset_size,
        error=math.nan,
        low=math.nan,
        high=math.nan,
        form="",
        by="",
        beyond={},
        rollout_rmse=math.nan,
        runs=(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        made_before=False,
        measured=math.nan,
        state="refused",
        refused=why,
    )
