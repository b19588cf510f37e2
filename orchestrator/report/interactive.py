"""Charts as plotly figures for the page: the same colours and lines as on paper, and what each point is when pointed at.

Returns plain data for JSON. Whatever came from files is escaped here, because plotly reads a little HTML in its texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from orchestrator.report import charts, plots
from orchestrator.report.charts import Chart, Target, Trend
from orchestrator.report.plots import GREY, GRID, INK
from orchestrator.results.summary import family_name, percent

Json = dict[str, Any]

DASHES = {"vit": "solid", "resnet": "dash", "hybrid": "dot", "cnn": "dashdot"}
SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "*": "star",
    "<": "triangle-left",
    ">": "triangle-right",
    "h": "hexagon",
    "p": "pentagon",
}
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'


def figure(chart: Chart) -> Json:
    """The chart as {data, layout} of plotly. Traces of one family share a legend group, so they can be hidden together."""
    traces = [trace for trend in chart.trends for trace in _trend(trend, chart.unit)]
    if chart.has_frontier:
        traces += _frontiers(chart)
    traces += [_variant(chart, *key, style) for key, style in plots.styles(chart.points).items()]
    traces += [trace for target in chart.targets for trace in _target(target, chart.unit)]
    return {"data": traces, "layout": _layout(chart)}


# --- traces ---------------------------------------------------------------------------------------------------


def _variant(chart: Chart, family: str, variant: str, style: Json) -> Json:
    """One line a variant; a run without a result is a gap."""
    part = chart.points[(chart.points["family"] == family) & (chart.points["variant"] == variant)]
    fill = ["#ffffff" if held else style["color"] for held in part["held_out"]]
    edge = [style["color"] if held else "#ffffff" for held in part["held_out"]]
    return {
        "type": "scatter",
        "mode": "lines+markers" if chart.is_joined else "markers",
        "name": escaped(variant),
        **_group(family),
        "x": numbers(part[chart.x] / chart.unit),
        "y": numbers(part["mean"]),
        "line": {"color": style["color"], "width": 2, "dash": DASHES.get(family, "dashdot")},
        "marker": {"color": fill, "size": 8, "symbol": SYMBOLS[style["marker"]], "line": {"color": edge, "width": 1.2}},
        "error_y": _seeds(part, style["color"]),
        "hovertext": [escaped(text) for text in part["hover"]],
        "hoverinfo": "text",
        "connectgaps": False,
    }


def _seeds(part: pd.DataFrame, colour: str) -> Json:
    """From the least to the greatest over seeds."""
    if not (part["seeds"] > 1).any():
        return {"visible": False}
    up, down = numbers(part["high"] - part["mean"]), numbers(part["mean"] - part["low"])
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "color": colour, "width": 0, "thickness": 1.4}


def _trend(trend: Trend, unit: float) -> Iterator[Json]:
    """A law: its band, its line, dashed beyond the data, and dotted what it would have said before the held-out points."""
    hue, inside = plots.colour(trend.family), trend.x <= trend.measured_to * (1 + 1e-9)
    x, shared = trend.x / unit, {"type": "scatter", "mode": "lines", **_group(trend.family)}
    edge = numbers([*trend.low, *trend.high[::-1]])
    band = {"fill": "toself", "fillcolor": _clear(hue, 0.14), "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    yield {**shared, **band, "name": "band", "x": numbers([*x, *x[::-1]]), "y": edge}
    said = [
        escaped(f"{trend.label}\n{percent(y)} [{percent(low)}, {percent(high)}]")
        for y, low, high in zip(trend.y, trend.low, trend.high, strict=True)
    ]
    for name, mask, dash in (("law", inside, "solid"), ("forecast", ~inside, "dash")):
        if mask.any():
            texts = [text for text, is_here in zip(said, mask, strict=True) if is_here]
            look: Json = {"line": {"color": hue, "width": 1.6, "dash": dash}, "hovertext": texts, "hoverinfo": "text"}
            look["showlegend"] = name == "law"  # what is dashed and dotted stands above the chart
            yield {**shared, **look, "name": name, "x": numbers(x[mask]), "y": numbers(trend.y[mask])}
    if len(trend.before_x):
        look = {"line": {"color": hue, "width": 1.6, "dash": "dot"}, "hoverinfo": "name", "showlegend": False}
        yield {
            **shared,
            **look,
            "name": "fitted without held-out",
            "x": numbers(trend.before_x / unit),
            "y": numbers(trend.before_y),
        }


def _frontiers(chart: Chart) -> Iterator[Json]:
    scaled = chart.points.assign(**{chart.x: chart.points[chart.x] / chart.unit})
    for family, best in charts.frontier(scaled, chart.x):
        yield {
            "type": "scatter",
            "mode": "lines",
            "name": "frontier",
            **_group(family),
            "x": numbers(best[chart.x]),
            "y": numbers(best["mean"]),
            "line": {"color": _clear(plots.colour(family), 0.18), "width": 12},
            "hoverinfo": "skip",
            "showlegend": False,
        }


def _target(target: Target, unit: float) -> Iterator[Json]:
    said = f"{target.label}\npredicted {percent(target.error)} [{percent(target.low)}, {percent(target.high)}]"
    look = {"type": "scatter", "mode": "markers", "legendgroup": "targets", "legendgrouptitle": {"text": "targets"}}
    bar = {"array": [target.high - target.error], "arrayminus": [target.error - target.low]}
    yield {
        **look,
        "name": escaped(target.label),
        "x": [target.x / unit],
        "y": [target.error],
        "marker": {"color": INK, "symbol": "diamond", "size": 9},
        "error_y": {"type": "data", "symmetric": False, **bar, "color": INK, "thickness": 1.2},
        "hovertext": [escaped(said)],
        "hoverinfo": "text",
    }
    if math.isfinite(target.measured):
        mark = {"color": INK, "symbol": "x-thin-open", "size": 10, "line": {"width": 2}}
        texts = [escaped(f"{target.label}\nmeasured {percent(target.measured)}")]
        measured = {"x": [target.x / unit], "y": [target.measured], "marker": mark, "hovertext": texts}
        yield {**look, **measured, "name": "measured", "hoverinfo": "text"}


def _group(family: str) -> Json:
    return {"legendgroup": escaped(family), "legendgrouptitle": {"text": escaped(family_name(family))}}


# --- layout ---------------------------------------------------------------------------------------------------


def _layout(chart: Chart) -> Json:
    line = {"gridcolor": GRID, "zeroline": False, "linecolor": GREY, "ticks": "outside", "tickcolor": GRID, "automargin": True}
    return {
        "font": {"family": FONT, "size": 13, "color": INK},
        "margin": {"l": 56, "r": 12, "t": 12, "b": 48},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff", "font": {"color": INK, "size": 12}},
        "xaxis": {**line, "title": {"text": escaped(chart.x_label)}, **_x_axis(chart)},
        "yaxis": {**line, "title": {"text": escaped(chart.y_label)}, **_y_axis(chart)},
        "legend": {"font": {"size": 12}, "groupclick": "toggleitem", "tracegroupgap": 8},
    }


def _x_axis(chart: Chart) -> Json:
    kind = {"type": "log" if chart.is_log_x else "linear", "showgrid": False}
    if not chart.has_ticks:
        return {**kind, **_log_ticks(chart.points[chart.x] / chart.unit, 1.0, "")}
    values = sorted(float(value) for value in chart.points[chart.x].unique())
    return {**kind, "tickvals": values, "ticktext": [escaped(chart.tick(value)) for value in values]}


def _y_axis(chart: Chart) -> Json:
    """Errors in percent, logarithmic where they span a factor of two."""
    low, high = chart.y_range or (0.0, 0.0)
    if chart.is_log_y:
        ends = {"range": numbers([math.log10(low), math.log10(high)])} if high else {}
        return {"type": "log", **_log_ticks(chart.points["mean"].dropna(), 100.0, "%"), **ends}
    return {"type": "linear", "tickformat": ".3~p", **({"range": numbers([low, high])} if high else {})}


def _log_ticks(values: pd.Series, factor: float, unit: str) -> Json:
    """Marks at 1, 2 and 5 times powers of ten, only at powers where they would crowd, closer where there would be none."""
    if not len(values.dropna()):
        return {}
    low, high = float(values.min()), float(values.max())
    steps = (1.0,) if high > 1e3 * low else (1.0, 2.0, 5.0) if high > 6 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    marks = [step * 10.0**exponent for exponent in exponents for step in steps]
    return {"tickvals": marks, "ticktext": [f"{factor * mark:.3g}{unit}" for mark in marks]}


# --- plain data -----------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    """Text that plotly shows as it is written; lines stay lines."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>")


def numbers(values: Iterable[float]) -> list[float | None]:
    """Seven digits, which no screen tells from more; None where there is no number, which plotly shows as a gap."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values]


def _clear(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
