"""The data points of a view: one for each pretraining that has a result on every task of the view, with its noise.

Reads the results frame, returns frozen points. If a model was fine-tuned for several lengths or probed with several numbers of
shots, the longest or largest counts. Noise is that of finite test sets and of seeds: measured if models were trained with
several seeds, else assumed (`claims.seed_spread`), which the method of a verdict states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import norm, t

from orchestrator import laws
from orchestrator.laws.tolerance import snap
from orchestrator.results.summary import SAME_BUDGET
from orchestrator.spec.claims import Claims
from orchestrator.verdicts.answers import CurvePoint, View
from orchestrator.verdicts.views import rows_with_pretraining

PRETRAINING = ["family", "variant", "dataset", "dataset_size", "epochs", "seed"]  # the columns that identify one
MIN_SEED_FREEDOM = 2  # degrees of freedom from which the measured spread between seeds is used


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The points of a view, and the noise that decides whether two of them differ."""

    view: View
    points: tuple[CurvePoint, ...]
    claims: Claims
    seed_spread: float
    seed_freedom: float  # inf if the spread is assumed

    @property
    def critical_value(self) -> float:
        """Half the width of an interval at `claims.level`, in standard deviations."""
        tail = (1 + self.claims.level) / 2
        return float(norm.ppf(tail) if math.isinf(self.seed_freedom) else t.ppf(tail, self.seed_freedom))

    @property
    def seed_text(self) -> str:
        """The spread between seeds and its origin, as text."""
        if math.isinf(self.seed_freedom):
            return f"one seed per model, a spread of {100 * self.seed_spread:.0f}% between seeds is assumed"
        return f"measured spread of {100 * self.seed_spread:.1f}% between seeds"

    def of(self, family: str, variant: str = "") -> tuple[CurvePoint, ...]:
        """The points of a family, or of one variant."""
        return tuple(p for p in self.points if p.family == family and variant in ("", p.variant))


def gather(frame: pd.DataFrame, view: View, claims: Claims) -> Evidence:
    """The points of the view, the smallest compute first."""
    rows = with_test_noise(_longest_adaptation(rows_with_pretraining(frame), view), claims)
    rows = rows.assign(epochs=snap(rows["epochs"], SAME_BUDGET))
    candidates = [_point(part, view) for _, part in rows.groupby(PRETRAINING, sort=True, dropna=False)]
    points = [point for point in candidates if point is not None]
    spread, freedom = _seed_spread(points, claims)
    ordered = sorted(points, key=lambda p: (p.family, p.pretrain_flops, p.dataset_size, p.variant, p.seed))
    return Evidence(
        view=view,
        points=tuple(_with_spread(point, spread) for point in ordered),
        claims=claims,
        seed_spread=spread,
        seed_freedom=freedom,
    )


def with_test_noise(rows: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """The rows with `variance`, that of the error on a finite test set; an error of 0 becomes half of one test image."""
    images = rows["test_images"].astype("float64").fillna(rows["task"].map(claims.test_images))
    error = rows["error"].clip(lower=(0.5 / images).fillna(1e-6))  # so that it has a logarithm
    return rows.assign(error=error, variance=(error * (1 - error) / images).fillna(0.0))


def _longest_adaptation(done: pd.DataFrame, view: View) -> pd.DataFrame:
    """The rows of the view with the longest fine-tuning, or the most shots, of each task."""
    rows = done[(done["phase"] == view.phase) & done["task"].isin(view.tasks)]
    axis = {"finetune": "finetune_epochs", "probe": "shots"}.get(view.phase)
    if axis is None or rows[axis].isna().all():
        return rows
    most = rows.groupby("task")[axis].transform("max")
    return rows[rows[axis] >= most * (1 - SAME_BUDGET)]


def _point(rows: pd.DataFrame, view: View) -> CurvePoint | None:
    """The mean over the tasks of the view; None if a task has no row."""
    if set(rows["task"]) != set(view.tasks):
        return None
    first, error = rows.iloc[0], float(rows["error"].mean())
    return CurvePoint(
        family=first["family"],
        variant=first["variant"],
        params=int(rows["params"].min()),
        dataset=first["dataset"],
        dataset_size=int(first["dataset_size"]),
        epochs=float(first["epochs"]),
        pretrain_flops=float(rows["pretrain_flops"].mean()),
        seed=int(first["seed"]),
        error=error,
        noise=math.sqrt(rows["variance"].sum()) / len(rows) / error,
        spread=0.0,
        runs=tuple(rows["run_id"]),
    )


def _seed_spread(points: Sequence[CurvePoint], claims: Claims) -> tuple[float, float]:
    """Standard deviation of log error between seeds and its degrees of freedom (inf: assumed)."""
    keys = pd.Series([(p.family, p.variant, p.dataset, p.dataset_size, p.epochs) for p in points], dtype=object).astype(str)
    freedom = len(keys) - keys.nunique()
    if freedom < MIN_SEED_FREEDOM:
        return claims.seed_spread, math.inf
    return laws.seed_spread(keys.factorize()[0], [p.error for p in points]), float(freedom)


def _with_spread(point: CurvePoint, seeds: float) -> CurvePoint:
    return CurvePoint(**{**vars(point), "spread": math.hypot(point.noise, seeds)})
