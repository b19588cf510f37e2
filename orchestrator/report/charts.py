"""What each figure shows, as data: error against data, compute and fine-tuning, with the laws that were fitted.

Reads the results frame and findings; returns Charts, which `plots` draws for paper and `interactive` for the page. Nothing
here knows of either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import pandas as pd

from orchestrator.laws.points import Array
from orchestrator.results import summary
from orchestrator.results.summary import count, family_name, flops_text

Tick = Callable[[float], str]
TASK_ERROR = "error on the task, top-1"


@dataclass(frozen=True, kw_only=True)
class Trend:
    """A law in a chart: its line y (n,) over x (n,) with a band, beyond `measured_to` a forecast.

    `before_x`, `before_y`: the same form fitted without the points that are held out, over what was held out; empty where
    too few points are left.
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
    """A forecast: its interval, and what was measured (nan before that)."""

    label: str
    x: float
    error: float
    low: float
    high: float
    measured: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One panel. `points` has a row for each planned point: family, variant, params, mean, low, high (fractions; missing
    without a result), seeds, `held_out` and `hover` (lines of text) and the column `x`.

    `has_ticks`: x takes few planned values, each of which is marked; else it is a log axis in units of `unit`.
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
        """With laws: errors that hold points, lines and targets. A band may leave it: it knows no bounds."""
        if not self.trends:
            return None
        own = [*self.points["mean"].dropna(), *(value for trend in self.trends for value in trend.y)]
        own += [value for target in self.targets for value in (target.low, target.high)]
        return min(own) / 1.4, min(max(own) * 1.25, 1.0) if max(own) <= 1 else max(own)


# --- the charts of a frame ------------------------------------------------------------------------------------


def of_frame(frame: pd.DataFrame) -> Iterator[Chart]:
    """Every chart for which runs were planned and along whose axis more than one value was."""
    return (chart for chart in _all_of_frame(frame) if chart.points[chart.x].nunique() > 1)


def _all_of_frame(frame: pd.DataFrame) -> Iterator[Chart]:
    """Imported weights, on images that nobody counted, have a chart of their own."""
    is_imported = frame["dataset_size"].isna()
    yield from _of_sizes(frame[~is_imported])
    for task in summary.tasks(frame[is_imported], "finetune"):
        yield error_vs_finetune_epochs(frame[is_imported], task)


def _of_sizes(frame: pd.DataFrame) -> Iterator[Chart]:
    for task in summary.tasks(frame, "finetune"):
        yield error_vs_dataset_size(frame, task)
        yield error_vs_pretrain_flops(frame, task)
        sizes = frame.loc[(frame["phase"] == "finetune") & (frame["task"] == task), "dataset_size"]
        for size in dict.fromkeys((sizes.max(), sizes.min())):
            yield error_vs_finetune_epochs(frame, task, int(size))
    for task in summary.tasks(frame, "probe"):
        yield fewshot_error_vs_dataset_size(frame, task)
    if len(summary.pretrained(frame)):
        yield upstream_error_vs_dataset_size(frame)


def error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Chart:
    """Downstream error against pretraining images, after that many fine-tune epochs (default: the most)."""
    rows = summary.longest(summary.finetuned(frame, task, epochs))
    return _against_size(rows, _name("finetune-data", rows), _finetune_words(rows), TASK_ERROR)


def fewshot_error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, shots: int | None = None) -> Chart:
    """Few-shot linear-probe error against pretraining images (default: the most shots)."""
    rows = summary.longest(summary.probed(frame, task, shots))
    what = f"{rows['task'].iloc[0]}, linear probe on {rows['shots'].iloc[0]} images a class" if len(rows) else ""
    return _against_size(rows, _name("probe-data", rows), what, "few-shot error, top-1")


def upstream_error_vs_dataset_size(frame: pd.DataFrame) -> Chart:
    """Error on the pretraining task itself against pretraining images."""
    rows = summary.longest(summary.pretrained(frame))
    what = f"{rows['dataset'].iloc[0]}, right after pretraining" if len(rows) else ""
    return _against_size(rows, "upstream-data", what, "upstream error, top-1")


def error_vs_finetune_epochs(frame: pd.DataFrame, task: str | None = None, dataset_size: int | None = None) -> Chart:
    """Downstream error against fine-tune epochs, from the pretraining on that many images (default: the most)."""
    names = summary.tasks(frame, "finetune")
    rows = frame[(frame["phase"] == "finetune") & (frame["task"] == (task or (names[0] if names else "")))]
    images = dataset_size or rows["dataset_size"].max()
    is_imported = bool(pd.isna(images))  # then nobody knows on how many
    rows = rows if is_imported else summary.longest(rows[rows["dataset_size"] == images])
    points = _points(rows, "finetune_epochs")
    origin = "imported weights" if is_imported else f"pretrained on {count(images)} images"
    what = f"{rows['task'].iloc[0]}, {origin}" if len(rows) else ""
    size = "imported" if is_imported else count(images)
    return Chart(
        name=_name(f"finetune-epochs-{size}" if len(rows) else "finetune-epochs", rows),
        title=summary.headline(points, "finetune_epochs", lambda x: f"after {x:g} epoch{'s' if x != 1 else ''}"),
        subtitle=_subtitle(rows, what),
        points=points,
        x="finetune_epochs",
        x_label="fine-tune epochs",
        y_label=TASK_ERROR,
        tick=lambda x: f"{x:g}",
    )


def error_vs_pretrain_flops(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Chart:
    """Downstream error against pretraining compute: all sizes and lengths, with each family's frontier as a band."""
    rows = summary.finetuned(frame, task, epochs)
    points = _points(rows, "pretrain_flops", "dataset_size", "length")
    unit, name = summary.flops_unit(float(points["pretrain_flops"].max())) if len(points) else (1.0, "")
    has_one_length = rows["length"].nunique() == 1
    return Chart(
        name=_name("finetune-compute", rows),
        title=summary.flops_headline(points),
        subtitle=_subtitle(rows, _finetune_words(rows), "band: the best that any run reached with at most that compute"),
        points=points,
        x="pretrain_flops",
        x_label=f"pretraining compute ({name}FLOPs)",
        y_label=TASK_ERROR,
        tick=lambda x: f"{x:g}",
        has_ticks=False,
        unit=unit,
        is_joined=has_one_length and not points.duplicated(["family", "variant", "pretrain_flops"]).any(),
        has_frontier=True,
    )


def overlaid(charts: Iterable[Chart], names: Iterable[str], title: str) -> Chart:
    """Charts of one kind from several studies in one: each variant's name is followed by its study's."""
    parts = list(zip(charts, names, strict=True))
    points = [chart.points.assign(variant=chart.points["variant"] + f" ({name})") for chart, name in parts]
    whole = pd.concat(points, ignore_index=True).sort_values(["family", "params", "variant"], kind="stable", ignore_index=True)
    return replace(parts[0][0], title=title, subtitle="; ".join(f"{n}: {c.subtitle}" for c, n in parts), points=whole)


# --- parts ----------------------------------------------------------------------------------------------------


def _against_size(rows: pd.DataFrame, name: str, what: str, y_label: str) -> Chart:
    points = _points(rows, "dataset_size")
    return Chart(
        name=name,
        title=summary.headline(points, "dataset_size", lambda x: f"at {count(x)} images"),
        subtitle=_subtitle(rows, what),
        points=points,
        x="dataset_size",
        x_label="pretraining images (unique)",
        y_label=y_label,
        tick=count,
    )


def _points(rows: pd.DataFrame, x: str, *apart: str) -> pd.DataFrame:
    """The curve's points, each with what is said of it when it is pointed at."""
    points = summary.curve(rows, x, *apart)
    groups = dict(list(rows.groupby(["family", "variant", x, *apart])))
    hover = [_hover(groups[tuple(key)]) for key in points[["family", "variant", x, *apart]].itertuples(index=False, name=None)]
    return points.assign(hover=hover, held_out=False)


def _hover(rows: pd.DataFrame) -> str:
    """The facts of one point, a line each: run id, model, N, D, C, top-1. Several seeds share a point."""
    first, done = rows.iloc[0], summary.finished(rows)
    ids = list(rows["run_id"])
    top1 = " to ".join(dict.fromkeys(f"{100 * v:.2f}" for v in (done["top1"].min(), done["top1"].max()))) if len(done) else ""
    is_imported = pd.isna(first["dataset_size"])
    data = "" if is_imported else f"D = {first['dataset_size']:,} images, {first['epochs']:.3g} epochs"
    cost = "" if is_imported else f"C = {flops_text(first['pretrain_flops'])} of pretraining"
    lines = [
        f"{first['variant']} ({family_name(first['family'])})",
        ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else ""),
        f"N = {first['params']:,} parameters",
        *(["imported weights: D and C are not known"] if is_imported else [data, cost]),
        f"top-1 = {top1}%" if top1 else first["status"].lower(),
    ]
    return "\n".join(lines)


def _name(kind: str, rows: pd.DataFrame) -> str:
    """A name that a file may have, also where the task's has other characters."""
    return file_name(f"{kind}-{rows['task'].iloc[0]}") if len(rows) else kind


def file_name(text: str) -> str:
    """The text with nothing in it but what any file system takes; at most 80 characters."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:80] or "figure"


def _finetune_words(rows: pd.DataFrame) -> str:
    if not len(rows):
        return ""
    epochs = rows["finetune_epochs"].iloc[0]
    return f"{rows['task'].iloc[0]}, fine-tuned for {epochs:g} epoch{'s' if epochs != 1 else ''}"


def _subtitle(rows: pd.DataFrame, what: str, *more: str) -> str:
    """What is drawn, over how many seeds, and how many runs are gaps."""
    gaps, seeds = len(rows) - len(summary.finished(rows)), rows["seed"].nunique()
    parts = [what, f"mean and range of {seeds} seeds" if seeds > 1 else "one seed", *more] if len(rows) else []
    return "; ".join([*parts, f"{gaps} of {len(rows)} runs without a result (gaps)"] if gaps else parts)


def frontier(points: pd.DataFrame, x: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each family's points with less error than all cheaper ones, by growing x."""
    for family, part in points.dropna(subset=["mean"]).sort_values(x).groupby("family"):
        yield str(family), part[part["mean"] <= part["mean"].cummin()]
