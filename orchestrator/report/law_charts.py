"""The charts of findings: error against compute and against data, with laws, bands, held-out points and targets.

Reads findings and returns Charts. The laws come from the findings; only the test on held-out points is fitted here.
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
from orchestrator.report.chart import (
    FEWSHOT_ERROR,
    TASK_ERROR,
    UPSTREAM_ERROR,
    Chart,
    Target,
    Trend,
    file_name,
    hover_text,
    pretraining_lines,
)
from orchestrator.results import summary
from orchestrator.results.summary import count, family_name, percent
from orchestrator.verdicts.answers import Axis, Curve, CurvePoint, Findings, Forecast, View

HELD_OUT = 2.0  # points above 1 / HELD_OUT of the largest x are held out
EXTRAPOLATION = 3.0  # a law is drawn up to this many times the largest x
ERROR_LABELS = {"finetune": TASK_ERROR, "probe": FEWSHOT_ERROR, "pretrain": UPSTREAM_ERROR}


@dataclass(frozen=True, kw_only=True)
class HeldOutTest:
    """A law's form fitted without the points above `cut`, and its error on these points (RMSE of log error)."""

    cut: float
    law: Law
    rmse: float


def charts_of_findings(findings: Findings) -> Iterator[Chart]:
    """A chart for each view and axis with at least one law; compute first."""
    for view in findings.views:
        for axis in ("pretrain_flops", "dataset_size"):
            curves = [curve for curve in findings.curves if (curve.view, curve.axis) == (view.name, axis)]
            if any(curve.law for curve in curves):
                yield _chart(findings, view, axis, curves)


def replaced_charts(findings: Findings) -> set[str]:
    """Names of the frame's charts that a chart with laws replaces: error of one fine-tuned task against compute."""
    fitted = {curve.view for curve in findings.curves if curve.law and curve.axis == "pretrain_flops"}
    views = [view for view in findings.views if view.name in fitted and view.phase == "finetune" and len(view.tasks) == 1]
    return {file_name(f"finetune-compute-{view.tasks[0]}") for view in views}


def held_out_test(law: Law) -> HeldOutTest | None:
    """The same law (its form, or the average of `auto`) fitted without its largest points and tested on them.

    None if too few points are left.
    """
    x = law.points.first
    cut = float(x.max() / HELD_OUT)
    before, after = law.points.part(x <= cut), law.points.part(x > cut)
    runs = None if before.runs is None else [int(run) for run in before.runs]
    try:
        refitted = laws.fit(before.x, before.y, "auto" if law.members else law.form, before.weights, runs=runs)
    except laws.LawError:
        return None
    log_errors = np.log(after.y) - np.log(refitted.predict(after.x))
    return HeldOutTest(cut=cut, law=refitted, rmse=float(np.sqrt(np.mean(log_errors**2))))


def _chart(findings: Findings, view: View, axis: Axis, curves: list[Curve]) -> Chart:
    fitted = [(curve, held_out_test(curve.law)) for curve in curves if curve.law]
    targets = tuple(_target(forecast) for forecast in _forecasts(findings, view)) if axis == "dataset_size" else ()
    points = pd.concat([_points(curve) for curve in curves], ignore_index=True).drop_duplicates(["family", "variant", axis])
    for curve, test in fitted:
        of_curve = points["family"] == curve.family
        of_curve &= (points["variant"] == curve.variant) if curve.variant else True
        points.loc[of_curve & (points[axis] > (test.cut if test else math.inf)), "held_out"] = True
    is_compute = axis == "pretrain_flops"
    unit, name = summary.flops_unit(float(points[axis].max())) if is_compute else (1.0, "")
    return Chart(
        name=file_name(f"law-{'compute' if is_compute else 'data'}-{view.phase}-{view.name}"),
        title=_title(findings, view) if is_compute else f"{view.name}: error against pretraining images",
        subtitle=_subtitle(findings.level, view, [test for _, test in fitted if test]),
        points=points.sort_values(["family", "params", "variant", axis], ignore_index=True),
        x=axis,
        x_label=f"pretraining compute ({name}FLOPs)" if is_compute else "pretraining images (unique)",
        y_label=ERROR_LABELS[view.phase],
        tick=(lambda x: f"{x:,g}") if is_compute else count,
        has_ticks=not is_compute,
        unit=unit,
        is_joined=False,
        trends=tuple(_trend(curve, test, findings.level, targets) for curve, test in fitted),
        targets=targets,
    )


def _title(findings: Findings, view: View) -> str:
    """The compute ratio of two families by the laws of this view, if there is one."""
    ratios = [
        c
        for c in findings.comparisons
        if c.view == view.name and c.axis == "pretrain_flops" and c.method != "fronts" and math.isfinite(c.ratio.value)
    ]
    if not ratios:
        return f"{view.name}: error against pretraining compute"
    first, second, ratio = family_name(ratios[0].first), family_name(ratios[0].second), ratios[0].ratio
    interval = f" [{ratio.low:.2g}, {ratio.high:.2g}]" if math.isfinite(ratio.low) else ""
    return f"{view.name}: {first} needs {ratio.value:.2g}{interval} times {second}'s compute at equal error"


def _subtitle(level: float, view: View, tests: list[HeldOutTest]) -> str:
    text = f"{view.how}; lines: laws with {level:.0%} bands, dashed beyond the data"
    if not tests:
        return text
    errors = ", ".join(percent(math.expm1(test.rmse)) for test in tests)
    return f"{text}; hollow points: held out; dotted: laws fitted without them, held-out error {errors}"


def _points(curve: Curve) -> pd.DataFrame:
    """A row for each variant and x of the curve: mean and range over seeds."""
    groups: dict[tuple[str, float], list[CurvePoint]] = {}
    for point in curve.points:
        groups.setdefault((point.variant, float(getattr(point, curve.axis))), []).append(point)
    rows = [
        {
            "family": curve.family,
            "variant": variant,
            "params": points[0].params,
            curve.axis: x,
            "mean": float(np.mean([point.error for point in points])),
            "low": min(point.error for point in points),
            "high": max(point.error for point in points),
            "seeds": len({point.seed for point in points}),
            "hover": _hover(points),
            "held_out": False,
        }
        for (variant, x), points in groups.items()
    ]
    return pd.DataFrame(rows)


def _hover(points: list[CurvePoint]) -> str:
    first = points[0]
    low, high = (f"{100 * (1 - pick(point.error for point in points)):.2f}" for pick in (max, min))
    return hover_text(
        family=first.family,
        variant=first.variant,
        run_ids=list(dict.fromkeys(run for point in points for run in point.runs)),
        params=first.params,
        pretraining=pretraining_lines(first.dataset_size, first.epochs, first.pretrain_flops, first.dataset),
        result=f"top-1 = {low}%" if low == high else f"top-1 = {low} to {high}%",
    )


def _trend(curve: Curve, test: HeldOutTest | None, level: float, targets: tuple[Target, ...]) -> Trend:
    """The law of a curve over its data and beyond, as far as the farthest target."""
    law = curve.law
    assert law is not None
    low, high = law.x_range
    farthest = max([EXTRAPOLATION * high, *(target.x for target in targets)])
    x = np.unique(np.concatenate([np.geomspace(low, high, 40), np.geomspace(high, farthest, 15)]))
    band = law.interval(x, level)
    empty: Array = np.zeros(0)
    before_x = np.geomspace(test.cut, high, 20) if test else empty
    return Trend(
        family=curve.family,
        label=f"{family_name(curve.family)}{f' {curve.variant}' if curve.variant else ''}: {law.formula}",
        x=x,
        y=law.predict(x),
        low=band[0],
        high=band[1],
        measured_to=high,
        before_x=before_x,
        before_y=test.law.predict(before_x) if test else empty,
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
