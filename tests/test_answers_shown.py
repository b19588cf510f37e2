"""Findings in the report: verdicts with their numbers, laws with bands, held-out points, targets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_report import CANARY, Page, done

from orchestrator import laws
from orchestrator.report import answer_tables, interactive, law_charts, plots
from orchestrator.report.page import write_page
from orchestrator.verdicts.answers import (
    ClaimVerdict,
    Comparison,
    Curve,
    CurvePoint,
    Findings,
    Forecast,
    Measure,
    Verdict,
    View,
)

IMAGES = np.geomspace(1e3, 1e6, 10)


def law_of(exponent: float) -> laws.Law:
    noise = np.exp(0.01 * np.sin(np.arange(len(IMAGES)) * 7.0))
    return laws.fit(IMAGES, 5 * IMAGES**-exponent * noise, "M1")


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Two families of known power laws over data, one curve without a law, a verdict in two views, two targets."""
    curves = [
        Curve(view="digits", family=f, variant="", axis="dataset_size", points=points(f, c), law=law_of(c))
        for f, c in (("vit", 0.5), ("resnet", 0.3))
    ]
    none = Curve(view="digits", family="vit", variant="", axis="pretrain_flops", points=(), law=None, refused="too few points")
    ratio = laws.compute_ratio(law_of(0.3), law_of(0.5))
    claim = ClaimVerdict(
        name="overtakes",
        says="ViT overtakes ResNet",
        view="digits",
        headline=True,
        verdict=Verdict.HOLDS,
        number=Measure(what="crossing", value=3e4, low=2e4, high=4e4, unit="images"),
        parts=(),
        method="laws",
        sentence="It does.",
        runs=("a", "b"),
    )
    forecast = Forecast(
        target="ViT at 3M",
        view="digits",
        variant="V8",
        dataset_size=3_000_000,
        error=0.003,
        low=0.002,
        high=0.004,
        form="M1",
        by="data",
        beyond={"dataset_size": 3.0},
        rollout_rmse=0.02,
        runs=("a",),
        made="2026-01-01T00:00:00+00:00",
        made_before=True,
        measured=0.0035,
        state="inside",
    )
    return Findings(
        study="toy",
        level=0.9,
        views=(View(name="digits", tasks=("digits",), phase="finetune", how="7 epochs"),),
        curves=(*curves, none),
        comparisons=(Comparison(view="digits", first="resnet", second="vit", method="M1", ratio=ratio),),
        ceilings={},
        claims=(claim, replace(claim, view="mean", headline=False, verdict=Verdict.CANNOT_TELL)),
        forecasts=(forecast, replace(forecast, target="ViT at 9M", state="refused", refused="no law", measured=math.nan)),
    )


def points(family: str, exponent: float) -> tuple[CurvePoint, ...]:
    fields = {
        "family": family,
        "variant": f"{family}-8",
        "params": 1000,
        "dataset": "shapes",
        "epochs": 6.0,
        "seed": 0,
        "spread": 0.01,
        "noise": 0.01,
    }
    known = {name: value for name, value in fields.items() if name in CurvePoint.__dataclass_fields__}
    return tuple(
        CurvePoint(**known, dataset_size=int(n), pretrain_flops=1e6 * n, error=float(5 * n**-exponent), runs=(f"run-{i}",))
        for i, n in enumerate(IMAGES)
    )


def test_verdicts_and_targets_have_numbers(findings: Findings) -> None:
    shown = answer_tables.tables_of_findings(findings)
    (verdict,) = shown["verdicts"]
    assert (verdict["verdict"], verdict["tally"], verdict["runs"]) == ("holds", "1 cannot tell", ["a", "b"])
    assert "3e+04" in verdict["number"]
    known, unknown = shown["targets"]
    assert (known["error"], known["interval"], known["measured"]) == ("0.3%", "0.2% to 0.4%", "0.35%")
    assert (known["state"], known["beyond"], known["by"]) == ("inside the interval", "images 3x", "M1 law over data")
    assert (unknown["error"], unknown["state"], unknown["by"]) == ("", "no forecast", "no law")
    assert shown["unfitted"] == ["No law for 1 curve: too few points"]


def test_parameters_are_in_units_of_x_with_intervals_that_contain_the_true_value(findings: Findings) -> None:
    for curve, exponent in zip(findings.curves, (0.5, 0.3), strict=False):
        assert curve.law is not None
        value, low, high = answer_tables.parameters(curve.law, 0.9)["c"]
        assert low <= value <= high
        assert value == pytest.approx(exponent, abs=0.01)


def test_held_out_points_are_above_half_of_the_largest_and_are_not_fitted(findings: Findings) -> None:
    law = findings.curves[0].law
    assert law is not None
    test = law_charts.held_out_test(law)
    assert test is not None
    assert test.cut == IMAGES[-1] / 2
    assert test.law.x_range[1] <= test.cut
    assert test.rmse == pytest.approx(0.01, abs=0.01)
    assert law_charts.held_out_test(laws.fit(IMAGES[:4], 5 * IMAGES[:4] ** -0.5, "M1")) is None, (
        "three points are too few for a law"
    )


def test_both_drawings_of_a_chart_with_laws_show_bands_held_out_points_and_targets(findings: Findings) -> None:
    (chart,) = law_charts.charts_of_findings(findings)
    assert len(chart.trends) == 2
    assert [target.label for target in chart.targets] == ["ViT at 3M"]
    hollow = chart.points[chart.points["held_out"]]
    assert list(hollow["dataset_size"]) == [1_000_000, 1_000_000]
    for trend in chart.trends:
        assert (trend.low <= trend.y).all()
        assert (trend.y <= trend.high).all()
        assert trend.x.max() >= 3_000_000, "the law reaches the target"
    low, high = chart.y_range or (1, 0)
    assert low < 0.002 < chart.points["mean"].max() < high
    names = [trace["name"] for trace in interactive.figure(chart)["data"]]
    assert [names.count(name) for name in ("band", "law", "forecast", "measured")] == [2, 2, 2, 1]
    assert {"_law", "_forecast", "_before"} <= {str(line.get_label()) for line in plots.draw(chart).axes[0].lines}


def test_the_page_starts_with_the_verdicts_and_escapes_them(findings: Findings, tmp_path: Path) -> None:
    hostile = replace(findings, claims=tuple(replace(claim, sentence=CANARY, says=CANARY) for claim in findings.claims))
    text = write_page(done(tmp_path), tmp_path, {}, hostile).read_text()
    shown = Page(text).shown
    assert CANARY not in text
    assert shown.count(CANARY) >= 2
    order = [shown.index(title) for title in ("Verdicts", "Targets", "Summary by", "Curves", "Scaling laws", "Results")]
    assert order == sorted(order)
