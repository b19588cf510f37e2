"""Where each family stands: which rows belong together, their means over seeds, who leads, and numbers in human words.

Pure functions of the results frame, shared by the figures and the words beside them. A run without a result is
a gap here (a missing mean), never a value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

FAMILY_NAMES = {"vit": "ViT", "resnet": "ResNet", "hybrid": "Hybrid", "cnn": "CNN"}
LEVEL = 0.005  # two errors closer than half a percentage point are called level
FLOPS_UNITS = {1e18: "exa", 1e15: "peta", 1e12: "tera", 1e9: "giga", 1e6: "mega"}


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A family's best variant at one place of an axis. Errors are fractions: mean, least and greatest over seeds."""

    family: str
    variant: str
    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{percent(self.mean)} ({self.variant})"


# --- numbers in words -----------------------------------------------------------------------------------------


def percent(fraction: float) -> str:
    """`4.7%`, `0.31%`, `83%`: two digits that say something."""
    value = 100 * fraction
    return f"{value:.0f}%" if value >= 10 else f"{value:.1f}%" if value >= 1 else f"{value:.2g}%"


def count(number: float) -> str:
    """`512`, `4k`, `1.3M`, `303M`."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            value = number / size
            near_whole = abs(value - round(value)) < 0.03 * value
            return f"{value:.0f}{suffix}" if near_whole or value >= 10 else f"{value:.1f}{suffix}"
    return f"{number:g}"


def flops_unit(flops: float) -> tuple[float, str]:
    """The largest unit that keeps the value at 1 or above: (1e12, "tera")."""
    return next(((size, name) for size, name in FLOPS_UNITS.items() if flops >= size), (1e6, "mega"))


def flops_words(flops: float) -> str:
    """`1.9 teraFLOPs`."""
    size, name = flops_unit(flops)
    return f"{flops / size:.2g} {name}FLOPs" if flops < 100 * size else f"{flops / size:.0f} {name}FLOPs"


def family_name(family: str) -> str:
    """The family as people write it."""
    return FAMILY_NAMES.get(family, family)


# --- rows that belong together --------------------------------------------------------------------------------


def tasks(frame: pd.DataFrame, phase: str) -> list[str]:
    """Downstream tasks of this phase, in the order of the frame."""
    return list(dict.fromkeys(frame.loc[frame["phase"] == phase, "task"]))


def longest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each variant and dataset size only the longest pretraining, whether it has a result or not."""
    flops = rows["pretrain_flops"].fillna(0.0)  # imported rows may not say it
    most = flops.groupby([rows["family"], rows["variant"], rows["dataset_size"]]).transform("max")
    return rows[flops == most]


def amount(rows: pd.DataFrame) -> str:
    """How long these fine-tunes were, in words."""
    epochs = rows["finetune_epochs"].max()
    return "fine-tuned" if pd.isna(epochs) else f"{epochs:g} fine-tune epochs"


def pretrained(frame: pd.DataFrame) -> pd.DataFrame:
    """All pretrainings with labels: the others have a loss and no error."""
    return frame[(frame["phase"] == "pretrain") & frame["objective"].isin(("supervised", ""))]


def finetuned(frame: pd.DataFrame, task: str | None = None, epochs: float | None = None) -> pd.DataFrame:
    """Fine-tunes on a task (default: the first) of that many epochs (default: the most)."""
    return _children(frame, "finetune", task, "finetune_epochs", epochs)


def probed(frame: pd.DataFrame, task: str | None = None, shots: float | None = None) -> pd.DataFrame:
    """Few-shot probes on a task (default: the first) with that many images a class (default: the most)."""
    return _children(frame, "probe", task, "shots", shots)


def _children(frame: pd.DataFrame, phase: str, task: str | None, axis: str, value: float | None) -> pd.DataFrame:
    names = tasks(frame, phase)
    rows = frame[(frame["phase"] == phase) & (frame["task"] == (task or (names[0] if names else "")))]
    if value is None and rows[axis].isna().all():  # imported rows may not say it
        return rows
    return rows[rows[axis] == (rows[axis].max() if value is None else value)]


def finished(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a result that is a number."""
    return rows[(rows["status"] == "DONE") & np.isfinite(rows["error"])]


def curve(rows: pd.DataFrame, x: str, *apart: str) -> pd.DataFrame:
    """Per variant and value of `x`: mean, low and high error over seeds, number of seeds; small variants first.

    Rows that differ in one of the columns `apart` are points of their own. Planned points without a result stay in,
    with a missing mean, so that a line drawn through them breaks.
    """
    keys = ["family", "variant", x, *apart]
    planned = rows.groupby(keys, as_index=False).agg(params=("params", "max"))
    done = finished(rows).groupby(keys, as_index=False)
    values = done.agg(mean=("error", "mean"), low=("error", "min"), high=("error", "max"), seeds=("seed", "nunique"))
    return planned.merge(values, how="left", on=keys).sort_values(["family", "params", "variant", x], ignore_index=True)


def flops_curve(rows: pd.DataFrame) -> pd.DataFrame:
    """The curve over pretraining FLOPs: equal FLOPs on another number of images are another point."""
    return curve(rows, "pretrain_flops", "dataset_size", "length")


# --- who leads ------------------------------------------------------------------------------------------------


def best(points: pd.DataFrame) -> list[Standing]:
    """Each family's best point of a curve, the best family first; families without a result are left out."""
    found = points.dropna(subset=["mean"]).sort_values(["mean", "variant"], kind="stable").drop_duplicates("family")
    names = ["family", "variant", "mean", "low", "high"]
    return [
        Standing(**{name: row[name] for name in names}, seeds=int(row["seeds"]))  # a dict of Any: rows carry no types
        for row in found.to_dict("records")
    ]


def leaders(standings: list[Standing]) -> list[str]:
    """Names of the families in front: one, or several that cannot be told apart (seed ranges overlap, or too close)."""
    if not standings:
        return []
    first = standings[0]
    overlap = [s.seeds > 1 and first.seeds > 1 and s.low <= first.high for s in standings]
    return [
        family_name(s.family)
        for s, overlaps in zip(standings, overlap, strict=True)
        if s is first or overlaps or s.mean - first.mean < LEVEL
    ]


def common_flops(points: pd.DataFrame) -> tuple[float, float] | None:
    """The range of pretraining FLOPs in which every family has a result, or None where there is none or one family."""
    done = points.dropna(subset=["mean"])
    if done["family"].nunique() < max(2, points["family"].nunique()):
        return None
    ranges = done.groupby("family")["pretrain_flops"].agg(["min", "max"])
    low, high = float(ranges["min"].max()), float(ranges["max"].min())
    return (low, high) if low <= high else None


def within(points: pd.DataFrame, flops: float) -> pd.DataFrame:
    """The points that cost at most this much pretraining."""
    return points[points["pretrain_flops"] <= flops * (1 + 1e-9)]


def said(names: list[str], where: str) -> str:
    """`ViT leads at 1k images`, `ViT and ResNet are level at 1k images`."""
    if not names:
        return f"no result {where}"
    return f"{names[0]} leads {where}" if len(names) == 1 else f"{' and '.join(names)} are level {where}"


def verdict(points: pd.DataFrame, x: str, where: Callable[[float], str]) -> str:
    """Who leads at both ends of an axis, or how far the only family's error falls. `where(2.0)` reads `after 2 epochs`."""
    values = sorted(points[x].unique())
    if points["mean"].isna().all():
        return "No result yet"
    ends = [best(points[points[x] == value]) for value in (values[0], values[-1])]
    if points["family"].nunique() == 1:
        return _alone(points, ends, [where(values[0]), where(values[-1])])
    first, last = (leaders(end) if len(end) > 1 else [] for end in ends)
    if len(values) == 1:
        return said(last, where(values[0]))
    if first == last and first:
        return said(first, f"{where(values[0])} and {where(values[-1])}")
    return f"{_compared(ends[0], where(values[0]))}, {_compared(ends[1], where(values[-1]))}"


def flops_verdict(points: pd.DataFrame) -> str:
    """Who leads among runs of at most the same pretraining FLOPs, at both ends of the range that all families share."""
    if points["mean"].isna().all():
        return "No result yet"
    if points["family"].nunique() == 1:
        return _alone(points, [], [])
    common = common_flops(points)
    if common is None:
        return "The families share no range of compute: no comparison"
    low, high = (leaders(best(within(points, flops))) for flops in common)
    first, last = (flops_words(flops) for flops in common)
    if low == high:
        return said(low, f"at equal compute, from {first} to {last}")
    return f"{said(low, f'at {first}')}, {said(high, f'at {last}')}"


def _compared(standings: list[Standing], where: str) -> str:
    if len(standings) == 1:
        return f"only {family_name(standings[0].family)} has a result {where}"
    return said(leaders(standings), where)


def _alone(points: pd.DataFrame, ends: list[list[Standing]], where: list[str]) -> str:
    name = family_name(points["family"].iloc[0])
    if ends and all(ends) and where[0] != where[1]:
        return f"{name}: best error {percent(ends[0][0].mean)} {where[0]}, {percent(ends[1][0].mean)} {where[1]}"
    return f"{name}: best error {percent(points['mean'].min())}"
