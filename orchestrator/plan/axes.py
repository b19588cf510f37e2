"""The axes of a study combined: grid or zip, then include, then exclude. Knows values, not runs."""

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
    """One value of every axis; models and objectives by their number in the study."""

    model: int
    objective: int
    recipe: Choice
    size: Size
    length: Length
    seed: int


IMPORT_AXES = (Choice("", ()), "all", Length.model_construct())  # of imported weights: recipe, size and length are unknown


def points(file: StudyFile) -> list[GridPoint]:
    """The axes combined: grid or zip, then include, then exclude."""
    pretrain = file.study.pretrain
    found = list(_zipped(file) if pretrain.combine == "zip" else _grid(file))
    for number, cut in enumerate(pretrain.include):
        found.append(_included(file, cut, number))
    for number, cut in enumerate(pretrain.exclude):
        kept = [point for point in found if not _matches(file, cut, point)]
        if len(kept) == len(found):
            raise file.tree.error("excludes nothing", ("pretrain", "exclude", number))
        found = kept
    return found


def recipes_at(file: StudyFile, model: int, objective: int) -> list[Choice]:
    """The recipes of a model under an objective, both by their number in the study. Raises UserError where there is none."""
    pretrain = file.study.pretrain
    entry, its = pretrain.models[model], pretrain.objective[objective]
    names = entry.recipe if is_repeated(entry, pretrain.models) else None
    try:
        return choices(pretrain.recipe, entry.model.family, entry.recipe, its.recipe, names=names)
    except UserError as error:
        place: Place = ("pretrain", "recipe", entry.model.family)
        raise file.tree.error(error.message, place, error.allowed) from None


def _grid(file: StudyFile) -> Iterator[GridPoint]:
    pretrain = file.study.pretrain
    for number, entry in enumerate(pretrain.models):
        if entry.init:
            yield from (GridPoint(number, 0, *IMPORT_AXES, seed) for seed in file.study.seeds)
            continue
        for objective, its in enumerate(pretrain.objective):
            lengths = its.lengths or entry.lengths or pretrain.lengths
            rest = (recipes_at(file, number, objective), pretrain.sizes, lengths, file.study.seeds)
            for values in product(*rest):
                yield GridPoint(number, objective, *values)


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
                f"zip needs axes of equal length, {name} has {count}", ("pretrain", name), f"1 or {longest} values"
            )
    for i in range(longest):  # an axis of one value keeps it throughout
        at = {name: i % count for name, count in counts.items()}
        if pretrain.models[at["models"]].init:
            yield from (GridPoint(at["models"], 0, *IMPORT_AXES, seed) for seed in file.study.seeds)
            continue
        size, length = pretrain.sizes[at["sizes"]], pretrain.lengths[at["lengths"]]
        for recipe in recipes_at(file, at["models"], at["objective"]):
            for seed in file.study.seeds:
                yield GridPoint(at["models"], at["objective"], recipe, size, length, seed)


def _included(file: StudyFile, cut: Cut, number: int) -> GridPoint:
    pretrain = file.study.pretrain
    variants = [entry.model.variant for entry in pretrain.models]
    place: Place = ("pretrain", "include", number)
    if cut.model not in variants or cut.size is None:
        raise file.tree.error("include names one model of the list and one size", place, ", ".join(variants))
    if pretrain.models[variants.index(cut.model)].init:
        raise file.tree.error("imported weights have no size to include", place)
    kinds = [entry.objective.kind for entry in pretrain.objective]
    objective = cut.objective or kinds[0]
    if objective not in kinds:
        raise file.tree.error(f"no objective {objective} in the list", (*place, "objective"), ", ".join(kinds))
    length = Length(epochs=cut.epochs) if cut.epochs is not None else pretrain.lengths[0]
    seed = file.study.seeds[0] if cut.seed is None else cut.seed
    its = kinds.index(objective)
    found = [(i, recipe) for i, variant in enumerate(variants) if variant == cut.model for recipe in recipes_at(file, i, its)]
    chosen = [(i, recipe) for i, recipe in found if cut.recipe in (None, recipe.label)]
    if not chosen:
        allowed = ", ".join(recipe.label for _, recipe in found)
        raise file.tree.error(f"no recipe {cut.recipe!r}", (*place, "recipe"), allowed)
    return GridPoint(chosen[0][0], its, chosen[0][1], cut.size, length, seed)


def _matches(file: StudyFile, cut: Cut, point: GridPoint) -> bool:
    pretrain = file.study.pretrain
    entry = pretrain.models[point.model]
    has = {
        "model": entry.model.variant,
        "objective": pretrain.objective[point.objective].objective.kind,
        "recipe": point.recipe.label,
        "size": None if entry.init else point.size,
        "epochs": point.length.epochs,
        "seed": point.seed,
    }
    return all(value is None or value == has[axis] for axis, value in cut.model_dump().items())
