"""Laws that can predict a target: along the variant's data, over model sizes and data, or along the family's compute.

The one that is used is the first whose roll-out error is not clearly above the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator import laws
from orchestrator.laws import Law, LawError
from orchestrator.laws.fitting import SIMILAR
from orchestrator.verdicts.answers import CurvePoint
from orchestrator.verdicts.curves import compute_points, data_points, fit, precision
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.targets import TargetRun


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A law and the target's position on it: x, how far beyond the points it is on each axis, and the fitted points."""

    by: str
    law: Law
    x: np.ndarray
    beyond: dict[str, float]
    points: tuple[CurvePoint, ...]


def extrapolations(past: Evidence, run: TargetRun) -> tuple[list[Extrapolation], list[str]]:
    """Every law that can predict the target, and for the others the reason why there is none."""
    target = run.target
    result, refused = [], []
    candidates: tuple[tuple[str, tuple[CurvePoint, ...], dict[str, float]], ...] = (
        ("data", data_points(past, run.family, target.variant), {"dataset_size": float(target.dataset_size)}),
        ("sizes and data", past.of(run.family), {"params": float(run.params), "dataset_size": float(target.dataset_size)}),
        ("compute", compute_points(past, run.family), {"pretrain_flops": run.pretrain_flops}),
    )
    for by, points, axes in candidates:
        try:
            law = _fit_axes(points, tuple(axes))
        except LawError as error:
            refused.append(f"by {by}: {error.message}")
            continue
        beyond = {axis: value / max(getattr(p, axis) for p in points) for axis, value in axes.items()}
        x = np.array([list(axes.values())]) if len(axes) > 1 else np.array(list(axes.values()))
        result.append(Extrapolation(by=by, law=law, x=x, beyond=beyond, points=points))
    return result, refused


def _fit_axes(points: Sequence[CurvePoint], axes: tuple[str, ...]) -> Law:
    """The law over one axis (form chosen by roll-out), or over sizes and data. Raises LawError."""
    if len(axes) == 1:
        return fit(points, axes[0], "auto")  # type: ignore[arg-type]  # the axes of `extrapolations`
    x = np.array([[float(getattr(p, axis)) for axis in axes] for p in points]).reshape(len(points), len(axes))
    return laws.fit(x, [p.error for p in points], "L(N,D)", weights=precision(points))


def most_reliable(choices: Sequence[Extrapolation]) -> Extrapolation:
    """The first one whose roll-out error is not clearly above the smallest; the first one if no law has roll-outs."""
    known = [choice for choice in choices if math.isfinite(choice.law.diagnostics.rollout.rmse)]
    smallest = min((choice.law.diagnostics.rollout.rmse for choice in known), default=math.inf)
    return next((choice for choice in known if choice.law.diagnostics.rollout.rmse <= SIMILAR * smallest), choices[0])
