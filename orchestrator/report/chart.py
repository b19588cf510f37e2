"""A chart as data: one panel with its points, laws and targets. `plots` draws it with matplotlib, `interactive` with plotly.

Must not know where the points come from, nor how they are drawn.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd

from orchestrator.laws.points import Array
from orchestrator.results.summary import family_name, flops_text

Tick = Callable[[float], str]
TASK_ERROR = "top-1 error on the task"
FEWSHOT_ERROR = "few-shot top-1 error"
UPSTREAM_ERROR = "upstream top-1 error"
MOST_RUN_IDS = 3  # in a hover text


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A law in a chart: its line y (n,) over x (n,) with a band. The part beyond `measured_to` is a forecast.

    `before_x`, `before_y`: the same form fitted without the held-out points, over the range of the held-out points. Empty if
    too few points are left for a fit.
    """

    family: str
    label: str
    x: Array
    y: Array
    low: Array
    high: Array
    measured_to: float
    before_x: Array
    before_y: Array


@dataclass(frozen=True, kw_only=True)
class Target:
    """A forecast: its interval, and the measured error (nan until it is measured)."""

    label: str
    x: float
    error: float
    low: float
    high: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One panel. `points` has a row for each planned point: family, variant, params, mean, low, high (fractions; missing
    without a result), seeds, `held_out`, `hover` (lines of text) and the column named by `x`.

    `has_ticks`: x takes few planned values and each is marked; otherwise x is a log axis in units of `unit`.
    """

    name: str
    title: str
    subtitle: str
    points: pd.DataFrame
    x: str
    x_label: str
    y_label: str
    tick: Tick
    has_ticks: bool = True
    unit: float = 1.0
    is_joined: bool = True
    has_frontier: bool = False
    trends: tuple[Trend, ...] = ()
    targets: tuple[Target, ...] = ()

    @property
    def families(self) -> list[str]:
        return list(dict.fromkeys([*self.points["family"], *(trend.family for trend in self.trends)]))

    @property
    def is_log_x(self) -> bool:
        values = self.points[self.x]
        return not self.has_ticks or (len(values) > 0 and values.min() > 0 and values.max() > 3 * values.min())

    @property
    def is_log_y(self) -> bool:
        """Errors span more than a factor of two and none is zero."""
        means = self.points["mean"].dropna()
        return len(means) > 0 and means.min() > 0 and means.max() > 2 * means.min()

    @property
    def y_range(self) -> tuple[float, float] | None:
        """The range of errors that shows all points, lines and targets of a chart with laws. Bands may leave the range."""
        if not self.trends:
            return None
        errors = [*self.points["mean"].dropna(), *(value for trend in self.trends for value in trend.y)]
        errors += [value for target in self.targets for value in (target.low, target.high)]
        return min(errors) / 1.4, min(max(errors) * 1.25, 1.0) if max(errors) <= 1 else max(errors)


def frontier(points: pd.DataFrame, x: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The points of each family whose error is lower than that of all cheaper points, in the order of x."""
    for family, part in points.dropna(subset=["mean"]).sort_values(x).groupby("family"):
        yield str(family), part[part["mean"] <= part["mean"].cummin()]


def file_name(text: str) -> str:
    """The text with only those characters that any file system allows; at most 80 characters."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "figure"


def hover_text(*, family: str, variant: str, run_ids: list[str], params: int, pretraining: list[str], result: str) -> str:
    """The text of a point under the mouse, one fact per line. Several seeds share a point."""
    more = f" and {len(run_ids) - MOST_RUN_IDS} more" if len(run_ids) > MOST_RUN_IDS else ""
    lines = [
        f"{variant} ({family_name(family)})",
        ", ".join(run_ids[:MOST_RUN_IDS]) + more,
        f"N = {params:,} parameters",
        *pretraining,
        result,
    ]
    return "\n".join(lines)


def pretraining_lines(images: int, epochs: float, flops: float, dataset: str = "") -> list[str]:
    """Data and compute of a pretraining as lines of a hover text. Imported rows may lack epochs and FLOPs."""
    data = f"D = {images:,} images" + (f" of {dataset}" if dataset else "")
    return [
        data if math.isnan(epochs) else f"{data}, {epochs:.3g} epochs",
        "C is not known" if math.isnan(flops) else f"C = {flops_text(flops)} of pretraining",
    ]
