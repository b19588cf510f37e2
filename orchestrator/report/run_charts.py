"""The charts of a results frame: error against pretraining images, pretraining compute and fine-tune epochs.

Reads the frame and returns Charts. Charts with laws are made by `law_charts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import pandas as pd

from orchestrator.report.chart import (
    FEWSHOT_ERROR,
    TASK_ERROR,
    UPSTREAM_ERROR,
    Chart,
    file_name,
    hover_text,
    pretraining_lines,
)
from orchestrator.results import summary
from orchestrator.results.summary import count


def charts_of_frame(frame: pd.DataFrame) -> Iterator[Chart]:
    """All charts whose runs were planned with more than one value on the x axis."""
    return (chart for chart in _all_charts(frame) if chart.points[chart.x].nunique() > 1)


def _all_charts(frame: pd.DataFrame) -> Iterator[Chart]:
    """Imported weights have separate charts: their number of pretraining images is not known."""
    is_imported = frame["dataset_size"].isna()
    yield from _charts_of_pretrained(frame[~is_imported])
    for task in summary.tasks(frame[is_imported], "finetune"):
        yield error_vs_finetune_epochs(frame[is_imported], task)


def _charts_of_pretrained(frame: pd.DataFrame) -> Iterator[Chart]:
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
    """Downstream error against pretraining images, after `epochs` fine-tune epochs (default: the largest number)."""
    rows = summary.longest(summary.finetuned(frame, task, epochs))
    return _size_chart(rows, _name("finetune-data", rows), _finetune_text(rows), TASK_ERROR)


def fewshot_error_vs_dataset_size(frame: pd.DataFrame, task: str | None = None, shots: int | None = None) -> Chart:
    """Few-shot linear-probe error against pretraining images (default: the largest number of shots)."""
    rows = summary.longest(summary.probed(frame, task, shots))
    what = f"{rows['task'].iloc[0]}, {summary.probe_text(rows['shots'].iloc[0])}" if len(rows) else ""
    return _size_chart(rows, _name("probe-data", rows), what, FEWSHOT_ERROR)


def upstream_error_vs_dataset_size(frame: pd.DataFrame) -> Chart:
    """Error on the pretraining task itself against pretraining images."""
    rows = summary.longest(summary.pretrained(frame))
    what = f"{rows['dataset'].iloc[0]}, after pretraining" if len(rows) else ""
    return _size_chart(rows, "upstream-data", what, UPSTREAM_ERROR)


def error_vs_finetune_epochs(frame: pd.DataFrame, task: str | None = None, dataset_size: int | None = None) -> Chart:
    """Downstream error against fine-tune epochs, after pretraining on `dataset_size` images (default: the largest number)."""
    names = summary.tasks(frame, "finetune")
    rows = frame[(frame["phase"] == "finetune") & (frame["task"] == (task or (names[0] if names else "")))]
    images = dataset_size or rows["dataset_size"].max()
    is_imported = bool(pd.isna(images))
    rows = rows if is_imported else summary.longest(rows[rows["dataset_size"] == images])
    points = _points(rows, "finetune_epochs")
    origin = "imported weights" if is_imported else f"pretrained on {count(images)} images"
    what = f"{rows['task'].iloc[0]}, {origin}" if len(rows) else ""
    size = "imported" if is_imported else count(images)
    return Chart(
        name=_name(f"finetune-epochs-{size}" if len(rows) else "finetune-epochs", rows),
        title=summary.headline(points, "finetune_epochs", lambda x: f"after {_epochs_text(x)}"),
        subtitle=_subtitle(rows, what),
        points=points,
        x="finetune_epochs",
        x_label="fine-tune epochs",
        y_label=TASK_ERROR,
        tick=lambda x: f"{x:g}",
    )


def error_vs_pretrain_flops(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> Chart:
    """Downstream error against pretraining compute: all sizes and lengths, with the frontier of each family as a band."""
    rows = summary.finetuned(frame, task, epochs)
    points = _points(rows, "pretrain_flops", "dataset_size", "length")
    unit, name = summary.flops_unit(float(points["pretrain_flops"].max())) if len(points) else (1.0, "")
    has_one_length = rows["length"].nunique() == 1
    return Chart(
        name=_name("finetune-compute", rows),
        title=summary.flops_headline(points),
        subtitle=_subtitle(rows, _finetune_text(rows), "band: lowest error of any run with at most that compute"),
        points=points,
        x="pretrain_flops",
        x_label=f"pretraining compute ({name}FLOPs)",
        y_label=TASK_ERROR,
        tick=lambda x: f"{x:,g}",
        has_ticks=False,
        unit=unit,
        is_joined=has_one_length and not points.duplicated(["family", "variant", "pretrain_flops"]).any(),
        has_frontier=True,
    )


def overlay(charts: Iterable[Chart], names: Iterable[str], title: str) -> Chart:
    """Charts of the same kind from several studies as one chart. The study's name is appended to each variant's name."""
    parts = list(zip(charts, names, strict=True))
    points = [chart.points.assign(variant=chart.points["variant"] + f" ({name})") for chart, name in parts]
    merged = pd.concat(points, ignore_index=True)
    merged = merged.sort_values(["family", "params", "variant"], kind="stable", ignore_index=True)
    return replace(parts[0][0], title=title, subtitle="; ".join(f"{n}: {c.subtitle}" for c, n in parts), points=merged)


def _size_chart(rows: pd.DataFrame, name: str, what: str, y_label: str) -> Chart:
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


def _points(rows: pd.DataFrame, x: str, *split_by: str) -> pd.DataFrame:
    """The points of the curve with their hover texts."""
    points = summary.curve(rows, x, *split_by)
    keys = ["family", "variant", x, *split_by]
    groups = dict(list(rows.groupby(keys)))
    hover = [_hover(groups[tuple(key)]) for key in points[keys].itertuples(index=False, name=None)]
    return points.assign(hover=hover, held_out=False)


def _hover(rows: pd.DataFrame) -> str:
    first, done = rows.iloc[0], summary.finished(rows)
    top1 = " to ".join(dict.fromkeys(f"{100 * v:.2f}" for v in (done["top1"].min(), done["top1"].max()))) if len(done) else ""
    is_imported = pd.isna(first["dataset_size"])
    return hover_text(
        family=first["family"],
        variant=first["variant"],
        run_ids=list(rows["run_id"]),
        params=first["params"],
        pretraining=["imported weights: D and C are not known"]
        if is_imported
        else pretraining_lines(first["dataset_size"], first["epochs"], first["pretrain_flops"]),
        result=f"top-1 = {top1}%" if top1 else first["status"].lower(),
    )


def _name(kind: str, rows: pd.DataFrame) -> str:
    """The chart's name, which is also a valid file name."""
    return file_name(f"{kind}-{rows['task'].iloc[0]}") if len(rows) else kind


def _finetune_text(rows: pd.DataFrame) -> str:
    if not len(rows):
        return ""
    epochs = rows["finetune_epochs"].iloc[0]  # may be missing in imported rows
    return f"{rows['task'].iloc[0]}, fine-tuned" + ("" if pd.isna(epochs) else f" for {_epochs_text(epochs)}")


def _epochs_text(epochs: float) -> str:
    return f"{epochs:g} epoch{'s' if epochs != 1 else ''}"


def _subtitle(rows: pd.DataFrame, what: str, *more: str) -> str:
    """What the chart shows, the number of seeds, and the number of gaps."""
    gaps, seeds = len(rows) - len(summary.finished(rows)), rows["seed"].nunique()
    parts = [what, f"mean and range of {seeds} seeds" if seeds > 1 else "one seed", *more] if len(rows) else []
    return "; ".join([*parts, f"gaps: {gaps} of {len(rows)} runs without a result"] if gaps else parts)
