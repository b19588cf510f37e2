"""Recipes of a study as an axis: a recipe key with a list of values makes one recipe for each value.

Knows the study's recipe keys and the presets. A recipe that does not fit its model is refused when the study is planned.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from orchestrator.spec.pretrain import FamilyRecipes, ModelEntry, RecipeSpec
from vitmodel.config.base import UserError
from vitmodel.config.families.encoder import EncoderConfig
from vitmodel.config.models import FAMILIES, ModelConfig
from vitmodel.config.presets import PRESETS, resolve_recipe
from vitmodel.config.recipe import Recipe


class Choice(NamedTuple):
    """One recipe of an axis. `label` distinguishes it from the others: `weight_decay=0.1`; empty where it is the only one."""

    label: str
    keys: tuple[tuple[str, Any], ...]  # preset and the keys that the study states


def choices(
    section: RecipeSpec | FamilyRecipes, family: str, *overrides: RecipeSpec, names: RecipeSpec | None = None
) -> list[Choice]:
    """All recipes of a model of this family, one for each combination of listed values.

    `overrides`: keys of a model, an objective or a task, which override the section's; the last one has precedence, and one
    with another preset replaces all keys before it. `names`: the keys of a model that is listed several times, which become
    part of the label. Raises UserError where the section has no recipe for the family, or no preset.
    """
    base = section if isinstance(section, RecipeSpec) else section.of(family)
    if base is None:
        allowed = f"one recipe for all models, or one for each of the families {', '.join(FAMILIES)}"
        example = f"{family}: {{preset: vit_finetune}}"
        raise UserError(f"no recipe for family {family}", field="recipe", allowed=allowed, example=example)
    keys: dict[str, Any] = {}
    for spec in (base, *overrides):
        inherited = keys if spec.preset in (None, keys.get("preset")) else {}
        keys = {**inherited, **spec.given()}
    if "preset" not in keys:
        raise UserError("the recipe has no preset", field="recipe", allowed=", ".join(PRESETS), example="preset: augreg")
    axes = {name: value if isinstance(value, tuple) else (value,) for name, value in keys.items()}
    named = [name for name in axes if len(axes[name]) > 1 or (names is not None and name in names.given())]
    combinations = [tuple(zip(axes, values, strict=True)) for values in product(*axes.values())]
    return [Choice(" ".join(f"{name}={_text(dict(keys)[name])}" for name in named), keys) for keys in combinations]


def resolve(choice: Choice, model: ModelConfig, examples: int) -> Recipe:
    """The recipe of this choice for one model and a number of training images.

    Raises UserError where the model or the batch does not support it.
    """
    keys = dict(choice.keys)
    recipe = resolve_recipe(keys.pop("preset"), model, keys, examples=examples)
    if recipe.stochastic_depth and not isinstance(model, EncoderConfig):
        raise UserError(f"{model.family} has no stochastic depth", field="recipe", allowed="stochastic_depth: 0")
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size < 2:
        raise UserError("mixup and cutmix need two images in a batch", field="recipe", allowed="batch_size of 2 or more")
    return recipe


def is_repeated(entry: ModelEntry, entries: tuple[ModelEntry, ...]) -> bool:
    """Whether another model of the list has the same name."""
    return sum(other.model.variant == entry.model.variant for other in entries) > 1


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
