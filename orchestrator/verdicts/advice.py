"""Which run to pay for next: what each affordable run would take off the interval of a target's forecast, and its cost.

The law behind the forecast is linearised where it was fitted: its parameters' covariance follows from the runs that are done,
a further run adds its own row (Fedorov's exchange, one step), and the target's variance is read before and after. A run of a
model that the law is not about (another variant, along one variant's data) is not considered. Deterministic; trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.laws import Law
from orchestrator.plan.axes import GridPoint, recipes_at
from orchestrator.plan.datasets import look_up_datasets
from orchestrator.plan.make import cells_at
from orchestrator.plan.runs import Cell
from orchestrator.plan.runs import Run as PlannedRun
from orchestrator.spec.claims import Target
from orchestrator.spec.study import StudyFile, resolve_size
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from orchestrator.verdicts.answers import Point
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.forecast import Aim, Way, aim_of, best, is_target, view_of, ways
from vitmodel.config.base import UserError

STEP = 1e-4  # of the differences by theta, exponents and logarithms
WEAK = 1.0  # standard deviation that a parameter has where no run holds it: theta are of order one
NEIGHBOURS = (0.5, 2.0)  # data sizes beside the study's own, as factors


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One run to add: what it costs, and the expected width of the target's 90% band (as a factor of error) with it.

    gpu_hours is 0 on a CPU, core_hours is not. `now` is the width without it: 1.2 means that the band's upper end is 1.2 times
    its lower end.
    """

    target: str
    run: str
    gpu_hours: float
    core_hours: float
    in_study: bool
    now: float
    then: float

    @property
    def cost(self) -> float:
        return self.gpu_hours or self.core_hours

    @property
    def gain(self) -> float:
        """Share of the band's width (in logarithms) that the run takes off."""
        return 1 - math.log(self.then) / math.log(self.now)


def advise(file: StudyFile, store: Store, evidence: Sequence[Evidence], target: Target) -> list[Advice]:
    """Runs in the order of what they take off the band for their cost. Raises UserError where there is no forecast yet."""
    if not file.study.pretrain.models:
        raise file.tree.error("a study of imported tables trains nothing: it has no run to advise", (), missing="pretrain")
    found = view_of(target, evidence)
    if found is None:
        raise UserError(f"no row is judged on {target.task or 'any task'} yet: nothing to forecast from", field="targets")
    aim = aim_of(target, file.study, found.points)
    if any(is_target(p, aim) for p in found.points):
        return []
    past, refused = ways(found, aim)
    if not past:
        raise UserError(f"no forecast of {target.label} yet ({'; '.join(refused)})", field="targets")
    way = best(past)
    inform = information(way.law, [row_of(p, way) for p in way.points], [p.spread for p in way.points])
    now, noise = width(way, inform, found), found.seed_spread
    advice = []
    for cell, in_study in _affordable(file, store, aim):
        if way.by == "data" and cell.pretrain.config.model.variant != target.variant:
            continue
        axes = row_of(_point(cell.pretrain), way)
        slopes = gradient(way.law, axes) / _noise_of(way.law, noise)
        then = width(way, inform + np.outer(slopes, slopes), found)
        advice.append(_advice(target, cell, in_study=in_study, now=now, then=then))
    worth = [one for one in advice if one.gain > 1e-3]
    return sorted(worth, key=lambda one: (-one.gain / one.cost if one.cost else 0.0, one.run))


# --- what a run would teach -----------------------------------------------------------------------------------


def gradient(law: Law, x: np.ndarray) -> np.ndarray:
    """Slopes (k + 1,) of the law's log error at x by its log scale and theta."""
    z = law.centred(x)
    moved = law.theta + STEP * np.eye(len(law.theta))
    shapes = law.problem.form.log_shape(np.vstack([law.theta[None], moved]), z)[:, 0]
    return np.concatenate([[1.0], (shapes[1:] - shapes[0]) / STEP])


def information(law: Law, rows: Sequence[np.ndarray], spreads: Sequence[float]) -> np.ndarray:
    """Fisher information (k + 1, k + 1) of the rows, with a weak prior that keeps an unheld parameter finite."""
    slopes = np.array([gradient(law, x) / _noise_of(law, s) for x, s in zip(rows, spreads, strict=True)])
    return np.asarray(slopes.T @ slopes + np.eye(slopes.shape[1]) / WEAK**2)


def width(way: Way, inform: np.ndarray, found: Evidence) -> float:
    """Upper over lower end of the target's band, by the law's parameters and the noise of one new run."""
    slope = gradient(way.law, way.x)
    variance = float(slope @ np.linalg.solve(inform, slope)) + _noise_of(way.law, found.seed_spread) ** 2
    return math.exp(2 * found.reach * math.sqrt(variance))


def _noise_of(law: Law, spread: float) -> float:
    """Standard deviation of a run's log error: what the rows scatter about the law, at least their own noise."""
    return max(spread, law.diagnostics.noise, 1e-4)


def row_of(point: Point, way: Way) -> np.ndarray:
    """Where a point stands on the axes of the law."""
    values = [float(getattr(point, axis)) for axis in way.beyond]
    return np.array([values]) if len(values) > 1 else np.array(values)


# --- which runs there are to choose from ----------------------------------------------------------------------


def _affordable(file: StudyFile, store: Store, aim: Aim) -> Iterator[tuple[Cell, bool]]:
    """Cells of the target's family that are not done and cost less than the target: the study's own (True), a further
    seed of them, and the sizes beside them."""
    pretrain, study = file.study.pretrain, file.study
    numbers = [i for i, entry in enumerate(pretrain.models) if entry.model.family == aim.family and not entry.init]
    most = _images(file, store)
    sizes = sorted({resolve_size(size, most) for size in pretrain.sizes})
    beside = sorted({round(n * f) for n in sizes for f in NEIGHBOURS if 1 <= n * f <= most} - set(sizes))
    seeds = study.seeds
    own = [_at(file, i, n, seed) for i in numbers for n in sizes for seed in seeds]
    new = [_at(file, i, n, max(seeds) + 1) for i in numbers for n in sizes]
    new += [_at(file, i, n, seeds[0]) for i in numbers for n in beside]
    for points, in_study in ((own, True), (new, False)):
        for cell in cells_at(file, store.root, points):
            is_done = store.run(cell.pretrain.run_id).state() is State.DONE
            if not is_done and cell.pretrain.train_flops < aim.pretrain_flops * (1 - 1e-6):
                yield cell, in_study


def _at(file: StudyFile, number: int, images: int, seed: int) -> GridPoint:
    """The study's first objective, the model's first recipe and length, at this many images."""
    entry, first = file.study.pretrain.models[number], file.study.pretrain.objective[0]
    length = (first.lengths or entry.lengths or file.study.pretrain.lengths)[0]
    return GridPoint(model=number, objective=0, recipe=recipes_at(file, number, 0)[0], size=images, length=length, seed=seed)


def _images(file: StudyFile, store: Store) -> int:
    return look_up_datasets(file, store.root)[file.study.pretrain.data].train


def _point(run: PlannedRun) -> Point:
    """A planned pretraining as a point without a result."""
    return Point(
        family=run.config.model.family,
        variant=run.variant,
        params=run.params,
        dataset=run.dataset,
        dataset_size=run.config.data.size,
        epochs=run.epochs,
        pretrain_flops=float(run.train_flops),
        seed=run.config.seed,
        error=math.nan,
        noise=math.nan,
        spread=math.nan,
        runs=(run.run_id,),
    )


def _advice(target: Target, cell: Cell, *, in_study: bool, now: float, then: float) -> Advice:
    hours = {"gpus_per_worker": 0.0, "cpus_per_worker": 0.0}
    for run in cell.runs:
        for name in hours:
            hours[name] += run.placement.seconds * run.placement.group.workers * getattr(run.placement.group, name) / 3600
    seed = f", seed {cell.pretrain.config.seed}" if cell.pretrain.config.seed else ""
    label = f"{cell.pretrain.config.model.variant} on {cell.pretrain.config.data.size:,} images, {cell.pretrain.length}{seed}"
    return Advice(
        target=target.label,
        run=label,
        gpu_hours=hours["gpus_per_worker"],
        core_hours=hours["cpus_per_worker"],
        in_study=in_study,
        now=now,
        then=then,
    )
