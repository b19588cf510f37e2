"""The axes of a study, combined to grid points: grid or zip, then include, then exclude. Knows values, not runs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from orchestrator.plan.recipes import Choice, choices, is_repeated
from orchestrator.spec.pretrain import Cut, Length
from orchestrator.spec.study import StudyFile
from orchestrator.spec.values import Size
from orchestrator.spec.yamltree import Place
from vitmodel.config.base import UserError


class GridPoint(NamedTuple):
    """One value of every axis; models and objectives by their index in the study."""

    model: int
    objective: int
    recipe: Choice
    size: Size
    length: Length
    seed: int


IMPORT_AXES = (Choice("", ()), "all", Length.model_construct())  # of imported weights: recipe, size and length are unknown


def points(file: StudyFile) -> list[GridPoint]:
    """All grid points of a study. Raises UserError where `zip`, `include` or `exclude` does not fit the axes."""
    pretrain = file.study.pretrain
    selected = list(_zipped(file) if pretrain.combine == "zip" else _grid(file))
    for number, cut in enumerate(pretrain.include):
        selected.append(_included(file, cut, number))
    for number, cut in enumerate(pretrain.exclude):
        remaining = [point for point in selected if not _matches(file, cut, point)]
        if len(remaining) == len(selected):
            message = "this entry excludes nothing; write values as in the axes, or remove it"
            raise file.tree.error(message, ("pretrain", "exclude", number))
        selected = remaining
    return selected


def recipes_at(file: StudyFile, model: int, objective: int) -> list[Choice]:
    """The recipes of a model under an objective, both by their index in the study. Raises UserError where there is none."""
    pretrain = file.study.pretrain
    entry, of_objective = pretrain.models[model], pretrain.objective[objective].recipe
    names = entry.recipe if is_repeated(entry, pretrain.models) else None
    try:
        return choices(pretrain.recipe, entry.model.family, entry.recipe, of_objective, names=names)
    except UserError as error:
        place: Place = ("pretrain", "recipe", entry.model.family)
        raise file.tree.error(error.message, place, error.allowed, example=error.example) from None


def _grid(file: StudyFile) -> Iterator[GridPoint]:
    pretrain = file.study.pretrain
    for number, entry in enumerate(pretrain.models):
        if entry.init:
            yield from (GridPoint(number, 0, *IMPORT_AXES, seed) for seed in file.study.seeds)
            continue
        for index, objective in enumerate(pretrain.objective):
            lengths = objective.lengths or entry.lengths or pretrain.lengths
            for values in product(recipes_at(file, number, index), pretrain.sizes, lengths, file.study.seeds):
                yield GridPoint(number, index, *values)


def _zipped(file: StudyFile) -> Iterator[GridPoint]:
    pretrain = file.study.pretrain
    axes = {
        "models": pretrain.models,
        "objective": pretrain.objective,
        "sizes": pretrain.sizes,
        "lengths": pretrain.lengths,
    }
    counts = {name: len(values) or 1 for name, values in axes.items()}
    longest = max(counts.values())
    for name, count in counts.items():
        if count not in (1, longest):
            raise file.tree.error(
                f"zip needs axes of the same length, but {name} has {count} values",
                ("pretrain", name),
                f"1 or {longest} values",
            )
    for number in range(longest):  # an axis of one value has it everywhere
        indices = {name: number % count for name, count in counts.items()}
        model, objective = indices["models"], indices["objective"]
        if pretrain.models[model].init:
            yield from (GridPoint(model, 0, *IMPORT_AXES, seed) for seed in file.study.seeds)
            continue
        size, length = pretrain.sizes[indices["sizes"]], pretrain.lengths[indices["lengths"]]
        for recipe in recipes_at(file, model, objective):
            for seed in file.study.seeds:
                yield GridPoint(model, objective, recipe, size, length, seed)


def _included(file: StudyFile, cut: Cut, number: int) -> GridPoint:
    pretrain = file.study.pretrain
    variants = [entry.model.variant for entry in pretrain.models]
    place: Place = ("pretrain", "include", number)
    if cut.model not in variants or cut.size is None:
        message = "an entry of include needs a model of the study and a size"
        raise file.tree.error(message, place, f"model: {', '.join(variants)}", example=f"{{model: {variants[0]}, size: all}}")
    if pretrain.models[variants.index(cut.model)].init:
        raise file.tree.error("a model with imported weights has no size and cannot be included", place)
    kinds = [entry.objective.kind for entry in pretrain.objective]
    objective = cut.objective or kinds[0]
    if objective not in kinds:
        raise file.tree.error(f"objective {objective} is not one of the study", (*place, "objective"), ", ".join(kinds))
    length = Length(epochs=cut.epochs) if cut.epochs is not None else pretrain.lengths[0]
    seed = file.study.seeds[0] if cut.seed is None else cut.seed
    index = kinds.index(objective)
    numbers = [number for number, variant in enumerate(variants) if variant == cut.model]
    recipes = [(number, recipe) for number in numbers for recipe in recipes_at(file, number, index)]
    matches = [(number, recipe) for number, recipe in recipes if cut.recipe in (None, recipe.label)]
    if not matches:
        allowed = ", ".join(recipe.label for _, recipe in recipes if recipe.label) or "no recipe: the study has one recipe"
        raise file.tree.error(f"unknown recipe {cut.recipe!r}", (*place, "recipe"), allowed)
    model, recipe = matches[0]
    return GridPoint(model, index, recipe, cut.size, length, seed)


def _matches(file: StudyFile, cut: Cut, point: GridPoint) -> bool:
    pretrain = file.study.pretrain
    entry = pretrain.models[point.model]
    values = {
        "model": entry.model.variant,
        "objective": pretrain.objective[point.objective].objective.kind,
        "recipe": point.recipe.label,
        "size": None if entry.init else point.size,
        "epochs": point.length.epochs,
        "seed": point.seed,
    }
    return all(value is None or value == values[axis] for axis, value in cut.model_dump().items())
