"""The rows that a claim or a law may rest on: which errors belong together, how noisy they are, which curves they make.

Reads the results frame, gives frozen points. A pretraining counts in a view only with a result on every task of it; of what
was fine-tuned or probed several ways, the longest way counts. Noise is that of finite test sets and of seeds: measured where
runs were repeated with another seed, else assumed (`claims.seed_spread`) and said so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm, t

from orchestrator import laws
from orchestrator.laws import LawError
from orchestrator.results import summary
from orchestrator.spec.claims import Claims
from orchestrator.verdicts.answers import Axis, Curve, Point, View

CELL = ["family", "variant", "dataset", "dataset_size", "epochs", "seed"]
ENOUGH_COMPUTES = 4  # different amounts of compute that a law needs
LEAST_SEEDS = 2  # degrees of freedom from which a measured spread between seeds is believed


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A view's points, and how sure a difference between them must be."""

    view: View
    points: tuple[Point, ...]
    claims: Claims
    seed_spread: float
    seed_freedom: float  # inf where the spread was assumed

    @property
    def reach(self) -> float:
        """Standard deviations on either side of an interval at the asked level."""
        tail = (1 + self.claims.level) / 2
        return float(norm.ppf(tail) if math.isinf(self.seed_freedom) else t.ppf(tail, self.seed_freedom))

    @property
    def seeds_said(self) -> str:
        """What the interval assumes of seeds, in words."""
        if math.isinf(self.seed_freedom):
            return f"one seed: {100 * self.seed_spread:.0f}% between seeds assumed"
        return f"{100 * self.seed_spread:.1f}% between seeds measured"

    def of(self, family: str, variant: str = "") -> tuple[Point, ...]:
        """A family's points, or a variant's."""
        return tuple(p for p in self.points if p.family == family and variant in ("", p.variant))


# --- views ----------------------------------------------------------------------------------------------------


def views(frame: pd.DataFrame, claims: Claims, ceilings: Mapping[str, str]) -> tuple[View, ...]:
    """What can be judged: the mean over tasks, the mean without some, each fine-tuned task, each probed one, else upstream."""
    done = _judged(frame)
    tuned, probed = summary.tasks(done, "finetune"), summary.tasks(done, "probe")
    found = []
    if tuned:
        asked = tuple(task for task in claims.tasks or tuned if task in tuned)
        how = summary.finetune_length(done[done["phase"] == "finetune"])
        left_out = tuple(ceilings) if claims.leave_out is None else claims.leave_out
        kept = tuple(task for task in asked if task not in left_out)
        if len(asked) > 1:
            found.append(View(name=f"mean of {len(asked)} tasks", tasks=asked, phase="finetune", how=how))
        if 1 < len(kept) < len(asked):
            name = f"mean of {len(kept)} tasks, without {', '.join(task for task in asked if task not in kept)}"
            found.append(View(name=name, tasks=kept, phase="finetune", how=how))
        found += [View(name=task, tasks=(task,), phase="finetune", how=how) for task in tuned]
    shots = done.loc[done["phase"] == "probe", "shots"].max() if probed else 0
    found += [View(name=f"{task}, {shots} shots", tasks=(task,), phase="probe", how=f"{shots} shots") for task in probed]
    if not found and len(summary.pretrained(done)):
        found.append(View(name="upstream", tasks=("",), phase="pretrain", how="right after pretraining"))
    return tuple(found)


def ceilings(frame: pd.DataFrame, claims: Claims) -> dict[str, str]:
    """Fine-tuned tasks whose errors are mostly the test set's noise, with the reason."""
    done = _judged(frame)
    tuned = done[done["phase"] == "finetune"]
    families = (claims.challenger, claims.rival)
    errors = {
        str(task): {str(name): part["error"].to_numpy() for name, part in rows.groupby("family") if name in families}
        for task, rows in tuned.groupby("task", sort=False)
        if claims.tasks is None or task in claims.tasks
    }
    images = {
        str(task): int(rows["test_images"].max()) for task, rows in tuned.groupby("task") if rows["test_images"].notna().any()
    }
    return laws.ceilings({task: found for task, found in errors.items() if found}, {**images, **claims.test_images})


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows with a result whose pretraining is known: imported weights say nothing on images or compute."""
    done = summary.finished(frame)
    return done[done["dataset_size"].notna()]


# --- points ---------------------------------------------------------------------------------------------------


def gather(frame: pd.DataFrame, view: View, claims: Claims) -> Evidence:
    """The view's points, smallest compute first."""
    rows = _longest_way(_judged(frame), view)
    images = rows["test_images"].astype("float64").fillna(rows["task"].map(claims.test_images))
    error = rows["error"].clip(lower=(0.5 / images).fillna(1e-6))  # no mistake at all: half of one, so that it has a logarithm
    rows = rows.assign(error=error, variance=(error * (1 - error) / images).fillna(0.0))
    cells = [_cell(part, view) for _, part in rows.groupby(CELL, sort=True, dropna=False)]
    whole = [cell for cell in cells if cell is not None]
    spread, freedom = _seeds(whole, claims)
    ordered = sorted(whole, key=lambda p: (p.family, p.pretrain_flops, p.dataset_size, p.variant, p.seed))
    return Evidence(
        view=view,
        points=tuple(_with_spread(point, spread) for point in ordered),
        claims=claims,
        seed_spread=spread,
        seed_freedom=freedom,
    )


def _longest_way(done: pd.DataFrame, view: View) -> pd.DataFrame:
    rows = done[(done["phase"] == view.phase) & done["task"].isin(view.tasks)]
    axis = {"finetune": "finetune_epochs", "probe": "shots"}.get(view.phase)
    if axis is None or rows[axis].isna().all():
        return rows
    most = rows.groupby("task")[axis].transform("max")
    return rows[rows[axis] == most]


def _cell(rows: pd.DataFrame, view: View) -> Point | None:
    """The mean over the view's tasks, or None where one is missing."""
    if set(rows["task"]) != set(view.tasks):
        return None
    first, error = rows.iloc[0], float(rows["error"].mean())
    return Point(
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


def _seeds(points: Sequence[Point], claims: Claims) -> tuple[float, float]:
    """Standard deviation of log error between seeds and its degrees of freedom (inf: assumed)."""
    keys = pd.Series([(p.family, p.variant, p.dataset, p.dataset_size, p.epochs) for p in points], dtype=object).astype(str)
    freedom = len(keys) - keys.nunique()
    if freedom < LEAST_SEEDS:
        return claims.seed_spread, math.inf
    return laws.seed_spread(keys.factorize()[0], [p.error for p in points]), float(freedom)


def _with_spread(point: Point, seeds: float) -> Point:
    return Point(**{**vars(point), "spread": math.hypot(point.noise, seeds)})


# --- curves ---------------------------------------------------------------------------------------------------


def compute_points(found: Evidence, family: str) -> tuple[Point, ...]:
    """The rows of a family's curve over compute: those of the most images where these make a curve, else all."""
    rows = [p for p in found.of(family) if p.pretrain_flops > 0]
    most = max((p.dataset_size for p in rows), default=0)
    full = [p for p in rows if p.dataset_size == most]
    return tuple(full if len({p.pretrain_flops for p in full}) >= ENOUGH_COMPUTES else rows)


def data_points(found: Evidence, family: str, variant: str) -> tuple[Point, ...]:
    """The rows of a variant's curve over data: of each size the longest pretraining."""
    rows = found.of(family, variant)
    return tuple(p for p in rows if _flops(p) >= max(_flops(q) for q in rows if q.dataset_size == p.dataset_size))


def _flops(point: Point) -> float:
    return point.pretrain_flops if point.pretrain_flops > 0 else 0.0


def curve(view: str, points: Iterable[Point], axis: Axis, form: str, *, variant: str = "") -> Curve | None:
    """Points with the law of this form through them, or why there is none; None for no points."""
    rows = tuple(points)
    if not rows:
        return None
    law, refused = None, ""
    try:
        law = fit(rows, axis, form)
    except LawError as error:
        refused = error.message + (f" (a law needs {error.allowed})" if error.allowed else "")
    return Curve(view=view, family=rows[0].family, variant=variant, axis=axis, points=rows, law=law, refused=refused)


def fit(points: Sequence[Point], axis: Axis, form: str) -> laws.Law:
    """A law through points, weighted by their noise. Raises LawError."""
    x = np.array([getattr(p, axis) for p in points], dtype=float)
    return laws.fit(x, [p.error for p in points], form, weights=precision(points), runs=None)


def precision(points: Sequence[Point]) -> np.ndarray | None:
    """1 / variance of each log error; None (equal) where nothing is known of any noise."""
    spread = np.array([p.spread for p in points])
    return 1 / spread**2 if (spread > 0).all() else None
