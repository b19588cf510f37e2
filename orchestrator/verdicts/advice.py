"""Which run to train next: how much each affordable run would narrow the band of a target's forecast, and its cost.

Runs that the law does not describe (another variant, for a law along one variant's data) are not considered. Deterministic;
trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.plan.axes import GridPoint, recipes_at
from orchestrator.plan.datasets import look_up_datasets
from orchestrator.plan.make import cells_at
from orchestrator.plan.runs import Cell
from orchestrator.plan.runs import Run as PlannedRun
from orchestrator.results.summary import SAME_BUDGET
from orchestrator.spec.claims import Target
from orchestrator.spec.study import StudyFile, resolve_size
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from orchestrator.verdicts.answers import CurvePoint
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.extrapolation import extrapolations, most_reliable
from orchestrator.verdicts.information import gradient, information, noise_of_run, position, width
from orchestrator.verdicts.targets import TargetRun, evidence_for, is_target, target_run
from vitmodel.config.base import UserError

NEIGHBOURS = (0.5, 2.0)  # further data sizes, as factors of the study's sizes
MIN_GAIN = 1e-3


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A run to add: its cost, and the expected width of the target's 90% band with it, as a ratio of its two ends.

    gpu_hours is 0 on a CPU, core_hours is not. `now` is the width without the run: 1.2 means that the upper end is 1.2 times
    the lower end.
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
        """The share of the band's width (in logarithms) that the run removes."""
        return 1 - math.log(self.then) / math.log(self.now)


def advise(file: StudyFile, store: Store, evidence: Sequence[Evidence], target: Target) -> list[Advice]:
    """Runs by their gain for their cost, the best first; none for a finished target. Raises UserError without a forecast."""
    if not file.study.pretrain.models:
        raise file.tree.error("the study trains nothing, it only imports tables: no run can be added", (), missing="pretrain")
    view = evidence_for(target, evidence)
    if view is None:
        rows = f"no finished row on {f'task {target.task}' if target.task else 'any task'}"
        raise UserError(f"{rows}: nothing to forecast from. Run part of the study first", field="targets")
    run = target_run(target, file.study, view.points)
    if any(is_target(p, run) for p in view.points):
        return []
    choices, refused = extrapolations(view, run)
    if not choices:
        raise UserError(f"no forecast of {target.label} is possible: {'; '.join(refused)}", field="targets")
    chosen = most_reliable(choices)
    known = information(chosen.law, [position(p, chosen) for p in chosen.points], [p.spread for p in chosen.points])
    now = width(chosen, known, view)
    advice = []
    for cell, in_study in _affordable(file, store, run):
        if chosen.by == "data" and cell.pretrain.config.model.variant != target.variant:
            continue
        x = position(_planned_point(cell.pretrain), chosen)
        slopes = gradient(chosen.law, x) / noise_of_run(chosen.law, view.seed_spread)
        then = width(chosen, known + np.outer(slopes, slopes), view)
        advice.append(_advice(target, cell, in_study=in_study, now=now, then=then))
    useful = [item for item in advice if item.gain > MIN_GAIN]
    return sorted(useful, key=lambda item: (-item.gain / item.cost if item.cost else 0.0, item.run))


def _affordable(file: StudyFile, store: Store, run: TargetRun) -> Iterator[tuple[Cell, bool]]:
    """Cells of the target's family that are not done and cost less than the target, and whether the study has them.

    The study's cells, one more seed of them, and the neighbouring data sizes.
    """
    pretrain, study = file.study.pretrain, file.study
    models = [i for i, entry in enumerate(pretrain.models) if entry.model.family == run.family and not entry.init]
    images = look_up_datasets(file, store.root)[pretrain.data].train
    sizes = sorted({resolve_size(size, images) for size in pretrain.sizes})
    seeds = study.seeds
    planned = [_grid_point(file, i, n, seed) for i in models for n in sizes for seed in seeds]
    new = [_grid_point(file, i, n, max(seeds) + 1) for i in models for n in sizes]
    new += [_grid_point(file, i, n, seeds[0]) for i in models for n in neighbouring_sizes(sizes, images)]
    for points, in_study in ((planned, True), (new, False)):
        for cell in cells_at(file, store.root, points):
            is_done = store.run(cell.pretrain.run_id).state() is State.DONE
            if not is_done and cell.pretrain.train_flops < run.pretrain_flops * (1 - SAME_BUDGET):
                yield cell, in_study


def neighbouring_sizes(sizes: Sequence[int], most: int) -> list[int]:
    """Half and twice each size, up to `most` images, without those that equal another size apart from rounding."""
    result: list[int] = []
    for size in sorted({round(n * factor) for n in sizes for factor in NEIGHBOURS if 1 <= n * factor <= most}):
        if not any(math.isclose(size, known, rel_tol=SAME_BUDGET) for known in (*sizes, *result)):
            result.append(size)
    return result


def _grid_point(file: StudyFile, number: int, images: int, seed: int) -> GridPoint:
    """The study's first objective, the model's first recipe and length, at this many images."""
    entry, first = file.study.pretrain.models[number], file.study.pretrain.objective[0]
    length = (first.lengths or entry.lengths or file.study.pretrain.lengths)[0]
    return GridPoint(model=number, objective=0, recipe=recipes_at(file, number, 0)[0], size=images, length=length, seed=seed)


def _planned_point(run: PlannedRun) -> CurvePoint:
    """A planned pretraining as a point without a result."""
    return CurvePoint(
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
