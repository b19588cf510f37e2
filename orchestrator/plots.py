"""The figures: error against data, compute and fine-tuning. One colour a family, a shade and a marker a variant; mean
and range over seeds; a run without a result is a gap.

Each function takes the results frame and returns a Figure of one panel; nothing is shown, saved or changed globally.
"""

from __future__ import annotations

import colorsys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from orchestrator import standing
from orchestrator.standing import count, family_name

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

Tick = Callable[[float], str]


def error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Figure:
    """Downstream error against pretraining images, after that many fine-tune epochs (default: the most)."""
    rows = standing.longest(standing.finetuned(frame, task, epochs))
    return _against_size(rows, _finetune_words(rows), "error on the task, top-1")


def fewshot_error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, shots: int | None = None) -> Figure:
    """Few-shot linear-probe error against pretraining images (default: the most shots)."""
    rows = standing.longest(standing.probed(frame, task, shots))
    what = f"{rows['task'].iloc[0]}, linear probe on {rows['shots'].iloc[0]} images a class" if len(rows) else ""
    return _against_size(rows, what, "few-shot error, top-1")


def upstream_error_vs_dataset_size(frame: pd.DataFrame) -> Figure:
    """Error on the pretraining task itself against pretraining images."""
    rows = standing.longest(standing.pretrained(frame))
    what = f"{rows['dataset'].iloc[0]}, right after pretraining" if len(rows) else ""
    return _against_size(rows, what, "upstream error, top-1")


def error_vs_finetune_epochs(frame: pd.DataFrame, task: str | None = None, dataset_size: int | None = None) -> Figure:
    """Downstream error against fine-tune epochs, from the pretraining on that many images (default: the most)."""
    names = standing.tasks(frame, "finetune")
    rows = frame[(frame["phase"] == "finetune") & (frame["task"] == (task or (names[0] if names else "")))]
    images = dataset_size or rows["dataset_size"].max()
    rows = standing.longest(rows[rows["dataset_size"] == images])
    points = standing.curve(rows, "finetune_epochs")
    title = standing.verdict(points, "finetune_epochs", lambda x: f"after {x:g} epoch{'s' if x != 1 else ''}")
    what = f"{rows['task'].iloc[0]}, pretrained on {count(images)} images" if len(rows) else ""
    figure, axes = _canvas(title, _subtitle(rows, what), points)
    axes.set(xlabel="fine-tune epochs", ylabel="error on the task, top-1")
    return _lines(figure, axes, points, "finetune_epochs", lambda x: f"{x:g}")


def error_vs_pretrain_flops(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Figure:
    """Downstream error against pretraining compute: all sizes and lengths, with each family's frontier as a band."""
    rows = standing.finetuned(frame, task, epochs)
    points = standing.flops_curve(rows)
    unit, name = standing.flops_unit(float(points["pretrain_flops"].max())) if len(points) else (1.0, "")
    subtitle = _subtitle(rows, _finetune_words(rows), "band: the best that any run reached with at most that compute")
    figure, axes = _canvas(standing.flops_verdict(points), subtitle, points)
    axes.set(xlabel=f"pretraining compute ({name}FLOPs)", ylabel="error on the task, top-1", xscale="log")
    scaled = points.assign(pretrain_flops=points["pretrain_flops"] / unit)
    is_line = rows["length"].nunique() == 1 and not scaled.duplicated(["family", "variant", "pretrain_flops"]).any()
    _draw(axes, scaled, "pretrain_flops", join=is_line)
    for family, part in scaled.dropna(subset=["mean"]).sort_values("pretrain_flops").groupby("family"):
        best = part[part["mean"] <= part["mean"].cummin()]
        axes.plot(best["pretrain_flops"], best["mean"], color=_colour(str(family)), linewidth=9, alpha=0.16, zorder=1)
    _log_ticks(axes.xaxis, scaled["pretrain_flops"], lambda x: f"{x:g}")
    _error_axis(axes, points)
    if len(points):
        place = {
            "loc": "center left",
            "bbox_to_anchor": (1.01, 0.5),
            "frameon": False,
            "handlelength": 1.8,
            "handletextpad": 0.4,
        }
        for text in axes.legend(fontsize=9.5, **place).get_texts():
            text.set_parse_math(False)
    return figure


# --- words and frame ------------------------------------------------------------------------------------------


def _finetune_words(rows: pd.DataFrame) -> str:
    if not len(rows):
        return ""
    epochs = rows["finetune_epochs"].iloc[0]
    return f"{rows['task'].iloc[0]}, fine-tuned for {epochs:g} epoch{'s' if epochs != 1 else ''}"


def _subtitle(rows: pd.DataFrame, what: str, *more: str) -> str:
    """What is drawn, over how many seeds, and how many runs are gaps."""
    gaps, seeds = len(rows) - len(standing.finished(rows)), rows["seed"].nunique()
    parts = [what, f"mean and range of {seeds} seeds" if seeds > 1 else "one seed", *more] if len(rows) else []
    return "; ".join([*parts, f"{gaps} of {len(rows)} runs without a result (gaps)"] if gaps else parts)


def _canvas(title: str, subtitle: str, points: pd.DataFrame) -> tuple[Figure, Axes]:
    """An empty panel with room for labels on its right, its words above, and a key to the families' colours."""
    figure = Figure(figsize=SIZE_INCHES, facecolor="white")
    titles, subtitles = textwrap.wrap(title, 54), textwrap.wrap(subtitle, 82)
    top = 0.985 - 0.05 * len(titles)
    bottom = top - 0.037 * max(1, len(subtitles)) - 0.012
    plain: dict[str, Any] = {"va": "top", "parse_math": False}  # names come from files: a dollar is no formula
    figure.text(0.012, 0.985, "\n".join(titles), fontsize=13, fontweight="bold", color=INK, **plain)
    figure.text(0.012, top - 0.008, "\n".join(subtitles), fontsize=9.5, color=GREY, **plain)
    axes = figure.add_axes((0.125, 0.12, 0.69, bottom - 0.065 - 0.12))
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10.5, colors=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    families = list(dict.fromkeys(points["family"]))
    keys = [Line2D([], [], color=_colour(name), linestyle=LINES.get(name, "-."), linewidth=2.4) for name in families]
    place = {"loc": "upper left", "bbox_to_anchor": (0.113, bottom), "frameon": False, "borderpad": 0, "handlelength": 2.2}
    figure.legend(keys, [family_name(name) for name in families], ncols=max(1, len(families)), fontsize=10.5, **place)
    return figure, axes


# --- curves ---------------------------------------------------------------------------------------------------


def _against_size(rows: pd.DataFrame, what: str, y_label: str) -> Figure:
    points = standing.curve(rows, "dataset_size")
    title = standing.verdict(points, "dataset_size", lambda x: f"at {count(x)} images")
    figure, axes = _canvas(title, _subtitle(rows, what), points)
    axes.set(xlabel="pretraining images (unique)", ylabel=y_label)
    return _lines(figure, axes, points, "dataset_size", count)


def _lines(figure: Figure, axes: Axes, points: pd.DataFrame, x: str, tick: Tick) -> Figure:
    """Curves over a few planned values of x, labelled at their right ends."""
    _draw(axes, points, x)
    values = sorted(float(value) for value in points[x].unique())
    if values:
        axes.set_xscale("log" if values[0] > 0 and values[-1] > 3 * values[0] else "linear")
        step = -(-len(values) // 8)
        axes.xaxis.set_major_locator(FixedLocator(values[::-1][::step]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
    _error_axis(axes, points)
    _label_ends(axes, points, x)
    return figure


def _draw(axes: Axes, points: pd.DataFrame, x: str, join: bool = True) -> None:
    """One line a variant: mean over seeds, a bar from least to greatest where there are several."""
    for (family, variant), style in _styles(points).items():
        part = points[(points["family"] == family) & (points["variant"] == variant)]
        axes.plot(part[x], part["mean"], label=variant, **{**style, **({} if join else {"linestyle": ""})})
        several = part[part["seeds"] > 1]
        axes.vlines(several[x], several["low"], several["high"], color=style["color"], linewidth=1.4, alpha=0.7)


def _styles(points: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """A line style for each variant: hue and dashes of its family, darker for more parameters, a marker of its own."""
    styles = {}
    shared = {"markersize": 6, "linewidth": 1.8, "markeredgecolor": "white", "markeredgewidth": 0.6}
    for name, part in points.groupby("family", sort=False):
        family, variants = str(name), list(dict.fromkeys(part["variant"]))
        for number, variant in enumerate(variants):
            look = {"linestyle": LINES.get(family, "-."), "marker": MARKERS[number % len(MARKERS)]}
            styles[family, variant] = {"color": _colour(family, (number + 1) / len(variants)), **look, **shared}
    return styles


def _colour(family: str, depth: float = 1.0) -> tuple[float, float, float]:
    """The family's colour, from light (depth near 0) to dark (1)."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(COLOURS.get(family, OTHER_COLOUR)))
    return colorsys.hls_to_rgb(hue, 0.64 + depth * (0.8 * lightness - 0.64), saturation)


# --- axes and labels ------------------------------------------------------------------------------------------


def _error_axis(axes: Axes, points: pd.DataFrame) -> None:
    """Errors in percent; a log axis where they span more than a factor of two and none is zero."""
    means = points["mean"].dropna()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    if len(means) and means.min() > 0 and means.max() > 2 * means.min():
        axes.set_yscale("log", nonpositive="clip")
        _log_ticks(axes.yaxis, means, lambda value: f"{100 * value:.3g}%")
    elif len(means):
        axes.yaxis.set_major_locator(MaxNLocator(6))
    else:
        axes.text(0.5, 0.5, "no result yet", transform=axes.transAxes, ha="center", color=GREY, fontsize=12)
        axes.set_yticks([])


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
    for (family, variant), style in _styles(points).items():
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
