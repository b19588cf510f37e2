"""Targets: runs that have not been paid for yet, predicted from those that are done, and compared once they are done too.

A prediction is saved while its target has no result; what is compared later is that saved one. Ways to predict: along the
variant's own data, over model sizes and data at once, or along the family's compute; of those that the rows carry, the first
whose roll-outs were not clearly worse than the best one's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchestrator import laws
from orchestrator.laws import Law, LawError
from orchestrator.laws.fitting import SIMILAR
from orchestrator.results.import_table import CLASSES, RESOLUTION
from orchestrator.spec.claims import Target
from orchestrator.spec.schema import ExternalData, Study
from orchestrator.verdicts.answers import Forecast, Point
from orchestrator.verdicts.evidence import Evidence, compute_points, data_points, fit, precision
from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig
from vitmodel.config.variants import named_model
from vitmodel.data import generated
from vitmodel.files import read_json, write_json
from vitmodel.flops.count import TRAIN_FACTOR, count_params, forward_flops

FILE = "targets.json"


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A target with what it costs: where it stands on every axis."""

    target: Target
    family: str
    params: int
    epochs: float
    pretrain_flops: float


@dataclass(frozen=True, kw_only=True)
class Way:
    """A law that reaches a target: which law, at which x, how far beyond its rows on each axis, from which points."""

    by: str
    law: Law
    x: np.ndarray
    beyond: dict[str, float]
    points: tuple[Point, ...]


def forecasts(study: Study, evidence: Sequence[Evidence]) -> tuple[Forecast, ...]:
    """A forecast for every target of the study, made from all rows but the target's own."""
    return tuple(forecast(target, study, evidence) for target in study.targets)


def forecast(target: Target, study: Study, evidence: Sequence[Evidence]) -> Forecast:
    """One target's forecast; `refused` where no row or no law reaches it."""
    found = view_of(target, evidence)
    if found is None:
        return _refused(target, "", f"no row is judged on {target.task or 'any task'} yet")
    aim = aim_of(target, study, found.points)
    own = tuple(p for p in found.points if is_target(p, aim))
    measured = math.exp(float(np.mean([math.log(p.error) for p in own]))) if own else math.nan
    past = replace(found, points=tuple(p for p in found.points if p not in own))
    choices, refusals = ways(past, aim)
    if not choices:
        return replace(_refused(target, found.view.name, "; ".join(refusals)), measured=measured)
    way = best(choices)
    low, high = (min(float(end[0]), 1.0) for end in way.law.interval(way.x, study.claims.level, "prediction"))
    return Forecast(
        target=target.label,
        view=found.view.name,
        variant=target.variant,
        dataset_size=target.dataset_size,
        error=float(way.law.predict(way.x)[0]),
        low=low,
        high=high,
        form=way.law.form,
        by=way.by,
        beyond=way.beyond,
        rollout_rmse=way.law.diagnostics.rollout.rmse,
        runs=tuple(dict.fromkeys(run for p in way.points for run in p.runs)),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        made_before=not own,
        measured=measured,
        state="inside" if low <= measured <= high else "outside" if own else "open",
    )


def view_of(target: Target, evidence: Sequence[Evidence]) -> Evidence | None:
    """The view a target is judged in: its task's, else the first."""
    if target.task is None:
        return evidence[0] if evidence else None
    return next((e for e in evidence if e.view.tasks == (target.task,)), None)


def aim_of(target: Target, study: Study, points: Sequence[Point]) -> Aim:
    """What the target costs, counted from its model as the study would train it."""
    entries = {entry.model.variant: entry for entry in study.pretrain.models}
    model: ModelConfig = entries[target.variant].model if target.variant in entries else named_model(target.variant)
    resolution = study.pretrain.resolution if study.pretrain.models else RESOLUTION
    spec = study.datasets.get(study.pretrain.data)
    classes = CLASSES if spec is None else spec.classes if isinstance(spec, ExternalData) else generated.classes(spec)
    epochs = target.epochs or _study_epochs(target, study, points)
    flops = TRAIN_FACTOR * forward_flops(model, resolution, classes) * epochs * target.dataset_size
    params = count_params(model, resolution, classes)
    return Aim(target=target, family=model.family, params=params, epochs=epochs, pretrain_flops=float(flops))


def _study_epochs(target: Target, study: Study, points: Sequence[Point]) -> float:
    """Epochs of the first length that the study gives the model; else the commonest among its family's rows."""
    entry = next((e for e in study.pretrain.models if e.model.variant == target.variant), None)
    lengths = (entry.lengths if entry else None) or study.pretrain.lengths
    for length in lengths[:1]:
        if length.epochs is not None:
            return length.epochs
        if length.examples is not None:
            return length.examples / target.dataset_size
    known = pd.Series([p.epochs for p in points]).dropna()
    if not len(known):
        raise UserError("how long the target is pretrained is not known", field="targets.epochs", allowed="a number")
    return float(known.mode().iloc[0])


def is_target(point: Point, aim: Aim) -> bool:
    """Whether a point is the target itself (within rounding of its epochs)."""
    target = aim.target
    same = point.variant == target.variant and point.dataset_size == target.dataset_size
    return same and (math.isnan(point.epochs) or math.isclose(point.epochs, aim.epochs, rel_tol=0.05))


# --- ways -----------------------------------------------------------------------------------------------------


def ways(past: Evidence, aim: Aim) -> tuple[list[Way], list[str]]:
    """Every law that reaches the target, and why the others do not exist."""
    target = aim.target
    found, refused = [], []
    lines: tuple[tuple[str, tuple[Point, ...], dict[str, float]], ...] = (
        ("data", data_points(past, aim.family, target.variant), {"dataset_size": float(target.dataset_size)}),
        ("sizes and data", past.of(aim.family), {"params": float(aim.params), "dataset_size": float(target.dataset_size)}),
        ("compute", compute_points(past, aim.family), {"pretrain_flops": aim.pretrain_flops}),
    )
    for by, points, axes in lines:
        try:
            law = fit_along(points, tuple(axes))
        except LawError as error:
            refused.append(f"by {by}: {error.message}")
            continue
        beyond = {axis: value / max(getattr(p, axis) for p in points) for axis, value in axes.items()}
        x = np.array([list(axes.values())]) if len(axes) > 1 else np.array(list(axes.values()))
        found.append(Way(by=by, law=law, x=x, beyond=beyond, points=points))
    return found, refused


def fit_along(points: Sequence[Point], axes: tuple[str, ...]) -> Law:
    """The law over one axis (form by roll-out) or over sizes and data. Raises LawError."""
    if len(axes) == 1:
        return fit(points, axes[0], "auto")  # type: ignore[arg-type]  # the axes of `ways`
    x = np.array([[float(getattr(p, axis)) for axis in axes] for p in points]).reshape(len(points), len(axes))
    return laws.fit(x, [p.error for p in points], "L(N,D)", weights=precision(points))


def best(choices: Sequence[Way]) -> Way:
    """The first way whose roll-outs were not clearly worse than the best one's; the first where none had any."""
    known = [way for way in choices if math.isfinite(way.law.diagnostics.rollout.rmse)]
    least = min((way.law.diagnostics.rollout.rmse for way in known), default=math.inf)
    return next((way for way in known if way.law.diagnostics.rollout.rmse <= SIMILAR * least), choices[0])


# --- saved before, compared after -----------------------------------------------------------------------------


def settle(fresh: Sequence[Forecast], folder: Path) -> tuple[Forecast, ...]:
    """Fresh forecasts with those saved earlier put in place where the target is done now; the open ones are saved."""
    saved = {item["target"]: item for item in read_json(folder / FILE) or []}
    settled = tuple(_settled(one, saved.get(one.target)) for one in fresh)
    if settled:
        write_json(folder / FILE, [_plain(one) for one in settled])
    return settled


def _settled(fresh: Forecast, saved: dict[str, Any] | None) -> Forecast:
    if math.isnan(fresh.measured) or saved is None or not saved["made_before"] or saved["state"] == "refused":
        return fresh
    kept = Forecast(**{**saved, "runs": tuple(saved["runs"]), "rollout_rmse": _number(saved["rollout_rmse"])})
    inside = kept.low <= fresh.measured <= kept.high
    return replace(kept, measured=fresh.measured, state="inside" if inside else "outside")


def _plain(one: Forecast) -> dict[str, Any]:
    """A forecast for JSON, which has no nan."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(one).items()}


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
