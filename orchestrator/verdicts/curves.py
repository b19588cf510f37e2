"""Curves of a view: the points of a family over compute and of a variant over data, with their laws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from orchestrator import laws
from orchestrator.laws import LawError
from orchestrator.results.summary import SAME_BUDGET
from orchestrator.verdicts.answers import Axis, Curve, CurvePoint
from orchestrator.verdicts.evidence import Evidence

INSIDE = 0.0  # growth of weights of a law that is used within its data: every row counts by its noise


def compute_points(evidence: Evidence, family: str) -> tuple[CurvePoint, ...]:
    """The points of a family over compute, by the rule that holds for all families of the view (row_selection.py)."""
    return evidence.over_compute.curves.get(family, ())


def data_points(evidence: Evidence, family: str, variant: str) -> tuple[CurvePoint, ...]:
    """The points of a variant over data: the longest pretraining at each size."""
    return longest(evidence.of(family, variant))


def longest(points: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    """The longest pretraining of each variant at each size, with all its seeds."""

    def flops(p: CurvePoint) -> float:
        return p.pretrain_flops if p.pretrain_flops > 0 else 0.0  # nan: unknown

    most: dict[tuple[str, int], float] = {}
    for p in points:
        most[p.variant, p.dataset_size] = max(most.get((p.variant, p.dataset_size), 0.0), flops(p))
    return tuple(p for p in points if flops(p) >= most[p.variant, p.dataset_size] * (1 - SAME_BUDGET))


def curve(view: str, points: Iterable[CurvePoint], axis: Axis, form: str, *, variant: str = "") -> Curve | None:
    """The points with their law of this form, or the reason why there is none; None without points."""
    members = tuple(points)
    if not members:
        return None
    law, refused = None, ""
    try:
        law = fit(members, axis, form, growth=INSIDE)
    except LawError as error:
        refused = error.message + (f" (a law needs {error.allowed})" if error.allowed else "")
    return Curve(view=view, family=members[0].family, variant=variant, axis=axis, points=members, law=law, refused=refused)


def fit(points: Sequence[CurvePoint], axis: Axis, form: str, *, growth: float | None = None) -> laws.Law:
    """The law of the points, weighted by their noise and by x^growth (None: as for a forecast). Raises LawError."""
    x = np.array([getattr(p, axis) for p in points], dtype=float)
    error = [p.error * math.exp(p.optimism) for p in points]
    return laws.fit(x, error, form, weights=precision(points), runs=blocks(points), growth=growth)


def blocks(points: Sequence[CurvePoint]) -> list[str] | None:
    """The block of each point, if some points share one; None: all are independent."""
    names = [p.block for p in points]
    return names if 1 < len(set(names)) < len(names) else None


def precision(points: Sequence[CurvePoint]) -> np.ndarray | None:
    """1 / variance of each log error; None (equal weights) if the noise of a point is unknown."""
    spread = np.array([p.spread for p in points])
    return 1 / spread**2 if (spread > 0).all() else None
