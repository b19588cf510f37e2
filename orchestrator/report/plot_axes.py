"""Axes, ticks, legend and line labels of a figure that `plots` draws with matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from orchestrator.report.chart import Chart, Tick
from orchestrator.report.style import GREY, variant_styles

MOST_LEGEND_NAMES = 14  # more variants do not fit
MOST_TICKS = 8


def set_x_axis(axes: Axes, x: pd.Series, chart: Chart) -> None:
    """Scale and ticks of the x axis, for the values `x` in units of the chart."""
    axes.set_xscale("log" if chart.is_log_x else "linear")
    values = sorted(float(value) for value in x.unique())
    if not chart.has_ticks:
        _set_log_ticks(axes.xaxis, x, chart.tick)
    elif values:
        step = -(-len(values) // MOST_TICKS)
        axes.xaxis.set_major_locator(FixedLocator(values[::-1][::step]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: chart.tick(value)))


def set_error_axis(axes: Axes, chart: Chart) -> None:
    """Errors in percent, on a log axis if they span more than a factor of two and none is zero."""
    means = chart.points["mean"].dropna()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    if chart.is_log_y:
        axes.set_yscale("log", nonpositive="clip")
        _set_log_ticks(axes.yaxis, means, lambda value: f"{100 * value:.3g}%")
    elif len(means):
        axes.yaxis.set_major_locator(MaxNLocator(6))
    else:
        axes.text(0.5, 0.5, "no result yet", transform=axes.transAxes, ha="center", color=GREY, fontsize=12)
        axes.set_yticks([])


def add_legend(axes: Axes) -> None:
    """A legend to the right of the panel, with as many variants as fit."""
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False, "handlelength": 1.8, "handletextpad": 0.4}
    handles, names = axes.get_legend_handles_labels()
    more = f"and {len(names) - MOST_LEGEND_NAMES} more" if len(names) > MOST_LEGEND_NAMES else ""
    legend = axes.legend(handles[:MOST_LEGEND_NAMES], names[:MOST_LEGEND_NAMES], fontsize=9.5, title=more, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)


def label_line_ends(axes: Axes, points: pd.DataFrame, x: str) -> None:
    """The name of each variant at the right end of its line. Names that would overlap are moved apart."""
    ends = []
    for (family, variant), style in variant_styles(points).items():
        part = points[(points["family"] == family) & (points["variant"] == variant)].dropna(subset=["mean"])
        if len(part):
            ends.append((float(part[x].iloc[-1]), float(part["mean"].iloc[-1]), variant, style["color"]))
    axes.autoscale_view()
    to_fraction = axes.transData + axes.transAxes.inverted()
    heights = [float(to_fraction.transform(end[:2])[1]) for end in ends]
    label: dict[str, Any] = {
        "textcoords": "axes fraction",
        "va": "center",
        "fontsize": 10.5,
        "fontweight": "bold",
        "parse_math": False,
    }
    for (end_x, end_y, variant, colour), height in zip(ends, _spread(heights), strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(variant, (end_x, end_y), (1.035, height), color=colour, annotation_clip=False, arrowprops=line, **label)


def _set_log_ticks(axis: Any, values: pd.Series, tick: Tick) -> None:
    """Ticks at powers of ten, with as many between them as fit the range of the values."""
    span = values.max() / values.min() if len(values) else 1.0
    between = (1.0,) if span > 1e3 else (1.0, 2.0, 5.0) if span > 6 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=between))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def _spread(heights: list[float], gap: float = 0.058) -> list[float]:
    """The heights moved by a few passes until neighbours are `gap` apart, inside the panel if they fit."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, dtype=float)[order]
    gap = min(gap, 1.04 / max(1, len(placed) - 1))
    for _ in range(200):
        for low in range(len(placed) - 1):
            missing = max(0.0, gap - (placed[low + 1] - placed[low]))
            placed[low : low + 2] += (-missing / 2, missing / 2)
        placed = np.clip(placed, -0.02, 1.02)
    return [float(value) for value in placed[np.argsort(order)]]
