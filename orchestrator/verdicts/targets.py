"""Targets of forecasts: the run that a target stands for, what it costs, and which points are that run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from orchestrator.results.import_table import CLASSES, RESOLUTION
from orchestrator.results.summary import SAME_BUDGET
from orchestrator.spec.claims import Target
from orchestrator.spec.schema import ExternalData, Study
from orchestrator.verdicts.answers import CurvePoint
from orchestrator.verdicts.evidence import Evidence
from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig, named_model
from vitmodel.data import generated
from vitmodel.flops.count import TRAIN_FACTOR, count_params, forward_flops

SAME_EPOCHS = 0.05  # relative difference of the epochs of a target and of its run


@dataclass(frozen=True, kw_only=True)
class TargetRun:
    """The run of a target: its position on every axis of a law."""

    target: Target
    family: str
    params: int
    epochs: float
    pretrain_flops: float


def target_run(target: Target, study: Study, points: Sequence[CurvePoint]) -> TargetRun:
    """The run of a target, with the model and the length that the study would use.

    A variant that is neither in the study nor published has the family, the parameters and the FLOPs of an example of its
    points. Raises UserError if it has no point with these.
    """
    epochs = target.epochs or _study_epochs(target, study, points)
    model = _model(target, study)
    same = [point for point in points if point.variant == target.variant]
    if model is None:
        if not same or math.isnan(flops := _flops_per_example(same)):
            message = f"the table has no row of {target.variant!r} with its FLOPs and examples, and it is not a published model"
            raise UserError(message, field="targets.variant", allowed=", ".join(dict.fromkeys(p.variant for p in points)))
        family, params = same[0].family, same[0].params
    else:
        resolution = study.pretrain.resolution if study.pretrain.models else RESOLUTION
        spec = study.datasets.get(study.pretrain.data)
        stated = None if spec is None else spec.classes if isinstance(spec, ExternalData) else generated.classes(spec)
        classes = stated or CLASSES
        family, params = model.family, count_params(model, resolution, classes)
        flops = float(TRAIN_FACTOR * forward_flops(model, resolution, classes))
    run_flops = flops * epochs * target.dataset_size
    return TargetRun(target=target, family=family, params=params, epochs=epochs, pretrain_flops=run_flops)


def _model(target: Target, study: Study) -> ModelConfig | None:
    """The model of a target: the study's, or a published one; None if only imported rows can have it."""
    entries = {entry.model.variant: entry for entry in study.pretrain.models}
    if target.variant in entries:
        return entries[target.variant].model
    try:
        return named_model(target.variant)
    except UserError:
        if not study.imports:
            raise
        return None


def _flops_per_example(points: Sequence[CurvePoint]) -> float:
    """The training FLOPs of an example, the median over a variant's points; nan if none has FLOPs and epochs."""
    each = pd.Series([point.pretrain_flops / (point.epochs * point.dataset_size) for point in points])
    return float(each.median())


def _study_epochs(target: Target, study: Study, points: Sequence[CurvePoint]) -> float:
    """Epochs of the model's first length in the study; else the most common number among the points."""
    entry = next((e for e in study.pretrain.models if e.model.variant == target.variant), None)
    lengths = (entry.lengths if entry else None) or study.pretrain.lengths
    for length in lengths[:1]:
        if length.epochs is not None:
            return length.epochs
        if length.examples is not None:
            return length.examples / target.dataset_size
    known = pd.Series([p.epochs for p in points]).dropna()
    if not len(known):
        message = f"the pretraining length of target {target.label} is unknown: no model of the study and no row has one"
        raise UserError(message, field="targets.epochs", allowed="a number of epochs")
    return float(known.mode().iloc[0])


def is_target(point: CurvePoint, run: TargetRun) -> bool:
    """Whether a point is the target itself, apart from the rounding of its size and epochs."""
    size = run.target.dataset_size
    is_same_model = point.variant == run.target.variant and math.isclose(point.dataset_size, size, rel_tol=SAME_BUDGET)
    return is_same_model and (math.isnan(point.epochs) or math.isclose(point.epochs, run.epochs, rel_tol=SAME_EPOCHS))


def evidence_for(target: Target, evidence: Sequence[Evidence]) -> Evidence | None:
    """The evidence of the view in which the target is judged: that of its task, else the first."""
    if target.task is None:
        return evidence[0] if evidence else None
    return next((e for e in evidence if e.view.tasks == (target.task,)), None)
