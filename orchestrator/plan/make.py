"""From a study to its plan: which runs there are, what they share, and which worker group executes which of them.

Pure and deterministic: reads no cluster and no store. The same study gives the same bytes.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.plan.axes import GridPoint, points
from orchestrator.plan.datasets import PLANNING
from orchestrator.plan.devices import Device, device_of
from orchestrator.plan.planner import Planner
from orchestrator.plan.runs import LAUNCH_SECONDS, Bundle, Cell, Run, WorkerGroup
from orchestrator.spec.study import StudyFile
from vitmodel.config.base import UserError
from vitmodel.data.remote import RetryPolicy

BUNDLE_WORTH = 10  # beyond one bundle per slot: a bundle's work is at least this many times the cost of its launch


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cells of a study, longest first, and the folder of every dataset."""

    study: str
    cells: tuple[Cell, ...]
    datasets: dict[str, str]
    missing_indexes: dict[str, str]  # datasets planned from the study file alone, and why
    device: Device
    price_per_gpu_hour: float | None

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for cell in self.cells for run in cell.runs)


def make_plan(file: StudyFile, storage: Path, retry_policy: RetryPolicy = PLANNING) -> Plan:
    """All runs of a study. Raises UserError, with the line of what asks for something impossible.

    `retry_policy` is for datasets behind URLs.
    """
    planner = Planner(file, storage, retry_policy)
    cells: dict[str, Cell] = {}
    count, limit = 0, file.study.budget.max_runs
    for point in points(file):
        cell = planner.cell(point)
        known = cells.get(cell.pretrain.run_id, replace(cell, children=()))
        new = tuple(child for child in cell.children if child not in known.children)  # an import is shared by all seeds
        count += len(new) + (cell.pretrain.run_id not in cells)
        cells[cell.pretrain.run_id] = replace(known, children=known.children + new)
        if count > limit:
            raise file.tree.error("the study has more runs than its limit", ("budget", "max_runs"), f"up to {limit} runs")
    if not cells and not file.study.imports:
        raise file.tree.error("include and exclude leave no run", ("pretrain", "exclude"))
    ordered = sorted(cells.values(), key=lambda cell: cell.sort_key)
    return Plan(
        study=file.study.name,
        cells=tuple(ordered),
        datasets={name: data.root for name, data in planner.data.items()},
        missing_indexes={name: data.missing for name, data in planner.data.items() if data.missing},
        device=device_of(file.study.resources),
        price_per_gpu_hour=file.study.budget.price_per_gpu_hour,
    )


def cells_at(file: StudyFile, storage: Path, points: Iterable[GridPoint]) -> list[Cell]:
    """The cells at points that need not be in the study's grid. Points that cannot be planned are left out."""
    planner, cells = Planner(file, storage), []
    for point in points:
        try:
            cells.append(planner.cell(point))
        except UserError:  # more images than there are, or a model too large for any node
            continue
    return cells


def make_bundles(cells: tuple[Cell, ...], slots: dict[WorkerGroup, int], mode: str = "auto") -> list[Bundle]:
    """Assign cells to worker groups, in the order in which they start. `mode` is the study's `resources.bundle`."""
    return _fan_out(cells) if mode == "run" else _whole_cells(cells, slots, mode)


def _fan_out(cells: tuple[Cell, ...]) -> list[Bundle]:
    """One bundle per pretraining, the longest cells first; then one per fine-tune, and one for all probes of a cell."""
    first, rest = [], []
    for cell in sorted(cells, key=lambda cell: cell.sort_key):
        first.append((replace(cell, children=()), ""))
        probes = tuple(run for run in cell.children if run.config.phase == "probe")
        shares = [(run,) for run in cell.children if run.config.phase != "probe"] + ([probes] if probes else [])
        rest += [(replace(cell, children=share), cell.pretrain.run_id) for share in shares]
    return [
        Bundle(bundle_id=f"{number:04d}", group=cell.pretrain.placement.group, cells=(cell,), after=after)
        for number, (cell, after) in enumerate(first + rest)
    ]


def _whole_cells(cells: tuple[Cell, ...], slots: dict[WorkerGroup, int], mode: str) -> list[Bundle]:
    """Longest cell first onto the least loaded bundle (Graham 1969).

    At most one bundle for each group that runs in parallel and each launch's worth of work; more bundles only where each
    still has the work of `BUNDLE_WORTH` launches.
    """
    by_group: dict[WorkerGroup, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_group[cell.pretrain.placement.group].append(cell)
    bundles: list[Bundle] = []
    for group, members in sorted(by_group.items(), key=lambda item: item[0].sort_key):
        launches = sum(cell.seconds for cell in members) / LAUNCH_SECONDS  # the work in units of one launch
        count = max(min(slots[group], math.floor(launches)), math.floor(launches / BUNDLE_WORTH), 1)
        count = len(members) if mode == "cell" else min(len(members), count)
        loads: list[list[Cell]] = [[] for _ in range(count)]
        lightest = [(0.0, number) for number in range(count)]  # a heap
        for cell in sorted(members, key=lambda cell: cell.sort_key):
            seconds, number = lightest[0]
            loads[number].append(cell)
            heapq.heapreplace(lightest, (seconds + cell.seconds, number))
        bundles += [Bundle(bundle_id=f"{len(bundles) + i:04d}", group=group, cells=tuple(load)) for i, load in enumerate(loads)]
    return sorted(bundles, key=lambda bundle: (-bundle.seconds, bundle.bundle_id))
