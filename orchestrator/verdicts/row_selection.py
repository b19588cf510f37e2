"""Which rows make a curve over compute: one rule for all families of a view, so that a comparison compares like with like.

1. The best recipe of each model, data size and length (recipe_choice.py; done before, for every claim).
2. The data sizes that all families have: from the largest of the families' smallest sizes to the smallest of their largest.
3. If these rows have several data sizes, or several lengths of a model: the frontier. A row is left out if its error is above
   the lower convex envelope of its family (log error over log compute) by more than three times its noise. The envelope
   depends less than the staircase of best rows on how many models a family has. Otherwise all of these rows.
A step is omitted, for all families, if it would leave a family with too few rows for a curve. Chosen by simulation
(bench/law_simulator.py). Pure functions of points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.laws.points import FACTOR_TOLERANCE, MIN_POINTS, SHORT_FACTOR
from orchestrator.laws.tolerance import count_distinct
from orchestrator.results.summary import SAME_BUDGET, count
from orchestrator.verdicts.answers import CurvePoint, LeftOut
from orchestrator.verdicts.recipe_choice import setting

NOISE_STEPS = 3.0  # standard deviations of a row's log error above the envelope
Curves = Mapping[str, tuple[CurvePoint, ...]]


@dataclass(frozen=True, kw_only=True)
class RowSelection:
    """The points of each family over compute, the rule that chose them, as text, and what was left out."""

    curves: Curves
    rule: str
    left_out: tuple[LeftOut, ...]


def select_rows(points: Sequence[CurvePoint]) -> RowSelection:
    """The points over compute of every family, by the rule above."""
    families = dict.fromkeys(p.family for p in points)
    curves: Curves = {name: tuple(p for p in points if p.family == name and p.pretrain_flops > 0) for name in families}
    able = [name for name in families if makes_curve(curves[name])]
    steps, left_out = [], list[LeftOut]()
    for step in (_common_sizes, _frontiers):
        chosen, text, reason = step(curves, able)
        if not text or not all(makes_curve(chosen[name]) for name in able):
            continue
        removed = [p for name in families for p in curves[name] if p not in chosen[name]]
        left_out += [
            LeftOut(family=p.family, variant=p.variant, dataset_size=p.dataset_size, runs=p.runs, reason=reason(p))
            for p in removed
        ]
        curves = chosen
        steps.append(text)
    return RowSelection(curves=curves, rule=", ".join(steps) or "all rows of each family", left_out=tuple(left_out))


def makes_curve(points: Sequence[CurvePoint]) -> bool:
    """Whether the points have enough distinct amounts of compute, over a decade or more, for a law."""
    flops = [p.pretrain_flops for p in points]
    if count_distinct(flops) < MIN_POINTS:
        return False
    return max(flops) / min(flops) >= SHORT_FACTOR * (1 - FACTOR_TOLERANCE)


Step = tuple[Curves, str, Callable[[CurvePoint], str]]


def _common_sizes(curves: Curves, able: Sequence[str]) -> Step:
    """The rows on data sizes within the range that all families have."""
    ranges = [(min(p.dataset_size for p in curves[name]), max(p.dataset_size for p in curves[name])) for name in able]
    least = max((low for low, _ in ranges), default=0) * (1 - SAME_BUDGET)
    most = min((high for _, high in ranges), default=0) * (1 + SAME_BUDGET)
    chosen = {name: tuple(p for p in rows if least <= p.dataset_size <= most) for name, rows in curves.items()}
    if len(able) < 2 or all(len(chosen[name]) == len(rows) for name, rows in curves.items()):
        return curves, "", str
    sizes = (
        [count(end) for end in (min(kept), max(kept))] if (kept := [p.dataset_size for n in able for p in chosen[n]]) else []
    )
    text = f"rows on {' to '.join(dict.fromkeys(sizes))} images, which all families have" if sizes else ""
    return chosen, text, lambda p: "the other families have no such data size"


def _frontiers(curves: Curves, able: Sequence[str]) -> Step:
    """The frontier of every family, if some family has several data sizes, or several lengths of a model."""
    if not any(_is_grid(curves[name]) for name in able):
        return curves, "", str
    chosen = {name: frontier(rows) if name in able else rows for name, rows in curves.items()}
    return chosen, "frontier of each family", lambda p: "above the frontier of its family"


def _is_grid(points: Sequence[CurvePoint]) -> bool:
    lengths: dict[str, set[Hashable]] = {}
    for p in points:
        lengths.setdefault(p.variant, set()).add((p.dataset_size, str(p.epochs)))
    return len({p.dataset_size for p in points}) > 1 or any(len(values) > 1 for values in lengths.values())


def frontier(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    """The points of settings that are on the lower convex envelope of the family, or above it by no more than noise.

    Settings are compared by the mean of their seeds, so that no lucky seed is selected.
    """
    groups: dict[Hashable, list[CurvePoint]] = {}
    for p in points:
        groups.setdefault(setting(p), []).append(p)
    flops = np.array([np.mean([math.log(p.pretrain_flops) for p in group]) for group in groups.values()])
    error = np.array([np.mean([math.log(p.error) + p.optimism for p in group]) for group in groups.values()])
    noise = np.array([max(p.spread for p in group) / math.sqrt(len(group)) for group in groups.values()])
    is_near = error <= envelope(flops, error) + NOISE_STEPS * noise + 1e-12
    kept = {key for key, near in zip(groups, is_near, strict=True) if near}
    return tuple(p for p in points if setting(p) in kept)


def envelope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The lower convex envelope of points at each x, up to its minimum; constant beyond."""
    corners: list[int] = []
    for i in np.lexsort((y, x)):
        if corners and y[i] >= y[corners[-1]]:
            continue  # not below a cheaper point
        while corners and (len(corners) > 1 and _slope(x, y, corners[-2], corners[-1]) >= _slope(x, y, corners[-2], i)):
            corners.pop()
        if corners and x[i] - x[corners[-1]] <= SAME_BUDGET:
            corners.pop()  # the same compute and a lower error
        corners.append(int(i))
    return np.asarray(np.interp(x, x[corners], y[corners]))


def _slope(x: np.ndarray, y: np.ndarray, one: int, two: int) -> float:
    return float((y[two] - y[one]) / max(x[two] - x[one], 1e-12))
