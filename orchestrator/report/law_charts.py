"""The charts of findings: a view's error over compute and over data, with each family's law, its band, the points that were
held out to test it, and forecasts of targets.

Reads findings; returns Charts. The laws are the findings' own; only the test on held-out points is fitted here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from orchestrator import laws
from orchestrator.laws.law import Law
from orchestrator.laws.points import Array
from orchestrator.report.charts import TASK_ERROR, Chart, Target, Trend, file_name
from orchestrator.results import summary
from orchestrator.results.summary import count, family_name, flops_text, percent
from orchestrator.verdicts.answers import Axis, Curve, Findings, Forecast, Point, View

HELD_OUT = 2.0  # points beyond 1 / HELD_OUT of the largest x are held out
BEYOND = 3.0  # a law is drawn up to this many times the largest x
PHASES = {"finetune": TASK_ERROR, "probe": "few-shot error, top-1", "pretrain": "upstream error, top-1"}


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A law's form fitted without the points beyond `cut`, and how far off it was there (RMSE of log error)."""

    cut: float
    law: Law
    rmse: float


def of_findings(findings: Findings) -> Iterator[Chart]:
    """A chart for each view and axis along which any curve has a law; compute first."""
    for view in findings.views:
        for axis in ("pretrain_flops", "dataset_size"):
            curves = [curve for curve in findings.curves if (curve.view, curve.axis) == (view.name, axis)]
            if any(curve.law for curve in curves):
                yield _chart(findings, view, axis, curves)


def stand_ins(findings: Findings) -> set[str]:
    """Names of a frame's charts that a chart with laws shows better: a single task's fine-tunes over compute."""
    found = {curve.view for curve in findings.curves if curve.law and curve.axis == "pretrain_flops"}
    views = [view for view in findings.views if view.name in found and view.phase == "finetune" and len(view.tasks) == 1]
    return {file_name(f"finetune-compute-{view.tasks[0]}") for view in views}


def held_out(law: Law) -> HeldOut | None:
    """What the law's form would have said of its largest points before they were there; None where too few are left."""
    along = law.points.first
    cut = float(along.max() / HELD_OUT)
    before, after = law.points.part(along <= cut), law.points.part(along > cut)
    runs = None if before.runs is None else [int(run) for run in before.runs]
    try:
        found = laws.fit(before.x, before.y, law.form, before.weights, runs=runs)
    except laws.LawError:
        return None
    missed = np.log(after.y) - np.log(found.predict(after.x))
    return HeldOut(cut=cut, law=found, rmse=float(np.sqrt(np.mean(missed**2))))


# --- parts ----------------------------------------------------------------------------------------------------


def _chart(findings: Findings, view: View, axis: Axis, curves: list[Curve]) -> Chart:
    fitted = [(curve, held_out(curve.law)) for curve in curves if curve.law]
    targets = tuple(_target(forecast) for forecast in _forecasts(findings, view)) if axis == "dataset_size" else ()
    points = pd.concat([_points(curve) for curve in curves], ignore_index=True).drop_duplicates(["family", "variant", axis])
    for curve, test in fitted:
        own = points["family"] == curve.family
        own &= (points["variant"] == curve.variant) if curve.variant else True
        points.loc[own & (points[axis] > (test.cut if test else math.inf)), "held_out"] = True
    is_compute = axis == "pretrain_flops"
    unit, name = summary.flops_unit(float(points[axis].max())) if is_compute else (1.0, "")
    return Chart(
        name=file_name(f"law-{'compute' if is_compute else 'data'}-{view.phase}-{view.name}"),
        title=_title(findings, view) if is_compute else f"{view.name}: error along pretraining images",
        subtitle=_subtitle(findings.level, view, [test for _, test in fitted if test]),
        points=points.sort_values(["family", "params", "variant", axis], ignore_index=True),
        x=axis,
        x_label=f"pretraining compute ({name}FLOPs)" if is_compute else "pretraining images (unique)",
        y_label=PHASES[view.phase],
        tick=(lambda x: f"{x:g}") if is_compute else count,
        has_ticks=not is_compute,
        unit=unit,
        is_joined=False,
        trends=tuple(_trend(curve, test, findings.level, targets) for curve, test in fitted),
        targets=targets,
    )


def _title(findings: Findings, view: View) -> str:
    """What the laws of this view say of compute, where they compare two families."""
    found = [c for c in findings.comparisons if c.view == view.name and c.method != "fronts" and math.isfinite(c.ratio.value)]
    if not found:
        return f"{view.name}: error along pretraining compute"
    first, second = family_name(found[0].first), family_name(found[0].second)
    ratio = found[0].ratio
    interval = f" [{ratio.low:.2g}, {ratio.high:.2g}]" if math.isfinite(ratio.low) else ""
    return f"{view.name}: {first} needs {ratio.value:.2g}{interval} times {second}'s compute at equal error"


def _subtitle(level: float, view: View, tests: list[HeldOut]) -> str:
    words = f"{view.how}; law and its {level:.0%} band, dashed beyond the data"
    if not tests:
        return words
    missed = ", ".join(percent(math.expm1(test.rmse)) for test in tests)
    return f"{words}; hollow: held out, dotted: the law fitted without them, off by {missed}"


def _points(curve: Curve) -> pd.DataFrame:
    """A row for each variant and place of the curve: mean and range over seeds."""
    places: dict[tuple[str, float], list[Point]] = {}
    for point in curve.points:
        places.setdefault((point.variant, float(getattr(point, curve.axis))), []).append(point)
    rows = [
        {
            "family": curve.family,
            "variant": variant,
            "params": found[0].params,
            curve.axis: x,
            "mean": float(np.mean([point.error for point in found])),
            "low": min(point.error for point in found),
            "high": max(point.error for point in found),
            "seeds": len({point.seed for point in found}),
            "hover": _hover(found),
            "held_out": False,
        }
        for (variant, x), found in places.items()
    ]
    return pd.DataFrame(rows)


def _hover(points: list[Point]) -> str:
    first = points[0]
    ids = list(dict.fromkeys(run for point in points for run in point.runs))
    low, high = (f"{100 * (1 - pick(point.error for point in points)):.2f}" for pick in (max, min))
    lines = [
        f"{first.variant} ({family_name(first.family)})",
        ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else ""),
        f"N = {first.params:,} parameters",
        f"D = {first.dataset_size:,} images of {first.dataset}, {first.epochs:.3g} epochs",
        f"C = {flops_text(first.pretrain_flops)} of pretraining",
        f"top-1 = {low}%" if low == high else f"top-1 = {low} to {high}%",
    ]
    return "\n".join(lines)


def _trend(curve: Curve, test: HeldOut | None, level: float, targets: tuple[Target, ...]) -> Trend:
    law = curve.law
    assert law is not None
    low, high = law.x_range
    farthest = max([BEYOND * high, *(target.x for target in targets)])
    x = np.unique(np.concatenate([np.geomspace(low, high, 40), np.geomspace(high, farthest, 15)]))
    band = law.interval(x, level)
    nothing: Array = np.zeros(0)
    before_x = np.geomspace(test.cut, high, 20) if test else nothing
    return Trend(
        family=curve.family,
        label=f"{family_name(curve.family)}{f' {curve.variant}' if curve.variant else ''}: {law.formula}",
        x=x,
        y=law.predict(x),
        low=band[0],
        high=band[1],
        measured_to=high,
        before_x=before_x,
        before_y=test.law.predict(before_x) if test else nothing,
    )


def _forecasts(findings: Findings, view: View) -> list[Forecast]:
    return [forecast for forecast in findings.forecasts if forecast.view == view.name and forecast.state != "refused"]


def _target(forecast: Forecast) -> Target:
    return Target(
        label=forecast.target,
        x=float(forecast.dataset_size),
        error=forecast.error,
        low=forecast.low,
        high=forecast.high,
        measured=forecast.measured,
    )
