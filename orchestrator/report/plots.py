"""Charts as matplotlib figures: one colour per family, one shade and marker per variant, mean and range over seeds.

`draw` takes a Chart and returns a Figure with one panel. The error_vs_* functions take a results frame. A run without a
result is a gap; laws are lines with a band, dashed where they forecast. Nothing is shown, saved or changed globally.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from orchestrator.report import run_charts
from orchestrator.report.chart import Chart, Trend, frontier
from orchestrator.report.plot_axes import add_legend, label_line_ends, set_error_axis, set_x_axis
from orchestrator.report.style import GREY, GRID, INK, LINES, colour, variant_styles
from orchestrator.results.summary import family_name

SIZE_INCHES = (6.4, 4.8)


def error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Figure:
    """Downstream error against pretraining images, after `epochs` fine-tune epochs (default: the largest number)."""
    return draw(run_charts.error_vs_dataset_size(frame, task, epochs))


def fewshot_error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, shots: int | None = None) -> Figure:
    """Few-shot linear-probe error against pretraining images (default: the largest number of shots)."""
    return draw(run_charts.fewshot_error_vs_dataset_size(frame, task, shots))


def upstream_error_vs_dataset_size(frame: pd.DataFrame) -> Figure:
    """Error on the pretraining task itself against pretraining images."""
    return draw(run_charts.upstream_error_vs_dataset_size(frame))


def error_vs_finetune_epochs(frame: pd.DataFrame, task: str | None = None, dataset_size: int | None = None) -> Figure:
    """Downstream error against fine-tune epochs, after pretraining on `dataset_size` images (default: the largest number)."""
    return draw(run_charts.error_vs_finetune_epochs(frame, task, dataset_size))


def error_vs_pretrain_flops(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Figure:
    """Downstream error against pretraining compute: all sizes and lengths, with the frontier of each family as a band."""
    return draw(run_charts.error_vs_pretrain_flops(frame, task, epochs))


def draw(chart: Chart) -> Figure:
    """The chart as a figure."""
    figure, axes = _canvas(chart)
    scaled = chart.points.assign(**{chart.x: chart.points[chart.x] / chart.unit})
    for trend in chart.trends:
        _draw_trend(axes, trend, chart.unit)
    _draw_points(axes, scaled, chart)
    _draw_targets(axes, chart)
    if chart.has_frontier:
        for family, best in frontier(scaled, chart.x):
            axes.plot(best[chart.x], best["mean"], color=colour(family), linewidth=9, alpha=0.16, zorder=1)
    set_x_axis(axes, scaled[chart.x], chart)
    set_error_axis(axes, chart)
    if chart.y_range:
        axes.set_ylim(*chart.y_range)
    if chart.has_ticks and not chart.trends:
        label_line_ends(axes, scaled, chart.x)
    elif len(scaled):
        add_legend(axes)
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as SVG. The same rows give the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "vitscale"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def save(figure: Figure, folder: Path, name: str) -> bytes:
    """Write NAME.svg and NAME.png (twice the page's resolution); returns the SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    content = svg(figure)
    (folder / f"{name}.svg").write_bytes(content)
    figure.savefig(folder / f"{name}.png", dpi=200, metadata={"Software": None})
    return content


def alt_text(figure: Figure) -> str:
    """The title and subtitle of the figure, for readers who cannot see it."""
    return ". ".join(text.get_text().replace("\n", " ") for text in figure.texts if text.get_text())


def _canvas(chart: Chart) -> tuple[Figure, Axes]:
    """An empty panel with title, subtitle and the families' colours above it, and space for labels to its right."""
    figure = Figure(figsize=SIZE_INCHES, facecolor="white")
    titles, subtitles = textwrap.wrap(chart.title, 54), textwrap.wrap(chart.subtitle, 82)
    top = 0.985 - 0.05 * len(titles)
    bottom = top - 0.037 * max(1, len(subtitles)) - 0.012
    plain: dict[str, Any] = {"va": "top", "parse_math": False}  # a dollar sign in a name does not start a formula
    figure.text(0.012, 0.985, "\n".join(titles), fontsize=13, fontweight="bold", color=INK, **plain)
    figure.text(0.012, top - 0.008, "\n".join(subtitles), fontsize=9.5, color=GREY, **plain)
    axes = figure.add_axes((0.125, 0.12, 0.69, bottom - 0.065 - 0.12))
    axes.set(xlabel=chart.x_label, ylabel=chart.y_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10.5, colors=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    keys = [Line2D([], [], color=colour(f), linestyle=LINES.get(f, "-."), linewidth=2.4) for f in chart.families]
    place = {"loc": "upper left", "bbox_to_anchor": (0.113, bottom), "frameon": False, "borderpad": 0, "handlelength": 2.2}
    names = [family_name(name) for name in chart.families]
    figure.legend(keys, names, ncols=max(1, len(keys)), fontsize=10.5, **place)
    return figure, axes


def _draw_points(axes: Axes, points: pd.DataFrame, chart: Chart) -> None:
    """One line per variant: mean over seeds, and a bar from minimum to maximum for several. Held-out points are hollow."""
    for (family, variant), style in variant_styles(points).items():
        part = points[(points["family"] == family) & (points["variant"] == variant)]
        axes.plot(part[chart.x], part["mean"], label=variant, **{**style, **({} if chart.is_joined else {"linestyle": ""})})
        several = part[part["seeds"] > 1]
        axes.vlines(several[chart.x], several["low"], several["high"], color=style["color"], linewidth=1.4, alpha=0.7)
        if len(held := part[part["held_out"]]):
            hollow = {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.4, "linestyle": ""}
            axes.plot(held[chart.x], held["mean"], **{**style, **hollow}, label="_held out")


def _draw_trend(axes: Axes, trend: Trend, unit: float) -> None:
    """A law: its band and its line, dashed beyond the data; dotted: the law fitted without the held-out points."""
    family_colour, is_inside = colour(trend.family), trend.x <= trend.measured_to * (1 + 1e-9)
    axes.fill_between(trend.x / unit, trend.low, trend.high, color=family_colour, alpha=0.13, linewidth=0, zorder=0.5)
    line: dict[str, Any] = {"color": family_colour, "linewidth": 1.6, "zorder": 1.5}
    axes.plot(trend.x[is_inside] / unit, trend.y[is_inside], label="_law", **line)
    axes.plot(trend.x[~is_inside] / unit, trend.y[~is_inside], label="_forecast", linestyle="--", **line)
    axes.plot(trend.before_x / unit, trend.before_y, label="_before", linestyle=":", **line)


def _draw_targets(axes: Axes, chart: Chart) -> None:
    style: dict[str, Any] = {"color": INK, "linestyle": ""}
    for target in chart.targets:
        x, bar = target.x / chart.unit, [[target.error - target.low], [target.high - target.error]]
        axes.errorbar([x], [target.error], bar, marker="d", markersize=5, capsize=3, ecolor=INK, label="_target", **style)
        if np.isfinite(target.measured):
            axes.plot([x], [target.measured], marker="x", markersize=7, label="_measured", **style)
        place: dict[str, Any] = {"xytext": (5, 6), "textcoords": "offset points"}
        axes.annotate(target.label, (x, target.error), fontsize=9, color=INK, parse_math=False, **place)
