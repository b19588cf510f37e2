"""Summaries of result rows: selections of rows, means over seeds, the best model of each family, and formatted numbers.

Pure functions of the results frame, used for the figures and for their text. A run without a result is a gap (a missing
mean), never a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

FAMILY_NAMES = {"vit": "ViT", "resnet": "ResNet", "hybrid": "Hybrid", "cnn": "CNN"}
TIE_MARGIN = 0.005  # families whose errors differ by less than half a percentage point are tied
SAME_BUDGET = (
    0.01  # relative difference of equal budgets (FLOPs, epochs): a run of whole steps misses its budget by up to a step
)
FLOPS_UNITS = {1e18: "exa", 1e15: "peta", 1e12: "tera", 1e9: "giga", 1e6: "mega"}


@dataclass(frozen=True, kw_only=True)
class FamilyBest:
    """The best variant of a family at one point of an axis. Errors are fractions: mean, minimum and maximum over seeds."""

    family: str
    variant: str
    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{percent(self.mean)} ({self.variant})"


def percent(fraction: float) -> str:
    """A fraction in percent with two significant digits: `4.7%`, `0.31%`, `83%`."""
    value = 100 * fraction
    return f"{value:.0f}%" if value >= 10 else f"{value:.1f}%" if value >= 1 else f"{value:.2g}%"


def count(number: float) -> str:
    """A count with a suffix: `512`, `4k`, `1.3M`, `303M`."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            value = number / size
            near_whole = abs(value - round(value)) < 0.03 * value
            return f"{value:.0f}{suffix}" if near_whole or value >= 10 else f"{value:.1f}{suffix}"
    return f"{number:g}"


def shots_text(shots: float) -> str:
    """`5 shots`; `zero-shot` for a result without any image of the task."""
    return f"{shots:g} shots" if shots else "zero-shot"


def probe_text(shots: float) -> str:
    """How a probe was measured: `linear probe on 5 images per class`, `zero-shot`."""
    return f"linear probe on {shots:g} images per class" if shots else "zero-shot"


def flops_unit(flops: float) -> tuple[float, str]:
    """The largest unit that keeps the value at 1 or above: (1e12, "tera")."""
    return next(((size, name) for size, name in FLOPS_UNITS.items() if flops >= size), (1e6, "mega"))


def flops_text(flops: float) -> str:
    """FLOPs in the largest unit that fits: `1.9 teraFLOPs`; `0 FLOPs`."""
    if flops == 0:
        return "0 FLOPs"
    size, name = flops_unit(flops)
    return f"{flops / size:.2g} {name}FLOPs" if flops < 100 * size else f"{flops / size:.0f} {name}FLOPs"


def family_name(family: str) -> str:
    """The family's name for people: `ViT` for `vit`."""
    return FAMILY_NAMES.get(family, family)


def tasks(frame: pd.DataFrame, phase: str) -> list[str]:
    """The downstream tasks of a phase, in the order of the frame."""
    return list(dict.fromkeys(frame.loc[frame["phase"] == phase, "task"]))


def is_budget(values: pd.Series, budget: float | pd.Series) -> np.ndarray:
    """Whether each number of FLOPs, epochs or shots equals the budget, apart from the rounding to whole steps."""
    return np.isclose(values.astype("float64"), budget, rtol=SAME_BUDGET, atol=0)


def longest(rows: pd.DataFrame) -> pd.DataFrame:
    """The longest pretraining of each variant and dataset size, with or without a result."""
    flops = rows["pretrain_flops"].fillna(0.0)  # may be missing in imported rows
    most = flops.groupby([rows["family"], rows["variant"], rows["dataset_size"]]).transform("max")
    return rows[is_budget(flops, most)]


def finetune_length(rows: pd.DataFrame) -> str:
    """The fine-tuning length as text: `7 fine-tune epochs`, or `fine-tuned` if the rows do not give it."""
    epochs = rows["finetune_epochs"].max()
    return "fine-tuned" if pd.isna(epochs) else f"{epochs:g} fine-tune epochs"


def pretrained(frame: pd.DataFrame) -> pd.DataFrame:
    """All pretrainings with labels. Pretrainings without labels have a loss but no error."""
    return frame[(frame["phase"] == "pretrain") & frame["objective"].isin(("supervised", ""))]


def finetuned(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> pd.DataFrame:
    """Fine-tunes on a task (default: the first) with that many epochs (default: the largest number)."""
    return _children(frame, "finetune", task, "finetune_epochs", epochs)


def probed(frame: pd.DataFrame, task: str | None = None, shots: float | None = None) -> pd.DataFrame:
    """Few-shot probes on a task (default: the first) with that many images per class (default: the largest number)."""
    return _children(frame, "probe", task, "shots", shots)


def _children(frame: pd.DataFrame, phase: str, task: str | None, axis: str, value: float | None) -> pd.DataFrame:
    names = tasks(frame, phase)
    rows = frame[(frame["phase"] == phase) & (frame["task"] == (task or (names[0] if names else "")))]
    if value is None and rows[axis].isna().all():  # may be missing in imported rows
        return rows
    return rows[is_budget(rows[axis], float(rows[axis].max()) if value is None else value)]


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that are done and have a finite error."""
    return rows[(rows["status"] == "DONE") & np.isfinite(rows["error"])]


def curve(rows: pd.DataFrame, x: str, *split_by: str) -> pd.DataFrame:
    """A point for each variant and value of `x`: mean, low and high error over seeds, number of seeds; small variants first.

    Rows that differ in one of the columns `split_by` are separate points. Planned points without a result are included with
    a missing mean, so that a line through them is interrupted.
    """
    keys = ["family", "variant", x, *split_by]
    planned = rows.groupby(keys, as_index=False).agg(params=("params", "max"))
    done = finished(rows).groupby(keys, as_index=False)
    values = done.agg(mean=("error", "mean"), low=("error", "min"), high=("error", "max"), seeds=("seed", "nunique"))
    return planned.merge(values, how="left", on=keys).sort_values(["family", "params", "variant", x], ignore_index=True)


def flops_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """The curve over pretraining FLOPs. Equal FLOPs on different numbers of images are separate points."""
    return curve(rows, "pretrain_flops", "dataset_size", "length")


def best_by_family(points: pd.DataFrame) -> list[FamilyBest]:
    """The best point of each family in a curve, the best family first. Families without a result are omitted."""
    rows = points.dropna(subset=["mean"]).sort_values(["mean", "variant"], kind="stable").drop_duplicates("family")
    names = ["family", "variant", "mean", "low", "high"]
    return [
        FamilyBest(**{name: row[name] for name in names}, seeds=int(row["seeds"]))  # a dict of Any: rows have no types
        for row in rows.to_dict("records")
    ]


def leaders(ranking: list[FamilyBest]) -> list[str]:
    """Names of the leading families: one, or several that are tied (overlapping seed ranges, or errors within TIE_MARGIN)."""
    if not ranking:
        return []
    first = ranking[0]
    overlap = [best.seeds > 1 and first.seeds > 1 and best.low <= first.high for best in ranking]
    return [
        family_name(best.family)
        for best, overlaps in zip(ranking, overlap, strict=True)
        if best is first or overlaps or best.mean - first.mean < TIE_MARGIN * (1 - 1e-9)
    ]


def common_flops(points: pd.DataFrame) -> tuple[float, float] | None:
    """The range of pretraining FLOPs in which every family has results; None without such a range or with one family."""
    done = points.dropna(subset=["mean"])
    if done["family"].nunique() < max(2, points["family"].nunique()):
        return None
    ranges = done.groupby("family")["pretrain_flops"].agg(["min", "max"])
    low, high = float(ranges["min"].max()), float(ranges["max"].min())
    return (low, high) if low <= high * (1 + SAME_BUDGET) else None


def up_to_flops(points: pd.DataFrame, flops: float) -> pd.DataFrame:
    """The points with at most this many pretraining FLOPs."""
    return points[points["pretrain_flops"] <= flops * (1 + SAME_BUDGET)]


def and_list(names: list[str]) -> str:
    """`ViT`, `ViT and ResNet`, `ViT, ResNet and Hybrid`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def leaders_text(names: list[str], where: str) -> str:
    """`ViT leads at 1k images`, `ViT and ResNet are tied at 1k images`."""
    if not names:
        return f"no result {where}"
    return f"{names[0]} leads {where}" if len(names) == 1 else f"{and_list(names)} are tied {where}"


def headline(points: pd.DataFrame, x: str, where: Callable[[float], str]) -> str:
    """The leading families at both ends of an axis, or the errors of the only family. `where(2.0)` is e.g. `after 2 epochs`."""
    values = sorted(points[x].unique())
    if points["mean"].isna().all():
        return "No result yet"
    ends = [best_by_family(points[is_budget(points[x], float(value))]) for value in (values[0], values[-1])]
    if points["family"].nunique() == 1:
        return _single_family(points, ends, [where(values[0]), where(values[-1])])
    first, last = (leaders(end) if len(end) > 1 else [] for end in ends)
    if is_budget(points[x], float(values[-1])).all():
        return _capitalised(leaders_text(last, where(values[0])))
    if first == last and first:
        return leaders_text(first, f"{where(values[0])} and {where(values[-1])}")
    return _capitalised(f"{_end_text(ends[0], where(values[0]))}; {_end_text(ends[1], where(values[-1]))}")


def flops_headline(points: pd.DataFrame) -> str:
    """The leading families among runs with the same maximum of pretraining FLOPs, at both ends of the range that all share."""
    if points["mean"].isna().all():
        return "No result yet"
    if points["family"].nunique() == 1:
        return _single_family(points, [], [])
    common = common_flops(points)
    if common is None:
        return "No comparison: the families have no common range of compute"
    low, high = (leaders(best_by_family(up_to_flops(points, flops))) for flops in common)
    first, last = (flops_text(flops) for flops in common)
    if low == high:
        return leaders_text(low, f"at equal compute, from {first} to {last}")
    return f"{leaders_text(low, f'at {first}')}; {leaders_text(high, f'at {last}')}"


def _end_text(ranking: list[FamilyBest], where: str) -> str:
    if len(ranking) == 1:
        return f"only {family_name(ranking[0].family)} has a result {where}"
    return leaders_text(leaders(ranking), where)


def _single_family(points: pd.DataFrame, ends: list[list[FamilyBest]], where: list[str]) -> str:
    name = family_name(points["family"].iloc[0])
    if ends and all(ends) and where[0] != where[1]:
        return f"{name}: best error {percent(ends[0][0].mean)} {where[0]}, {percent(ends[1][0].mean)} {where[1]}"
    return f"{name}: best error {percent(points['mean'].min())}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
