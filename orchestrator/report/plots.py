"""Charts as figures for paper: one colour a family, a shade and a marker a variant; mean and range over seeds; a run without
a result is a gap; laws as lines with their band, dashed where they forecast.

`draw` takes a Chart and returns a Figure of one panel; the other functions make the chart from the results frame first.
Nothing is shown, saved or changed globally.
"""

from __future__ import annotations

import colorsys
import io
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from orchestrator.report import charts
from orchestrator.report.charts import Chart, Tick, Trend
from orchestrator.results.summary import family_name

COLOURS = {
    "vit": "#0072B2",
    "resnet": "#D55E00",
    "hybrid": "#009E73",
    "cnn": "#CC79A7",
}  # Okabe and Ito 2008: safe for the colour-blind
OTHER_COLOUR = "#6E4B8B"
LINES: dict[str, Any] = {"vit": "-", "resnet": (0, (5, 1.5)), "hybrid": (0, (1, 1)), "cnn": "-."}
MARKERS = "os^DvPX*<>hp"
SIZE_INCHES = (6.4, 4.8)
INK, GREY, GRID = "#222222", "#5A5A5A", "#E3E3E3"
LEGEND_NAMES = 14  # variants that have room in a legend


def error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Figure:
    """Downstream error against pretraining images, after that many fine-tune epochs (default: the most)."""
    return draw(charts.error_vs_dataset_size(frame, task, epochs))


def fewshot_error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, shots: int | None = None) -> Figure:
    """Few-shot linear-probe error against pretraining images (default: the most shots)."""
    return draw(charts.fewshot_error_vs_dataset_size(frame, task, shots))


def upstream_error_vs_dataset_size(frame: pd.DataFrame) -> Figure:
    """Error on the pretraining task itself against pretraining images."""
    return draw(charts.upstream_error_vs_dataset_size(frame))


def error_vs_finetune_epochs(frame: pd.DataFrame, task: str | None = None, dataset_size: int | None = None) -> Figure:
    """Downstream error against fine-tune epochs, from the pretraining on that many images (default: the most)."""
    return draw(charts.error_vs_finetune_epochs(frame, task, dataset_size))


def error_vs_pretrain_flops(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Figure:
    """Downstream error against pretraining compute: all sizes and lengths, with each family's frontier as a band."""
    return draw(charts.error_vs_pretrain_flops(frame, task, epochs))


# --- a chart --------------------------------------------------------------------------------------------------


def draw(chart: Chart) -> Figure:
    """The chart as a figure."""
    figure, axes = _canvas(chart)
    scaled = chart.points.assign(**{chart.x: chart.points[chart.x] / chart.unit})
    for trend in chart.trends:
        _draw_trend(axes, trend, chart.unit)
    _draw_points(axes, scaled, chart)
    _draw_targets(axes, chart)
    if chart.has_frontier:
        for family, best in charts.frontier(scaled, chart.x):
            axes.plot(best[chart.x], best["mean"], color=colour(family), linewidth=9, alpha=0.16, zorder=1)
    _x_axis(axes, scaled[chart.x], chart)
    _error_axis(axes, chart)
    if chart.y_range:
        axes.set_ylim(*chart.y_range)
    if chart.has_ticks and not chart.trends:
        _label_ends(axes, scaled, chart.x)
    elif len(scaled):
        _legend(axes)
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as SVG, byte for byte the same for the same rows."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "vitscale"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def save(figure: Figure, folder: Path, name: str) -> bytes:
    """Write NAME.svg and NAME.png (two pixels for one of the page's); returns the SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    found = svg(figure)
    (folder / f"{name}.svg").write_bytes(found)
    figure.savefig(folder / f"{name}.png", dpi=200, metadata={"Software": None})
    return found


def words(figure: Figure) -> str:
    """What the figure says, for those who cannot see it."""
    return ". ".join(text.get_text().replace("\n", " ") for text in figure.texts if text.get_text())


def _canvas(chart: Chart) -> tuple[Figure, Axes]:
    """An empty panel with room for labels on its right, its words above, and a key to the families' colours."""
    figure = Figure(figsize=SIZE_INCHES, facecolor="white")
    titles, subtitles = textwrap.wrap(chart.title, 54), textwrap.wrap(chart.subtitle, 82)
    top = 0.985 - 0.05 * len(titles)
    bottom = top - 0.037 * max(1, len(subtitles)) - 0.012
    plain: dict[str, Any] = {"va": "top", "parse_math": False}  # names come from files: a dollar is no formula
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


# --- curves ---------------------------------------------------------------------------------------------------


def _draw_points(axes: Axes, points: pd.DataFrame, chart: Chart) -> None:
    """One line a variant: mean over seeds, a bar from least to greatest where there are several; held out is hollow."""
    for (family, variant), style in styles(points).items():
        part = points[(points["family"] == family) & (points["variant"] == variant)]
        axes.plot(part[chart.x], part["mean"], label=variant, **{**style, **({} if chart.is_joined else {"linestyle": ""})})
        several = part[part["seeds"] > 1]
        axes.vlines(several[chart.x], several["low"], several["high"], color=style["color"], linewidth=1.4, alpha=0.7)
        if len(held := part[part["held_out"]]):
            hollow = {"markerfacecolor": "white", "markeredgecolor": style["color"], "markeredgewidth": 1.4, "linestyle": ""}
            axes.plot(held[chart.x], held["mean"], **{**style, **hollow}, label="_held out")


def _draw_trend(axes: Axes, trend: Trend, unit: float) -> None:
    """A law: its band, its line, dashed beyond the data; dotted what it would have said before the held-out points."""
    hue, inside = colour(trend.family), trend.x <= trend.measured_to * (1 + 1e-9)
    axes.fill_between(trend.x / unit, trend.low, trend.high, color=hue, alpha=0.13, linewidth=0, zorder=0.5)
    look: dict[str, Any] = {"color": hue, "linewidth": 1.6, "zorder": 1.5}
    axes.plot(trend.x[inside] / unit, trend.y[inside], label="_law", **look)
    axes.plot(trend.x[~inside] / unit, trend.y[~inside], label="_forecast", linestyle="--", **look)
    axes.plot(trend.before_x / unit, trend.before_y, label="_before", linestyle=":", **look)


def _draw_targets(axes: Axes, chart: Chart) -> None:
    look: dict[str, Any] = {"color": INK, "linestyle": ""}
    for target in chart.targets:
        x, bar = target.x / chart.unit, [[target.error - target.low], [target.high - target.error]]
        axes.errorbar([x], [target.error], bar, marker="d", markersize=5, capsize=3, ecolor=INK, label="_target", **look)
        if np.isfinite(target.measured):
            axes.plot([x], [target.measured], marker="x", markersize=7, label="_measured", **look)
        place: dict[str, Any] = {"xytext": (5, 6), "textcoords": "offset points"}
        axes.annotate(target.label, (x, target.error), fontsize=9, color=INK, parse_math=False, **place)


def styles(points: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """A line style for each variant: hue and dashes of its family, darker for more parameters, a marker of its own."""
    found = {}
    shared = {"markersize": 6, "linewidth": 1.8, "markeredgecolor": "white", "markeredgewidth": 0.6}
    for name, part in points.groupby("family", sort=False):
        family, variants = str(name), list(dict.fromkeys(part["variant"]))
        for number, variant in enumerate(variants):
            look = {"linestyle": LINES.get(family, "-."), "marker": MARKERS[number % len(MARKERS)]}
            found[family, variant] = {"color": colour(family, (number + 1) / len(variants)), **look, **shared}
    return found


def colour(family: str, depth: float = 1.0) -> str:
    """The family's colour as #rrggbb, from light (depth near 0) to dark (1)."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(COLOURS.get(family, OTHER_COLOUR)))
    return str(to_hex(colorsys.hls_to_rgb(hue, 0.64 + depth * (0.8 * lightness - 0.64), saturation)))


# --- axes and labels ------------------------------------------------------------------------------------------


def _x_axis(axes: Axes, x: pd.Series, chart: Chart) -> None:
    axes.set_xscale("log" if chart.is_log_x else "linear")
    values = sorted(float(value) for value in x.unique())
    if not chart.has_ticks:
        _log_ticks(axes.xaxis, x, chart.tick)
    elif values:
        step = -(-len(values) // 8)
        axes.xaxis.set_major_locator(FixedLocator(values[::-1][::step]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: chart.tick(value)))


def _error_axis(axes: Axes, chart: Chart) -> None:
    """Errors in percent; a log axis where they span more than a factor of two and none is zero."""
    means = chart.points["mean"].dropna()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    if chart.is_log_y:
        axes.set_yscale("log", nonpositive="clip")
        _log_ticks(axes.yaxis, means, lambda value: f"{100 * value:.3g}%")
    elif len(means):
        axes.yaxis.set_major_locator(MaxNLocator(6))
    else:
        axes.text(0.5, 0.5, "no result yet", transform=axes.transAxes, ha="center", color=GREY, fontsize=12)
        axes.set_yticks([])


def _legend(axes: Axes) -> None:
    place = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False, "handlelength": 1.8, "handletextpad": 0.4}
    handles, names = axes.get_legend_handles_labels()
    rest = f"and {len(names) - LEGEND_NAMES} more" if len(names) > LEGEND_NAMES else ""
    legend = axes.legend(handles[:LEGEND_NAMES], names[:LEGEND_NAMES], fontsize=9.5, title=rest, **place)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _log_ticks(axis: Any, values: pd.Series, tick: Tick) -> None:
    """Ticks at powers of ten, with as many between as the span of the values leaves room for."""
    span = values.max() / values.min() if len(values) else 1.0
    between = (1.0,) if span > 1e3 else (1.0, 2.0, 5.0) if span > 6 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=between))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def _label_ends(axes: Axes, points: pd.DataFrame, x: str) -> None:
    """The name of each variant beside the right end of its line, moved apart where they would overlap."""
    ends = []
    for (family, variant), style in styles(points).items():
        part = points[(points["family"] == family) & (points["variant"] == variant)].dropna(subset=["mean"])
        if len(part):
            ends.append((float(part[x].iloc[-1]), float(part["mean"].iloc[-1]), variant, style["color"]))
    axes.autoscale_view()
    to_fraction = axes.transData + axes.transAxes.inverted()
    heights = [float(to_fraction.transform(end[:2])[1]) for end in ends]
    words: dict[str, Any] = {
        "textcoords": "axes fraction",
        "va": "center",
        "fontsize": 10.5,
        "fontweight": "bold",
        "parse_math": False,
    }
    for (end_x, end_y, variant, colour), height in zip(ends, _apart(heights), strict=True):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(variant, (end_x, end_y), (1.035, height), color=colour, annotation_clip=False, arrowprops=line, **words)


def _apart(heights: list[float], gap: float = 0.058) -> list[float]:
    """Heights moved as little as a few passes need so that neighbours are `gap` apart, within the panel if they fit."""
    order = np.argsort(heights, kind="stable")
    placed = np.asarray(heights, dtype=float)[order]
    gap = min(gap, 1.04 / max(1, len(placed) - 1))
    for _ in range(200):
        for low in range(len(placed) - 1):
            short = max(0.0, gap - (placed[low + 1] - placed[low]))
            placed[low : low + 2] += (-short / 2, short / 2)
        placed = np.clip(placed, -0.02, 1.02)
    return [float(value) for value in placed[np.argsort(order)]]
