"""From a study to its plan: which runs there are, what they share, and which worker group works through which.

Pure and deterministic: reads no cluster and no store. The same study gives the same bytes.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.plan import budget
from orchestrator.plan.axes import GridPoint, points
from orchestrator.plan.budget import Device, Group
from orchestrator.plan.datasets import PLANNING
from orchestrator.plan.planner import Planner
from orchestrator.plan.runs import Bundle, Cell, Run
from orchestrator.spec.study import StudyFile
from vitmodel.config.base import UserError
from vitmodel.data.remote import Patience

BUNDLE_WORTH = 10  # a bundle's work is at least this many times the cost of launching its worker group


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cells of a study, longest first, and the folder of every dataset."""

    study: str
    cells: tuple[Cell, ...]
    datasets: dict[str, str]
    missing_indexes: dict[str, str]  # datasets planned from their declaration, and why
    device: Device
    price_per_gpu_hour: float | None

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for cell in self.cells for run in cell.runs)


def make_plan(file: StudyFile, storage: Path, patience: Patience = PLANNING) -> Plan:
    """All runs of a study. Raises UserError, with the line of what asks for something impossible.

    `patience` is for datasets behind URLs.
    """
    planner = Planner(file, storage, patience)
    cells: dict[str, Cell] = {}
    count, limit = 0, file.study.budget.max_runs
    for point in points(file):
        cell = planner.cell(point)
        known = cells.get(cell.pretrain.run_id, replace(cell, children=()))
        new = tuple(child for child in cell.children if child not in known.children)  # an import serves all seeds
        count += len(new) + (cell.pretrain.run_id not in cells)
        cells[cell.pretrain.run_id] = replace(known, children=known.children + new)
        if count > limit:
            raise file.tree.error("the study has more runs than its limit", ("budget", "max_runs"), f"up to {limit} runs")
    if not cells and not file.study.imports:
        raise file.tree.error("include and exclude leave no run", ("pretrain", "exclude"))
    ordered = sorted(cells.values(), key=lambda cell: (-cell.seconds, cell.pretrain.run_id))
    return Plan(
        study=file.study.name,
        cells=tuple(ordered),
        datasets={name: data.root for name, data in planner.data.items()},
        missing_indexes={name: data.missing for name, data in planner.data.items() if data.missing},
        device=budget.device_of(file.study.resources),
        price_per_gpu_hour=file.study.budget.price_per_gpu_hour,
    )


def cells_at(file: StudyFile, storage: Path, asked: Iterable[GridPoint]) -> list[Cell]:
    """Cells at points that need not be of the study's grid, with what they cost. Points that cannot be planned are left out."""
    planner, found = Planner(file, storage), []
    for point in asked:
        try:
            found.append(planner.cell(point))
        except UserError:  # more images than there are, or a model too large for any node
            continue
    return found


def make_bundles(cells: tuple[Cell, ...], slots: dict[Group, int], mode: str = "auto") -> list[Bundle]:
    """Cells to worker groups, in the order they are to be started. `mode` is the study's `resources.bundle`."""
    return _fan_out(cells) if mode == "run" else _whole_cells(cells, slots, mode)


def _fan_out(cells: tuple[Cell, ...]) -> list[Bundle]:
    """Every pretraining a group of its own, those that most hangs on first; then every fine-tune; a cell's probes as one."""
    first, then = [], []
    for cell in sorted(cells, key=lambda cell: (-cell.seconds, cell.pretrain.run_id)):
        first.append((replace(cell, children=()), ""))
        probes = tuple(run for run in cell.children if run.config.phase == "probe")
        shares = [(run,) for run in cell.children if run.config.phase != "probe"] + ([probes] if probes else [])
        then += [(replace(cell, children=share), cell.pretrain.run_id) for share in shares]
    return [
        Bundle(bundle_id=f"{number:04d}", group=cell.pretrain.placement.group, cells=(cell,), after=after)
        for number, (cell, after) in enumerate(first + then)
    ]


def _whole_cells(cells: tuple[Cell, ...], slots: dict[Group, int], mode: str) -> list[Bundle]:
    """Longest first onto the least loaded (Graham 1969): as many groups as run side by side, if each has work for one launch
    at least; more only where each still has work for ten."""
    by_group: dict[Group, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_group[cell.pretrain.placement.group].append(cell)
    bundles: list[Bundle] = []
    for group, members in sorted(by_group.items()):
        launches = sum(cell.seconds for cell in members) / budget.LAUNCH_SECONDS  # the work, in units of a launch
        count = max(min(slots[group], math.floor(launches)), math.floor(launches / BUNDLE_WORTH), 1)
        count = len(members) if mode == "cell" else min(len(members), count)
        loads: list[list[Cell]] = [[] for _ in range(count)]
        lightest = [(0.0, number) for number in range(count)]  # a heap
        for cell in sorted(members, key=lambda cell: (-cell.seconds, cell.pretrain.run_id)):
            seconds, number = lightest[0]
            loads[number].append(cell)
            heapq.heapreplace(lightest, (seconds + cell.seconds, number))
        bundles += [Bundle(bundle_id=f"{len(bundles) + i:04d}", group=group, cells=tuple(load)) for i, load in enumerate(loads)]
    return sorted(bundles, key=lambda bundle: (-bundle.seconds, bundle.bundle_id))
