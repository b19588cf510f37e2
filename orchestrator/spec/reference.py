"""The reference page of the study file, docs/reference.md: every key, preset and model family, as the schema defines them.

Meanings are the attribute docstrings of the models; types, defaults, allowed values and examples come from their annotations.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from annotated_types import MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.spec import values
from orchestrator.spec.claims import Claims, Import, Target
from orchestrator.spec.data_policy import SkipBad
from orchestrator.spec.fault_tolerance import Checkpoint, OnFailure, Retries, StopAfter, Workers
from orchestrator.spec.forms import allowed, example_of, yaml_text
from orchestrator.spec.integrations import Notify, Tracking
from orchestrator.spec.kinds import Kind, keys_of, kind_of
from orchestrator.spec.pretrain import Cut, Length, ModelEntry, ObjectiveEntry, Pretrain, Probe, RecipeSpec, Transfer
from orchestrator.spec.references import NEEDED
from orchestrator.spec.schema import Budget, ExternalData, Report, Resources, Storage, Study
from vitmodel.config import hyperrule
from vitmodel.config.models import FAMILIES
from vitmodel.config.objectives import Mae, MaeDecoder, MaskedPatch, Supervised
from vitmodel.config.presets import JFT_LEARNING_RATES, PRESETS
from vitmodel.config.recipe import Recipe
from vitmodel.data.generated import DigitsConfig, FractalConfig

COMMAND = "vitscale reference > docs/reference.md"
# heading: the path of its keys, and the models that have them
SECTIONS: dict[str, tuple[tuple[str, type[BaseModel]], ...]] = {
    "Datasets": (
        ("datasets.NAME.", ExternalData),
        ("datasets.NAME.", FractalConfig),
        ("datasets.NAME.", DigitsConfig),
    ),
    "Pretraining": (
        ("pretrain.", Pretrain),
        ("pretrain.lengths[].", Length),
        ("pretrain.include[].", Cut),
    ),
    "Transfer and probes": (("transfer.", Transfer), ("probe.", Probe)),
    "Resources": (
        ("resources.", Resources),
        ("resources.workers.", Workers),
        ("resources.checkpoint.", Checkpoint),
    ),
    "Limits and failures": (
        ("budget.", Budget),
        ("on_failure.", OnFailure),
        ("on_failure.retries.", Retries),
        ("on_failure.then.", StopAfter),
        ("on_bad_sample.", SkipBad),
    ),
    "Storage, tracking, notifications": (("storage.", Storage), ("tracking.", Tracking), ("notify.", Notify)),
    "Results": (("report.", Report), ("imports[].", Import), ("claims.", Claims), ("targets[].", Target)),
}
OBJECTIVES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("pretrain.objective.", ObjectiveEntry),
    ("pretrain.objective.", Supervised),
    ("pretrain.objective.", MaskedPatch),
    ("pretrain.objective.", Mae),
    ("pretrain.objective.decoder.", MaeDecoder),
)


def reference_page() -> str:
    """The whole page as Markdown."""
    parts = [
        "# Reference of the study file",
        f"Generated from the schema by `{COMMAND}`; do not edit. How sections work together: [study.md](study.md).",
        "Unknown keys are errors. `[]` stands for an entry of a list, `NAME` and `TASK` for a name that you choose.",
        _values(),
        "## Sections",
        _table("", Study),
        *_sections(),
        *_models(),
        *_objectives(),
        *_recipes(),
        *_presets(),
    ]
    return "\n\n".join(parts) + "\n"


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What each field of a model means: its description, or the docstring below it."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base.__module__.split(".")[0] in ("orchestrator", "vitmodel"):
            texts |= _docstrings(base)
    described = {name: field.description for name, field in model.model_fields.items() if field.description}
    return texts | described


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    except (OSError, SyntaxError):  # made by create_model: it has descriptions
        return {}
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if is_field and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            texts[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[attr-defined]
    return texts


def _values() -> str:
    kinds = [item for item in vars(values).values() if _is_written(item)]
    rows = [(item.noun, item.forms, f"`{item.example}`") for kind in kinds if (item := kind_of(kind).written)]
    length = Length.written
    rows.append((length.noun, length.forms, f"`{length.example}`"))
    return "## Values\n\n" + _markdown(("value", "written as", "example"), rows)


def _is_written(item: Any) -> bool:
    written = kind_of(item).written if get_args(item) else None
    return written is not None and not written.choices


def _sections() -> Iterator[str]:
    for heading, models in SECTIONS.items():
        yield f"## {heading}"
        for path, model in models:
            yield _described(model)
            yield _table(path, model)


def _models() -> Iterator[str]:
    names = ", ".join(family.name_forms for family in FAMILIES.values())
    yield "## Models"
    yield f"An entry of `pretrain.models` is {ModelEntry.written.forms}. Names: {names}; [models.md](models.md) lists them."
    yield "`{model: NAME, KEY: VALUE}` changes keys of a named model. Every entry may also have these keys:"
    yield _table("pretrain.models[].", ModelEntry)
    for name, family in FAMILIES.items():
        yield f"### Family {name}"
        yield _described(family.config)
        yield _table("pretrain.models[].", family.config)


def _objectives() -> Iterator[str]:
    yield "## Objectives"
    yield f"`pretrain.objective` is {ObjectiveEntry.written.forms}, or a list of these. Every mapping may have these keys:"
    for number, (path, model) in enumerate(OBJECTIVES):
        if number:
            yield _described(model)
        yield _table(path, model)


def _recipes() -> Iterator[str]:
    yield "## Recipes"
    where = ("pretrain", "pretrain.models[]", "pretrain.objective", "transfer")
    places = ", ".join(f"`{place}.recipe`" for place in where)
    yield (
        f"Keys of {places} and `transfer.task_recipes.TASK`. `pretrain.recipe` and `transfer.recipe` may also have one recipe "
        "for each family: `{vit: {preset: NAME}, resnet: {preset: NAME}}`. A list of values is an axis: one recipe for each "
        "value."
    )
    texts = meanings(Recipe)
    rows = []
    for name, field in keys_of(RecipeSpec).items():
        kind = kind_of(field)
        choices = kind.of_shape("")
        default = _default(Recipe.model_fields[name]) if name != "preset" else "required"
        default = "of the preset" if default == "required" and name != "preset" else default
        limits = "see Presets" if choices.written and choices.written.choices else _limits(kind)
        rows.append((f"`{name}`", _type(kind), default, limits, texts[name], f"`{name}: {example_of(field)}`"))
    yield _markdown(("key", "type", "default", "allowed", "meaning", "example"), rows)


def _presets() -> Iterator[str]:
    yield "## Presets"
    yield "Keys that a preset does not set have the default of the table above."
    rows = []
    for name, keys in PRESETS.items():
        keys_of_preset = {key: value for key, value in keys.items() if key != "lr_per_256"}
        texts = [f"`{key}: {yaml_text(value)}`" for key, value in keys_of_preset.items()]
        if "lr_per_256" in keys:
            texts.insert(0, f"`lr`: {keys['lr_per_256']:g} x `batch_size` / 256")
        elif "lr" not in keys:
            texts.insert(0, "`lr`: of the model, below")
        if name == hyperrule.PRESET:
            texts.append("`warmup`, `mixup`: of the task, below")
        rows.append((f"`{name}`", ", ".join(texts)))
    yield _markdown(("preset", "values"), rows)
    rates = [(f"`{model}`", f"{rate:g}") for model, rate in JFT_LEARNING_RATES.items()]
    yield "Learning rates of `vit_paper_jft`; for other models state `lr`:"
    yield _markdown(("model", "lr"), rates)
    yield f"`{hyperrule.PRESET}` and `hyperrule` as a number of epochs, by the training images of the task:"
    bounds = (
        ("below", hyperrule.MEDIUM, 1),
        ("below", hyperrule.LARGE, hyperrule.MEDIUM),
        ("from", hyperrule.LARGE, hyperrule.LARGE),
    )
    rules = [(f"{word} {limit:,}", *map(str, hyperrule.bit_hyperrule(images))) for word, limit, images in bounds]
    yield _markdown(("training images", *hyperrule.HyperRule._fields), rules)


def _described(model: type[BaseModel]) -> str:
    """A model's docstring, as the text above its table."""
    return " ".join((model.__doc__ or "").split())


def _table(path: str, model: type[BaseModel]) -> str:
    texts = meanings(model)
    rows = []
    for name, field in keys_of(model).items():
        kind = kind_of(field)
        sample = f"`{name}: {example_of(field)}`"
        default = "required" if model is Pretrain and name in NEEDED else _default(field)
        rows.append((f"`{path}{name}`", _type(kind), default, _limits(kind), texts.get(name, ""), sample))
    return _markdown(("key", "type", "default", "allowed", "meaning", "example"), rows)


def _type(kind: Kind) -> str:
    """The type of a value in a few words."""
    if kind.written:
        return kind.written.noun
    members = kind.members
    if len(members) > 1:
        return " or ".join(dict.fromkeys(map(_type, members)))
    if kind.element:
        parts = [kind.element] if kind.element.written else kind.element.members
        return f"list of {' or '.join(map(_plural, parts))}"
    if kind.is_list:
        return "pair"
    if kind.is_mapping:
        return "mapping"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    return "choice" if kind.choices else names.get(kind.annotation, "value")


def _plural(kind: Kind) -> str:
    noun = _type(kind)
    return {"text": "names", "true or false": noun}.get(noun, f"{noun}s")


def _limits(kind: Kind) -> str:
    """What is allowed, without the type."""
    if kind.written:
        return allowed(kind)
    if kind.element:
        least = "; at least one" if any(isinstance(item, MinLen) and item.min_length for item in kind.metadata) else ""
        return _limits(kind.element) + least
    if kind.model:
        return "its keys, below"
    text = allowed(kind).replace("; or a list of these", "")
    for noun in ("a whole number", "a number", "text"):
        if text == noun:
            return "any"
        text = text.removeprefix(f"{noun}, ").removeprefix(f"{noun} ")
    return text


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None or value in ("", (), {}):
        return "none"
    return "supervised" if isinstance(value, tuple) and isinstance(value[0], BaseModel) else f"`{yaml_text(value)}`"


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
