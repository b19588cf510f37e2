"""From a study to its plan: which runs there are, what they share, and which worker group works through which.

Pure and deterministic: reads no cluster and no store. The same study gives the same bytes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import budget
from orchestrator.budget import Group, Placement
from orchestrator.fingerprint import run_id
from orchestrator.spec import Cut, ExternalData, FamilyRecipes, Length, ModelEntry, RecipeSpec, Size, StudyFile, expand_environment, resolve_size
from orchestrator.yamltree import Place
from vitmodel.config import DataRef, Recipe, RunConfig, UserError, check_image_size
from vitmodel.data import generated
from vitmodel.data.index import INDEX_FILE, DatasetIndex, load_index
from vitmodel.flops import TRAIN_FACTOR, count_params, forward_flops
from vitmodel.recipes import resolve_recipe
from vitmodel.schedule import steps_of

DEFAULT_LANES = 64
BUNDLE_WORTH = 10  # a bundle's work is at least this many times the cost of launching its worker group


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training or evaluation: its identity, its configuration, and the facts that stand in its results row."""

    run_id: str
    config: RunConfig
    dataset: str  # the name in the study file
    length: str
    epochs: float
    params: int
    forward_flops: int
    train_flops: int
    pretrain_flops: int
    placement: Placement

    @property
    def examples_seen(self) -> int:
        return self.config.steps * (self.config.recipe.batch_size if self.config.recipe else 0)

    @property
    def label(self) -> str:
        """Short and readable: what a person calls this run."""
        kind = {"pretrain": self.length, "finetune": f"{self.epochs:g} epochs", "probe": f"{self.config.shots} shots"}
        size = f" {self.config.data.size:,}" if self.config.phase == "pretrain" else ""
        return f"{self.config.phase} {self.config.model.variant} {self.config.data.name}{size} {kind[self.config.phase]}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A pretraining and everything that starts from it."""

    pretrain: Run
    children: tuple[Run, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.pretrain, *self.children)

    @property
    def seconds(self) -> float:
        return sum(run.placement.seconds for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The cells that one Tune trial works through in one warm worker group."""

    bundle_id: str
    group: Group
    cells: tuple[Cell, ...]

    @property
    def seconds(self) -> float:
        return budget.LAUNCH_SECONDS + sum(cell.seconds for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cells of a study, longest first, and the folder of every dataset."""

    study: str
    cells: tuple[Cell, ...]
    datasets: dict[str, str]
    missing_indexes: tuple[str, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for cell in self.cells for run in cell.runs)


def make_plan(file: StudyFile, storage: Path) -> Plan:
    """All runs of a study. Raises UserError, with the line of what asks for something impossible."""
    planner = _Planner(file, storage)
    cells: dict[str, Cell] = {}
    for entry, size, length, seed in _points(file):
        cell = planner.cell(entry, size, length, seed)
        cells.setdefault(cell.pretrain.run_id, cell)
        limit = file.study.budget.max_runs
        if sum(len(c.runs) for c in cells.values()) > limit:
            raise file.tree.error("the study has more runs than its limit", ("budget", "max_runs"), f"up to {limit} runs")
    if not cells:
        raise file.tree.error("include and exclude leave no run", ("pretrain", "exclude"))
    ordered = sorted(cells.values(), key=lambda cell: (-cell.seconds, cell.pretrain.run_id))
    return Plan(
        study=file.study.name,
        cells=tuple(ordered),
        datasets={name: str(root) for name, root in planner.roots.items()},
        missing_indexes=tuple(planner.missing),
    )


def make_bundles(cells: tuple[Cell, ...], slots: dict[Group, int], mode: str = "auto") -> list[Bundle]:
    """Cells to worker groups, longest first onto the least loaded (Graham 1969): as many groups as run side by side,
    more only where each still has work for ten times its launch."""
    by_group: dict[Group, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_group[cell.pretrain.placement.group].append(cell)
    bundles = []
    for group, members in sorted(by_group.items()):
        worth = math.floor(sum(cell.seconds for cell in members) / (BUNDLE_WORTH * budget.LAUNCH_SECONDS))
        count = len(members) if mode == "cell" else min(len(members), max(slots[group], worth))
        loads: list[list[Cell]] = [[] for _ in range(count)]
        for cell in sorted(members, key=lambda cell: (-cell.seconds, cell.pretrain.run_id)):
            min(loads, key=lambda load: sum(c.seconds for c in load)).append(cell)
        bundles += [
            Bundle(bundle_id=f"{len(bundles) + i:04d}", group=group, cells=tuple(load)) for i, load in enumerate(loads)
        ]
    return sorted(bundles, key=lambda bundle: (-bundle.seconds, bundle.bundle_id))


# --- axes -----------------------------------------------------------------------------------------------------

Point = tuple[int, Size, Length, int]  # number of the model, size, length, seed


def _points(file: StudyFile) -> Iterator[Point]:
    """The axes combined: grid or zip, then include, then exclude."""
    study, pretrain = file.study, file.study.pretrain
    points = list(_zipped(file) if pretrain.combine == "zip" else _grid(file))
    for number, cut in enumerate(pretrain.include):
        points.append(_included(file, cut, number))
    for number, cut in enumerate(pretrain.exclude):
        kept = [point for point in points if not _matches(file, cut, point)]
        if len(kept) == len(points):
            raise file.tree.error("excludes nothing", ("pretrain", "exclude", number))
        points = kept
    yield from ((m, size, length, seed) for m, size, length, seed in points if seed in study.seeds or pretrain.include)


def _grid(file: StudyFile) -> Iterator[Point]:
    pretrain = file.study.pretrain
    for number, entry in enumerate(pretrain.models):
        for size in pretrain.sizes:
            for length in entry.lengths or pretrain.lengths:
                for seed in file.study.seeds:
                    yield number, size, length, seed


def _zipped(file: StudyFile) -> Iterator[Point]:
    pretrain = file.study.pretrain
    axes = {"models": range(len(pretrain.models)), "sizes": pretrain.sizes, "lengths": pretrain.lengths}
    longest = max(map(len, axes.values()))
    for name, axis in axes.items():
        if len(axis) not in (1, longest):
            raise file.tree.error(
                f"zip needs axes of equal length, {name} has {len(axis)}", ("pretrain", name), f"1 or {longest} values"
            )
    models, sizes, lengths = (list(axis) * (longest if len(axis) == 1 else 1) for axis in axes.values())  # type: ignore[call-overload]
    for number, size, length in zip(models, sizes, lengths, strict=True):
        for seed in file.study.seeds:
            yield number, size, length, seed


def _included(file: StudyFile, cut: Cut, number: int) -> Point:
    pretrain = file.study.pretrain
    variants = [entry.model.variant for entry in pretrain.models]
    place: Place = ("pretrain", "include", number)
    if cut.model not in variants or cut.size is None:
        raise file.tree.error("include names one model of the list and one size", place, ", ".join(variants))
    length = Length(epochs=cut.epochs) if cut.epochs is not None else pretrain.lengths[0]
    return variants.index(cut.model), cut.size, length, file.study.seeds[0] if cut.seed is None else cut.seed


def _matches(file: StudyFile, cut: Cut, point: Point) -> bool:
    number, size, length, seed = point
    asked = {"model": cut.model, "size": cut.size, "epochs": cut.epochs, "seed": cut.seed}
    has = {"model": file.study.pretrain.models[number].model.variant, "size": size, "epochs": length.epochs, "seed": seed}
    return all(value is None or value == has[axis] for axis, value in asked.items())


# --- runs -----------------------------------------------------------------------------------------------------


class _Planner:
    """Resolves one study's points to runs; keeps what it looked up about the datasets."""

    def __init__(self, file: StudyFile, storage: Path) -> None:
        self.file, self.study = file, file.study
        self.roots: dict[str, str] = {}
        self.missing: list[str] = []
        self._data: dict[str, tuple[str, int, int, str]] = {}  # identity, train samples, classes, split for evaluation
        for name, spec in self.study.datasets.items():
            self._data[name] = self._look_up(name, spec, storage)

    def cell(self, number: int, size: Size, length: Length, seed: int) -> Cell:
        entry = self.study.pretrain.models[number]
        place: Place = ("pretrain", "models", number)
        try:
            pretrain = self._pretrain(entry, size, length, seed)
        except UserError as error:
            raise self._placed(error, place, size) from None
        return Cell(pretrain=pretrain, children=tuple(self._children(entry, pretrain)))

    def _look_up(self, name: str, spec: Any, storage: Path) -> tuple[str, int, int, str]:
        if not isinstance(spec, ExternalData):
            self.roots[name] = str(storage / "data" / f"{name}-{generated.identity(spec)[-8:]}")
            return generated.identity(spec), generated.train_samples(spec), generated.classes(spec), generated.eval_split(spec)
        index = self._index(name, spec)
        identity = index.identity if index else f"declared-{name}-{spec.train}-{spec.classes}"
        return identity, spec.train, spec.classes, spec.eval_split

    def _index(self, name: str, spec: ExternalData) -> DatasetIndex | None:
        """The index of an external dataset, checked against its declaration; None, and noted, where it is not reachable."""
        place: Place = ("datasets", name, "url")
        try:
            root = Path(expand_environment(spec.url))
        except UserError:
            root = Path(spec.url)
        self.roots[name] = str(root)
        if not (root / INDEX_FILE).is_file():
            self.missing.append(name)
            return None
        try:
            index = load_index(root)
        except UserError as error:
            raise self.file.tree.error(f"{error.file}: {error.message}", place) from None
        train = index.splits["train"].samples if "train" in index.splits else 0
        if (train, index.classes) != (spec.train, spec.classes):
            raise self.file.tree.error(
                f"the index has {train} training images of {index.classes} classes, the study says {spec.train} of {spec.classes}",
                ("datasets", name),
            )
        if spec.eval_split not in index.splits:
            raise self.file.tree.error(f"no split {spec.eval_split}", ("datasets", name, "eval_split"), ", ".join(index.splits))
        return index

    def _pretrain(self, entry: ModelEntry, size: Size, length: Length, seed: int) -> Run:
        pretrain = self.study.pretrain
        identity, available, classes, eval_split = self._data[pretrain.data]
        images = resolve_size(size, available)
        check_image_size(entry.model, pretrain.resolution)
        recipe = _resolve(pretrain.recipe, entry, entry.recipe)
        config = RunConfig(
            phase="pretrain",
            model=entry.model,
            image_size=pretrain.resolution,
            classes=classes,
            data=self._data_ref(pretrain.data, images, recipe.batch_size),
            seed=seed,
            steps=steps_of(batch_size=recipe.batch_size, dataset_size=images, **length.model_dump()),
            recipe=self._with_precision(recipe),
        )
        group = budget.group_for(entry.model, pretrain.resolution, classes, recipe, self.study.resources)
        text = next(f"{value:g} {unit}" for unit, value in length.model_dump(exclude_none=True).items())
        return self._run(config, pretrain.data, group, text, config.steps * recipe.batch_size / images, 0)

    def _children(self, entry: ModelEntry, parent: Run) -> Iterator[Run]:
        transfer, probe = self.study.transfer, self.study.probe
        for number, task in enumerate(transfer.tasks if transfer else ()):
            for epochs in transfer.epochs if transfer else ():
                try:
                    yield self._finetune(entry, parent, task, epochs)
                except UserError as error:
                    raise self._placed(error, ("transfer", "tasks", number), None) from None
        for number, task in enumerate(probe.tasks if probe else ()):
            for shots in probe.shots if probe else ():
                if shots * self._data[task][2] > self._data[task][1]:
                    raise self.file.tree.error(f"{task} has fewer than {shots} images a class", ("probe", "shots"))
                yield self._probe(entry, parent, task, shots)

    def _finetune(self, entry: ModelEntry, parent: Run, task: str, epochs: float) -> Run:
        transfer = self.study.transfer
        assert transfer is not None
        _, train, classes, _ = self._data[task]
        recipe = _resolve(transfer.recipe, entry, transfer.task_recipes.get(task, RecipeSpec()))
        resolution = entry.finetune_resolution or transfer.resolution
        check_image_size(entry.model, resolution)
        config = RunConfig(
            phase="finetune",
            model=entry.model,
            image_size=resolution,
            classes=classes,
            data=self._data_ref(task, train, recipe.batch_size),
            seed=parent.config.seed,
            parent=parent.run_id,
            steps=steps_of(batch_size=recipe.batch_size, dataset_size=train, epochs=epochs),
            recipe=self._with_precision(recipe),
        )
        return self._run(config, task, parent.placement.group, f"{epochs:g} epochs", epochs, parent.train_flops)

    def _probe(self, entry: ModelEntry, parent: Run, task: str, shots: int) -> Run:
        _, train, classes, _ = self._data[task]
        config = RunConfig(
            phase="probe",
            model=entry.model,
            image_size=parent.config.image_size,
            classes=classes,
            data=self._data_ref(task, train, 1),
            seed=parent.config.seed,
            parent=parent.run_id,
            shots=shots,
        )
        return self._run(config, task, parent.placement.group, f"{shots} shots", 0.0, parent.train_flops)

    def _run(self, config: RunConfig, dataset: str, group: Group, length: str, epochs: float, pretrain_flops: int) -> Run:
        forward = forward_flops(config.model, config.image_size, config.classes)
        examples = config.steps * (config.recipe.batch_size if config.recipe else 0)
        flops = TRAIN_FACTOR * forward * examples
        work = flops or forward * (config.classes * (config.shots or 0) + 1000)
        return Run(
            run_id=run_id(config),
            config=config,
            dataset=dataset,
            length=length,
            epochs=epochs,
            params=count_params(config.model, config.image_size, config.classes),
            forward_flops=forward,
            train_flops=flops,
            pretrain_flops=pretrain_flops or (flops if config.phase == "pretrain" else 0),
            placement=budget.place(config, group, self.study.resources, work),
        )

    def _data_ref(self, name: str, size: int, batch_size: int) -> DataRef:
        pretrain = self.study.pretrain
        lanes = pretrain.lanes if pretrain.lanes and name == pretrain.data else math.gcd(batch_size, DEFAULT_LANES)
        if lanes > size:
            raise UserError(f"{lanes} lanes need at least as many images, not {size}", field="lanes")
        return DataRef(
            name=name,
            identity=self._data[name][0],
            size=size,
            lanes=lanes,
            window=pretrain.window,
            eval_split=self._data[name][3],
        )

    def _with_precision(self, recipe: Recipe) -> Recipe:
        """`auto` decided by the device: it changes the numbers, so it belongs to the identity."""
        if recipe.precision != "auto":
            return recipe
        is_gpu = budget.device_of(self.study.resources).is_gpu
        return recipe.model_copy(update={"precision": "bf16" if is_gpu else "fp32"})

    def _placed(self, error: UserError, place: Place, size: Size | None) -> UserError:
        """The error with the line of whatever asked for it."""
        pretrain = self.study.pretrain
        if size is not None and error.message.startswith("size "):
            place = ("pretrain", "sizes", pretrain.sizes.index(size) if size in pretrain.sizes else 0)
        elif error.field == "lanes":
            place = ("pretrain", "lanes") if pretrain.lanes else ("resources", "workers")
        elif error.field == "resources":
            place = ("resources",)
        elif error.message.startswith(("unknown recipe", "recipe ")):
            place = (place[0], "recipe")
        return self.file.tree.error(error.message, place, error.allowed)


def _resolve(recipe: RecipeSpec | FamilyRecipes, entry: ModelEntry, own: RecipeSpec) -> Recipe:
    """The section's recipe for this family, then what a model or task has of its own."""
    base = recipe if isinstance(recipe, RecipeSpec) else getattr(recipe, entry.model.family)
    if base is None:
        raise UserError(f"recipe has none for family {entry.model.family}", allowed="vit, resnet")
    preset = own.preset or base.preset
    if preset is None:
        raise UserError("recipe needs a preset", field="recipe")
    return resolve_recipe(preset, entry.model, {**base.overrides(), **own.overrides()})


# --- as text --------------------------------------------------------------------------------------------------


def naive_flops(plan: Plan) -> int:
    """Training FLOPs of the same grid where every fine-tune and probe pretrains for itself."""
    return sum(
        run.train_flops + (cell.pretrain.train_flops if run is not cell.pretrain else 0)
        for cell in plan.cells
        for run in (cell.children or (cell.pretrain,))
    )


def totals(plan: Plan, bundles: list[Bundle]) -> dict[str, Any]:
    """What the whole plan amounts to."""
    flops = sum(run.train_flops for run in plan.runs)
    gpu_seconds = sum(run.placement.seconds * run.placement.group.workers * run.placement.group.gpus_per_worker for run in plan.runs)
    core_seconds = sum(run.placement.seconds * run.placement.group.workers * run.placement.group.cpus_per_worker for run in plan.runs)
    return {
        "runs": len(plan.runs),
        "cells": len(plan.cells),
        "bundles": len(bundles),
        "train_flops": flops,
        "naive_train_flops": naive_flops(plan),
        "sharing_saves": round(naive_flops(plan) / flops, 3),
        "gpu_hours": round(gpu_seconds / 3600, 4),
        "core_hours": round(core_seconds / 3600, 4),
        "largest_memory_bytes": max(run.placement.memory_bytes for run in plan.runs),
    }


def plan_as_data(plan: Plan, bundles: list[Bundle]) -> dict[str, Any]:
    """The plan as plain data: stable from call to call, byte for byte."""
    return {
        "study": plan.study,
        "totals": totals(plan, bundles),
        "datasets": plan.datasets,
        "missing_indexes": list(plan.missing_indexes),
        "bundles": [
            {
                "bundle_id": bundle.bundle_id,
                "group": asdict(bundle.group),
                "seconds": round(bundle.seconds, 1),
                "cells": [cell.pretrain.run_id for cell in bundle.cells],
            }
            for bundle in bundles
        ],
        "runs": [run_facts(run) for run in plan.runs],
    }


def run_facts(run: Run) -> dict[str, Any]:
    """The part of a run's results row that is known before it runs, and its placement."""
    config = run.config
    placement = asdict(run.placement)
    return {
        "run_id": run.run_id,
        "parent_id": config.parent,
        "phase": config.phase,
        "family": config.model.family,
        "variant": config.model.variant,
        "params": run.params,
        "forward_flops": run.forward_flops,
        "dataset": run.dataset,
        "dataset_size": config.data.size,
        "length": run.length,
        "epochs": round(run.epochs, 4),
        "steps": config.steps,
        "examples_seen": run.examples_seen,
        "train_flops": run.train_flops,
        "pretrain_flops": run.pretrain_flops,
        "resolution": config.image_size,
        "shots": config.shots,
        "seed": config.seed,
        "label": run.label,
        "placement": {**placement, "seconds": round(run.placement.seconds, 1)},
    }
