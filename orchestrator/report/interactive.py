"""Charts as plotly figures for the page, with the colours and lines of `plots` and a hover text for each point.

Returns plain data for JSON. Text from files is escaped here, because plotly interprets some HTML tags in its texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from orchestrator.report.chart import Chart, Target, Trend, frontier
from orchestrator.report.style import GREY, GRID, INK, colour, variant_styles
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
    """The chart as {data, layout} of plotly. The traces of a family share a legend group."""
    traces = [trace for trend in chart.trends for trace in _trend_traces(trend, chart.unit)]
    if chart.has_frontier:
        traces += _frontier_traces(chart)
    traces += [_variant_trace(chart, *key, style) for key, style in variant_styles(chart.points).items()]
    traces += [trace for target in chart.targets for trace in _target_traces(target, chart.unit)]
    return {"data": traces, "layout": _layout(chart)}


def _variant_trace(chart: Chart, family: str, variant: str, style: Json) -> Json:
    """The line of a variant. A run without a result is a gap; held-out points are hollow."""
    part = chart.points[(chart.points["family"] == family) & (chart.points["variant"] == variant)]
    fill = ["#ffffff" if is_held_out else style["color"] for is_held_out in part["held_out"]]
    edge = [style["color"] if is_held_out else "#ffffff" for is_held_out in part["held_out"]]
    return {
        "type": "scatter",
        "mode": "lines+markers" if chart.is_joined else "markers",
        "name": escaped(variant),
        **_legend_group(family),
        "x": numbers(part[chart.x] / chart.unit),
        "y": numbers(part["mean"]),
        "line": {"color": style["color"], "width": 2, "dash": DASHES.get(family, "dashdot")},
        "marker": {"color": fill, "size": 8, "symbol": SYMBOLS[style["marker"]], "line": {"color": edge, "width": 1.2}},
        "error_y": _seed_range(part, style["color"]),
        "hovertext": [escaped(text) for text in part["hover"]],
        "hoverinfo": "text",
        "connectgaps": False,
    }


def _seed_range(part: pd.DataFrame, line_colour: str) -> Json:
    """A bar from the minimum to the maximum over seeds."""
    if not (part["seeds"] > 1).any():
        return {"visible": False}
    up, down = numbers(part["high"] - part["mean"]), numbers(part["mean"] - part["low"])
    bar = {"color": line_colour, "width": 0, "thickness": 1.4}
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, **bar}


def _trend_traces(trend: Trend, unit: float) -> Iterator[Json]:
    """A law: its band and its line, dashed beyond the data; dotted: the law fitted without the held-out points."""
    family_colour, is_inside = colour(trend.family), trend.x <= trend.measured_to * (1 + 1e-9)
    x, shared = trend.x / unit, {"type": "scatter", "mode": "lines", **_legend_group(trend.family)}
    yield {
        **shared,
        "name": "band",
        "x": numbers([*x, *x[::-1]]),
        "y": numbers([*trend.low, *trend.high[::-1]]),
        "fill": "toself",
        "fillcolor": _transparent(family_colour, 0.14),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    texts = [
        escaped(f"{trend.label}\n{percent(y)} [{percent(low)}, {percent(high)}]")
        for y, low, high in zip(trend.y, trend.low, trend.high, strict=True)
    ]
    for name, mask, dash in (("law", is_inside, "solid"), ("forecast", ~is_inside, "dash")):
        if mask.any():
            yield {
                **shared,
                "name": name,
                "x": numbers(x[mask]),
                "y": numbers(trend.y[mask]),
                "line": {"color": family_colour, "width": 1.6, "dash": dash},
                "hovertext": [text for text, is_shown in zip(texts, mask, strict=True) if is_shown],
                "hoverinfo": "text",
                "showlegend": name == "law",  # the chart's subtitle explains dashed and dotted lines
            }
    if len(trend.before_x):
        yield {
            **shared,
            "name": "fitted without held-out points",
            "x": numbers(trend.before_x / unit),
            "y": numbers(trend.before_y),
            "line": {"color": family_colour, "width": 1.6, "dash": "dot"},
            "hoverinfo": "name",
            "showlegend": False,
        }


def _frontier_traces(chart: Chart) -> Iterator[Json]:
    scaled = chart.points.assign(**{chart.x: chart.points[chart.x] / chart.unit})
    for family, best in frontier(scaled, chart.x):
        yield {
            "type": "scatter",
            "mode": "lines",
            "name": "frontier",
            **_legend_group(family),
            "x": numbers(best[chart.x]),
            "y": numbers(best["mean"]),
            "line": {"color": _transparent(colour(family), 0.18), "width": 12},
            "hoverinfo": "skip",
            "showlegend": False,
        }


def _target_traces(target: Target, unit: float) -> Iterator[Json]:
    shared = {"type": "scatter", "mode": "markers", "legendgroup": "targets", "legendgrouptitle": {"text": "targets"}}
    predicted = f"{target.label}\npredicted {percent(target.error)} [{percent(target.low)}, {percent(target.high)}]"
    bar = {"array": [target.high - target.error], "arrayminus": [target.error - target.low]}
    yield {
        **shared,
        "name": escaped(target.label),
        "x": [target.x / unit],
        "y": [target.error],
        "marker": {"color": INK, "symbol": "diamond", "size": 9},
        "error_y": {"type": "data", "symmetric": False, **bar, "color": INK, "thickness": 1.2},
        "hovertext": [escaped(predicted)],
        "hoverinfo": "text",
    }
    if math.isfinite(target.measured):
        yield {
            **shared,
            "name": "measured",
            "x": [target.x / unit],
            "y": [target.measured],
            "marker": {"color": INK, "symbol": "x-thin-open", "size": 10, "line": {"width": 2}},
            "hovertext": [escaped(f"{target.label}\nmeasured {percent(target.measured)}")],
            "hoverinfo": "text",
        }


def _legend_group(family: str) -> Json:
    return {"legendgroup": escaped(family), "legendgrouptitle": {"text": escaped(family_name(family))}}


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
    """Errors in percent, on a log axis if they span more than a factor of two."""
    low, high = chart.y_range or (0.0, 0.0)
    if chart.is_log_y:
        limits = {"range": numbers([math.log10(low), math.log10(high)])} if high else {}
        return {"type": "log", **_log_ticks(chart.points["mean"].dropna(), 100.0, "%"), **limits}
    return {"type": "linear", "tickformat": ".3~p", **({"range": numbers([low, high])} if high else {})}


def _log_ticks(values: pd.Series, factor: float, unit: str) -> Json:
    """Ticks at 1, 2 and 5 times powers of ten; only at powers for a wide range, at more multiples for a narrow one."""
    if not len(values.dropna()):
        return {}
    low, high = float(values.min()), float(values.max())
    steps = (1.0,) if high > 1e3 * low else (1.0, 2.0, 5.0) if high > 6 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{factor * tick:,.6g}{unit}" for tick in ticks]}


def escaped(text: str) -> str:
    """Text that plotly shows literally; line breaks are preserved."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", "<br>")


def numbers(values: Iterable[float]) -> list[float | None]:
    """Numbers with seven digits, which is enough for a screen; None for nan, which plotly shows as a gap."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values]


def _transparent(hex_colour: str, opacity: float) -> str:
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"
