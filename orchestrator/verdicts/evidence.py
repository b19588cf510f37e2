"""The data points of a view: one for each pretraining that has a result on every task of the view, with its noise.

Reads the results frame, returns frozen points. If a model was fine-tuned for several lengths or probed with several numbers of
shots, the longest or largest counts; of several recipes, the best one. Noise is that of finite test sets and of seeds:
measured for each family if models were trained with several seeds, else assumed (`claims.seed_spread`), which the method of a
verdict states.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from orchestrator.laws.tolerance import snap
from orchestrator.results.summary import SAME_BUDGET
from orchestrator.spec.claims import Claims
from orchestrator.verdicts.answers import CurvePoint, LeftOut, View
from orchestrator.verdicts.recipe_choice import choose_recipes, setting, split_recipe
from orchestrator.verdicts.row_selection import RowSelection, select_rows
from orchestrator.verdicts.views import rows_with_pretraining

PRETRAINING = ["family", "variant", "recipe", "dataset", "dataset_size", "epochs", "seed"]  # the columns that identify one
MIN_SEED_FREEDOM = 2  # degrees of freedom from which the measured spread between seeds is used


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """Standard deviation of log error between seeds: over all families, and of each family that has enough repeated runs.

    freedom: the fewest degrees of freedom of the spreads in use; inf if the spread is assumed.
    """

    pooled: float
    freedom: float
    families: dict[str, float]

    def of(self, family: str) -> float:
        return self.families.get(family, self.pooled)

    @staticmethod
    def measure(points: Sequence[CurvePoint], claims: Claims) -> SeedSpread:
        """From the points that differ in nothing but the seed."""
        groups: dict[tuple[Hashable, ...], list[float]] = {}
        for p in points:
            groups.setdefault((*setting(p), p.recipe), []).append(math.log(p.error))
        known = [(str(key[0]), len(logs) - 1, float(np.var(logs)) * len(logs)) for key, logs in groups.items()]

        def total(family: str | None) -> tuple[int, float]:
            parts = [(freedom, squares) for name, freedom, squares in known if family in (None, name)]
            return sum(freedom for freedom, _ in parts), sum(squares for _, squares in parts)

        freedom, squares = total(None)
        if freedom < MIN_SEED_FREEDOM:
            return SeedSpread(pooled=claims.seed_spread, freedom=math.inf, families={})
        own = {family: total(family) for family in {name for name, _, _ in known}}
        enough = {family: part for family, part in own.items() if part[0] >= MIN_SEED_FREEDOM}
        return SeedSpread(
            pooled=math.sqrt(squares / freedom),
            freedom=float(min([freedom, *(part[0] for part in enough.values())])),
            families={family: math.sqrt(part[1] / part[0]) for family, part in enough.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The points of a view, and the noise that decides whether two of them differ."""

    view: View
    points: tuple[CurvePoint, ...]
    claims: Claims
    seed_spread: float  # over all families; that of a family is in the spread of its points
    seed_freedom: float  # inf if the spread is assumed
    left_out: tuple[LeftOut, ...] = ()  # rows with another recipe than the best
    notes: tuple[str, ...] = ()  # on sweeps of recipes

    @cached_property
    def over_compute(self) -> RowSelection:
        """The points of every family over compute, by one rule for all."""
        return select_rows(self.points)

    @property
    def is_assumed(self) -> bool:
        """Whether the spread between seeds is assumed, not measured."""
        return math.isinf(self.seed_freedom)

    @property
    def critical_value(self) -> float:
        """Half the width of an interval at `claims.level`, in standard deviations."""
        tail = (1 + self.claims.level) / 2
        return float(norm.ppf(tail) if math.isinf(self.seed_freedom) else t.ppf(tail, self.seed_freedom))

    @property
    def seed_text(self) -> str:
        """The spread between seeds and its origin, as text."""
        if self.is_assumed:
            return f"one seed per model, a spread of {100 * self.seed_spread:.0f}% between seeds is assumed"
        return f"measured spread of {100 * self.seed_spread:.1f}% between seeds"

    @property
    def rows_text(self) -> str:
        """Which rows make the curves over compute, what was left out, and what is to be known about sweeps, as text."""
        reasons = Counter("another recipe is better" for _ in self.left_out)
        reasons += Counter(row.reason for row in self.over_compute.left_out)
        left_out = [f"{number} left out: {reason}" for reason, number in reasons.items()]
        best = ["best recipe of each model, size and length"] if self.left_out else []
        return "; ".join([", ".join([*best, self.over_compute.rule]), *left_out, *self.notes])

    def of(self, family: str, variant: str = "") -> tuple[CurvePoint, ...]:
        """The points of a family, or of one variant."""
        return tuple(p for p in self.points if p.family == family and variant in ("", p.variant))


def gather(frame: pd.DataFrame, view: View, claims: Claims) -> Evidence:
    """The points of the view, the smallest compute first."""
    rows = with_test_noise(_longest_adaptation(rows_with_pretraining(frame), view), claims)
    names = [split_recipe(*pair) for pair in zip(rows["variant"], rows["recipe"], strict=True)]
    rows = rows.assign(
        epochs=snap(rows["epochs"], SAME_BUDGET), variant=[model for model, _ in names], recipe=[label for _, label in names]
    )
    found = (_point(part, view) for _, part in rows.groupby(PRETRAINING, sort=True, dropna=False))
    points = [point for point in found if point is not None]
    seeds = SeedSpread.measure(points, claims)
    candidates = [replace(p, spread=math.hypot(p.noise, seeds.of(p.family))) for p in points]
    choice = choose_recipes(candidates, is_measured=math.isfinite(seeds.freedom))
    return Evidence(
        view=view,
        points=tuple(sorted(choice.points, key=lambda p: (p.family, p.pretrain_flops, p.dataset_size, p.variant, p.seed))),
        claims=claims,
        seed_spread=seeds.pooled,
        seed_freedom=seeds.freedom,
        left_out=choice.left_out,
        notes=choice.notes,
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
        recipe=first["recipe"],
    )
