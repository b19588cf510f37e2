"""From one grid point of a study to its cell: the pretraining, or the import in its place, and all runs that start from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from orchestrator.plan import budget
from orchestrator.plan.axes import GridPoint
from orchestrator.plan.datasets import PLANNING, look_up_datasets
from orchestrator.plan.devices import device_of
from orchestrator.plan.fingerprint import run_id
from orchestrator.plan.recipes import Choice, choices, resolve
from orchestrator.plan.runs import Cell, Run, WorkerGroup
from orchestrator.spec.pretrain import InitFile, ModelEntry, ObjectiveEntry, RecipeSpec
from orchestrator.spec.study import StudyFile, resolve_size
from orchestrator.spec.values import Size
from orchestrator.spec.yamltree import Place
from vitmodel.config.base import UserError
from vitmodel.config.families.encoder import EncoderConfig
from vitmodel.config.hyperrule import bit_hyperrule, hyperrule_resolution
from vitmodel.config.models import ModelConfig, check_image_size
from vitmodel.config.recipe import Recipe
from vitmodel.config.run import DataRef, RunConfig
from vitmodel.config.schedule import steps_of
from vitmodel.data.remote import RetryPolicy
from vitmodel.flops.count import TRAIN_FACTOR, count_params, forward_flops
from vitmodel.flops.objectives import check_objective, complete

DEFAULT_LANES = 64
IMPORTED = "imported"  # in place of the dataset and the length of an unknown pretraining


class Planner:
    """Resolves the grid points of one study to runs."""

    def __init__(self, file: StudyFile, storage: Path, retry_policy: RetryPolicy = PLANNING) -> None:
        self.file, self.study = file, file.study
        self.data = look_up_datasets(file, storage, retry_policy)

    def cell(self, point: GridPoint) -> Cell:
        entry = self.study.pretrain.models[point.model]
        place: Place = ("pretrain", "models", point.model)
        try:
            if entry.init:
                pretrain = self._import(entry, entry.init)
            else:
                pretrain = self._pretrain(entry, self.study.pretrain.objective[point.objective], point)
        except UserError as error:
            raise self._placed(error, place, point.size, entry.model.family, point.objective) from None
        return Cell(pretrain=pretrain, children=tuple(self._children(entry, pretrain, point.seed)))

    def _import(self, entry: ModelEntry, file: InitFile) -> Run:
        """Weights from a file in place of a pretraining: nothing is trained, and the cost of the pretraining is unknown."""
        transfer, model = self.study.transfer, entry.model
        config = RunConfig(
            phase="import",
            model=model,
            image_size=file.image_size,
            classes=file.classes,
            data=DataRef(name=Path(file.path).name, identity=file.identity, size=0, lanes=1, window=1, eval_split=""),
            seed=0,
        )
        tasks = transfer.tasks if transfer else ()
        first = choices(transfer.recipe, model.family)[0] if transfer else Choice("", (("preset", "vit_finetune"),))
        pixels = max([file.image_size, *(entry.finetune_resolution or self._resolution(task) for task in tasks)])
        recipe = resolve(first, model, self.data[tasks[0]].train if tasks else 1)
        group = budget.group_for(model, pixels, file.classes, recipe, self.study.resources)
        return replace(self._run(config, group, IMPORTED, 0.0), dataset=IMPORTED, source=file.path)

    def _pretrain(self, entry: ModelEntry, objective_entry: ObjectiveEntry, point: GridPoint) -> Run:
        pretrain = self.study.pretrain
        source = self.data[pretrain.data]
        images = resolve_size(point.size, source.train)
        check_image_size(entry.model, pretrain.resolution)
        recipe = resolve(point.recipe, entry.model, images)
        objective = complete(objective_entry.objective, entry.model)
        check_objective(objective, entry.model, pretrain.resolution, recipe)
        config = RunConfig(
            phase="pretrain",
            model=entry.model,
            image_size=pretrain.resolution,
            classes=source.classes,
            objective=objective,
            data=self._data_ref(pretrain.data, images, recipe),
            seed=point.seed,
            steps=steps_of(batch_size=recipe.batch_size, dataset_size=images, **point.length.model_dump()),
            recipe=self._with_precision(recipe),
        )
        group = budget.group_for(
            entry.model, pretrain.resolution, source.classes, recipe, self.study.resources, objective=objective
        )
        text = next(f"{value:g} {unit}" for unit, value in point.length.model_dump(exclude_none=True).items())
        run = self._run(config, group, text, config.steps * recipe.batch_size / images)
        label = point.recipe.label
        return replace(run, variant=f"{run.variant} {label}".rstrip(), recipe=label)

    def _children(self, entry: ModelEntry, parent: Run, seed: int) -> Iterator[Run]:
        transfer, probe = self.study.transfer, self.study.probe
        for number, task in enumerate(transfer.tasks if transfer else ()):
            try:
                yield from self._finetunes(entry, parent, task, seed)
            except UserError as error:
                place: Place = ("transfer", "tasks", number)
                raise self._placed(error, place, parent.config.data.size, entry.model.family) from None
        for task in probe.tasks if probe else ():
            for shots in probe.shots if probe else ():
                if shots * self.data[task].classes > self.data[task].train:
                    raise self.file.tree.error(f"{task} has fewer than {shots} images per class", ("probe", "shots"))
                yield self._probe(entry, parent, task, shots, seed)

    def _finetunes(self, entry: ModelEntry, parent: Run, task: str, seed: int) -> Iterator[Run]:
        transfer = self.study.transfer
        assert transfer is not None
        of_task = transfer.task_recipes.get(task, RecipeSpec())
        for choice in choices(transfer.recipe, entry.model.family, of_task):
            for epochs in transfer.epochs:
                recipe = resolve(choice, entry.model, self.data[task].train)
                run = self._finetune(entry, parent, task, epochs, recipe=recipe, seed=seed)
                yield replace(run, recipe=choice.label)

    def _finetune(self, entry: ModelEntry, parent: Run, task: str, epochs: float | str, *, recipe: Recipe, seed: int) -> Run:
        data = self.data[task]
        resolution = entry.finetune_resolution or self._resolution(task)
        check_image_size(entry.model, resolution)
        given = None if epochs == "hyperrule" else float(epochs)
        steps = bit_hyperrule(data.train).steps if given is None else None
        config = RunConfig(
            phase="finetune",
            model=_without_pre_logits(entry.model),
            image_size=resolution,
            classes=data.classes,
            data=self._data_ref(task, data.train, recipe),
            seed=seed,
            parent=parent.run_id,
            steps=steps_of(batch_size=recipe.batch_size, dataset_size=data.train, epochs=given, steps=steps),
            recipe=self._with_precision(recipe),
        )
        epochs = config.steps * recipe.batch_size / data.train if given is None else given
        text = f"{epochs:g} epochs" if given is not None else f"{steps} steps"
        return self._run(config, parent.placement.group, text, epochs, parent)

    def _resolution(self, task: str) -> int:
        """Pixels per side of fine-tuning on a task."""
        transfer, image_size = self.study.transfer, self.data[task].image_size
        assert transfer is not None
        if transfer.resolution != "hyperrule":
            return transfer.resolution
        if image_size is None:
            raise UserError(f"the hyper-rule needs the size of {task}'s images; state its image_size", field="resolution")
        return hyperrule_resolution(image_size)

    def _probe(self, entry: ModelEntry, parent: Run, task: str, shots: int, seed: int) -> Run:
        data = self.data[task]
        config = RunConfig(
            phase="probe",
            model=entry.model,
            image_size=parent.config.image_size,
            classes=data.classes,
            data=self._data_ref(task, data.train, None),
            seed=seed,
            parent=parent.run_id,
            shots=shots,
        )
        return self._run(config, parent.placement.group, f"{shots} shots", 0.0, parent)

    def _run(self, config: RunConfig, group: WorkerGroup, length: str, epochs: float, parent: Run | None = None) -> Run:
        forward = forward_flops(config.model, config.image_size, config.classes, config.objective)
        examples = config.steps * (config.recipe.batch_size if config.recipe else 0)
        flops = TRAIN_FACTOR * forward * examples
        work = flops or forward * (config.classes * (config.shots or 0) + 1000)
        return Run(
            run_id=run_id(config),
            config=config,
            variant=parent.variant if parent else config.model.variant,
            recipe="",
            dataset=config.data.name,
            length=length,
            epochs=epochs,
            params=count_params(config.model, config.image_size, config.classes, config.objective),
            forward_flops=forward,
            train_flops=flops,
            pretrain_flops=parent.pretrain_flops if parent else None if config.phase == "import" else flops,
            placement=budget.place(config, group, self.study.resources, work),
        )

    def _data_ref(self, name: str, size: int, recipe: Recipe | None) -> DataRef:
        pretrain = self.study.pretrain
        lanes = pretrain.lanes if pretrain.lanes and name == pretrain.data else _default_lanes(recipe)
        if lanes > size:
            raise UserError(f"{lanes} lanes need at least as many images, not {size}", field="lanes")
        if recipe and (recipe.mixup or recipe.cutmix) and recipe.batch_size < 2 * lanes:
            raise UserError(
                f"mixup and cutmix pair images of one lane, but a batch of {recipe.batch_size} has one image for each of "
                f"{lanes} lanes",
                field="lanes",
                allowed=f"{recipe.batch_size // 2} lanes or fewer",
            )
        is_subset = name == pretrain.data and size < self.data[name].train
        return DataRef(
            name=name,
            identity=self.data[name].identity,
            size=size,
            subset_seed=pretrain.subset_seed if is_subset else None,
            lanes=lanes,
            window=pretrain.window,
            eval_split=self.data[name].eval_split,
        )

    def _with_precision(self, recipe: Recipe) -> Recipe:
        """`precision: auto` resolved by the device. It changes the numbers, so it is part of the identity."""
        if recipe.precision != "auto":
            return recipe
        is_gpu = device_of(self.study.resources).is_gpu
        return recipe.model_copy(update={"precision": "bf16" if is_gpu else "fp32"})

    def _placed(self, error: UserError, place: Place, size: Size, family: str, objective: int = 0) -> UserError:
        """The error with the line of the key that caused it: by the error's field, else the place that was being planned."""
        pretrain = self.study.pretrain
        places: dict[str, Place] = {
            "sizes": ("pretrain", "sizes", pretrain.sizes.index(size) if size in pretrain.sizes else 0),
            "lanes": ("pretrain", "lanes") if pretrain.lanes else ("resources", "workers"),
            "resources": ("resources",),
            "resolution": ("transfer", "resolution"),
            "recipe": (place[0], "recipe", family),
            "objective": ("pretrain", "objective", objective),
        }
        section, _, key = error.field.partition(".")  # recipe.lr: the key of a recipe
        where = (*places.get(section, place), key) if key else places.get(section, place)
        return self.file.tree.error(error.message, where, error.allowed, example=error.example)


def _default_lanes(recipe: Recipe | None) -> int:
    """The greatest common divisor of the batch and 64; half of it where images are mixed and a lane would have only one."""
    if recipe is None:
        return 1
    lanes = math.gcd(recipe.batch_size, DEFAULT_LANES)
    is_alone = lanes == recipe.batch_size and (recipe.mixup or recipe.cutmix)
    return lanes // 2 if is_alone else lanes


def _without_pre_logits(model: ModelConfig) -> ModelConfig:
    """The model without the tanh layer before its head: transfer removes the whole pretrained head (paper, section 3.2)."""
    return model.model_copy(update={"pre_logits": 0}) if isinstance(model, EncoderConfig) else model
