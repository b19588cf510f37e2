"""Colours, lines and markers of model families and variants, shared by all figures."""

from __future__ import annotations

import colorsys
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex, to_rgb

COLOURS = {
    "vit": "#0072B2",
    "resnet": "#D55E00",
    "hybrid": "#009E73",
    "cnn": "#CC79A7",
}  # Okabe and Ito 2008: safe for colour-blind readers
OTHER_COLOUR = "#6E4B8B"
LINES: dict[str, Any] = {"vit": "-", "resnet": (0, (5, 1.5)), "hybrid": (0, (1, 1)), "cnn": "-."}
MARKERS = "os^DvPX*<>hp"
INK, GREY, GRID = "#222222", "#5A5A5A", "#E3E3E3"


def variant_styles(points: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """A line style for each (family, variant): the family's hue and dashes, darker for more parameters, one marker each."""
    styles = {}
    shared = {"markersize": 6, "linewidth": 1.8, "markeredgecolor": "white", "markeredgewidth": 0.6}
    for name, part in points.groupby("family", sort=False):
        family, variants = str(name), list(dict.fromkeys(part["variant"]))
        for number, variant in enumerate(variants):
            styles[family, variant] = {
                "color": colour(family, (number + 1) / len(variants)),
                "linestyle": LINES.get(family, "-."),
                "marker": MARKERS[number % len(MARKERS)],
                **shared,
            }
    return styles


def colour(family: str, depth: float = 1.0) -> str:
    """The family's colour as #rrggbb, from light (depth near 0) to dark (1)."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(COLOURS.get(family, OTHER_COLOUR)))
    return str(to_hex(colorsys.hls_to_rgb(hue, 0.64 + depth * (0.8 * lightness - 0.64), saturation)))
