"""The study file: YAML to a frozen, checked `Study`. Every mistake is one UserError with file, line, field and what is allowed.

Reads the YAML and, where they exist, the datasets' indexes. Decides nothing about which runs there will be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from orchestrator.secrets import expand_environment, names_in
from orchestrator.spec.claims import as_count
from orchestrator.spec.describe import as_tuples, expand_datasets
from orchestrator.spec.initial_weights import read_initial
from orchestrator.spec.schema import Length, ObjectiveName, Size, Storage, Study
from orchestrator.spec.yamltree import Place, YamlTree
from vitmodel.config.base import UserError, suggest
from vitmodel.config.models import FAMILIES, ModelConfig, ViTConfig
from vitmodel.config.variants import named_model


@dataclass(frozen=True)
class StudyFile:
    """A study and the tree it was read from, for messages with line numbers."""

    study: Study
    tree: YamlTree

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of the environment that the file names: their values are not written."""
        return variables_of(self.study)


def read_study(path: Path) -> StudyFile:
    """Read and check a study file by itself. Raises UserError."""
    tree = YamlTree(path)
    data = _expand_objectives(tree, expand_datasets(tree, _expand_models(tree)))
    try:
        study = Study.model_validate(as_tuples(data))
    except ValidationError as error:
        raise _user_error(tree, error) from None
    file = StudyFile(study, tree)
    _check_references(file)
    return file


def variables_of(study: Study) -> tuple[str, ...]:
    """The variables that a study's addresses name; a storage folder's name is no secret and stays readable."""
    return names_in(study.model_copy(update={"storage": Storage()}).model_dump_json(serialize_as_any=True))


def resolve_size(size: Size, available: int) -> int:
    """A size as a number of images: 16k, 10%, all. Raises UserError above what there is."""
    if size == "all":
        return available
    percent = isinstance(size, str) and size.endswith("%")
    images = round(Fraction(str(size)[:-1]) / 100 * available) if percent else as_count(size)
    if not isinstance(images, int) or not 0 < images <= available:
        raise UserError(
            f"size {size} is not within the dataset", field="sizes", allowed=f"1 to {available}, a percentage, or all"
        )
    return images


# --- reading --------------------------------------------------------------------------------------------------


def _expand_models(tree: YamlTree) -> dict[str, Any]:
    """Each entry of pretrain.models to {model, lengths, recipe}: names and flat mappings of sizes are allowed."""
    data = dict(tree.data)
    pretrain = data.get("pretrain")
    if not isinstance(pretrain, dict) or not isinstance(pretrain.get("models"), list):
        return data
    entries = []
    for number, entry in enumerate(pretrain["models"]):
        place: Place = ("pretrain", "models", number)
        keys = {"model": entry} if isinstance(entry, str) else entry
        if not isinstance(keys, dict):
            raise tree.error("a model is a name or a mapping", place)
        own = {key: value for key, value in keys.items() if key in ("lengths", "finetune_resolution", "recipe")}
        of_model = {key: value for key, value in keys.items() if key not in own and key != "init"}
        if "init" in keys:
            entries.append({**_imported(tree, place, of_model, str(keys["init"])), **own})
        else:
            entries.append({"model": _one_model(tree, place, of_model), **own})
    return {**data, "pretrain": {**pretrain, "models": entries}}


def _expand_objectives(tree: YamlTree, data: dict[str, Any]) -> dict[str, Any]:
    """pretrain.objective to a list of {objective, lengths, recipe}: one or several names or mappings with a kind."""
    pretrain = data.get("pretrain")
    if not isinstance(pretrain, dict) or "objective" not in pretrain:
        return data
    given = pretrain["objective"]
    entries = []
    for number, entry in enumerate(given if isinstance(given, list) else [given]):
        keys = dict(entry) if isinstance(entry, dict) else {"kind": entry}
        kind = str(keys.get("kind"))
        if kind not in get_args(ObjectiveName):
            place: Place = ("pretrain", "objective", *([number] if isinstance(given, list) else []))
            message = f"unknown objective {kind!r}{suggest(kind, list(get_args(ObjectiveName)))}"
            raise tree.error(message, place, ", ".join(get_args(ObjectiveName)))
        own = {key: keys.pop(key) for key in ("lengths", "recipe") if key in keys}
        entries.append({"objective": keys, **own})
    return {**data, "pretrain": {**pretrain, "objective": entries}}


def _one_model(tree: YamlTree, place: Place, keys: dict[str, Any]) -> ModelConfig:
    try:
        if "model" in keys:
            return _variant_of(named_model(str(keys["model"])), {key: keys[key] for key in keys if key != "model"})
        kind = FAMILIES.get(str(keys.get("family")))
        if kind is None:
            raise UserError("a model of free size needs its family", field="family", allowed=", ".join(FAMILIES))
        return kind.model_validate(as_tuples(keys))
    except ValidationError as error:
        raise _user_error(tree, error, place) from None
    except UserError as error:
        raise tree.error(error.message, (*place, error.field) if error.field else place, error.allowed) from None


def _imported(tree: YamlTree, place: Place, keys: dict[str, Any], init: str) -> dict[str, Any]:
    """{model, init} of an entry whose weights come from a file: the model as asked, with what the file decides."""
    asked = _one_model(tree, place, keys) if keys.keys() - {"variant"} else None
    try:
        model, file = read_initial(Path(expand_environment(init)).expanduser().absolute(), asked, keys)
    except UserError as error:
        about = f"{error.file}: {error.message}" if error.file else error.message
        raise tree.error(about, (*place, error.field if error.field in keys else "init"), error.allowed) from None
    stem = Path(init).stem
    named = f"init={stem}" if model.variant == stem else f"{model.variant} init={stem}"
    variant = str(keys.get("variant", named))
    return {"model": model.model_copy(update={"variant": variant}), "init": file}


def _variant_of(model: ModelConfig, changes: dict[str, Any]) -> ModelConfig:
    """A named model with some keys of its own, such as `{model: S/16, mixer: axial, pooling: gap}`, and a name of its own."""
    if not changes:
        return model
    variant = " ".join([model.variant, *(f"{key}={value}" for key, value in changes.items())])
    return type(model).model_validate({**model.model_dump(), "variant": variant, **as_tuples(changes)})


# --- errors ---------------------------------------------------------------------------------------------------


def _user_error(tree: YamlTree, error: ValidationError, base: Place = ()) -> UserError:
    """The first real mistake of a validation, in our words."""
    details = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    first = details[0]
    place = base + tuple(first["loc"])
    if first["type"] == "extra_forbidden":
        root: type[BaseModel] = Study if not base else ViTConfig
        known = _fields_at(root, first["loc"][:-1]) or [name for kind in FAMILIES.values() for name in kind.model_fields]
        word = str(first["loc"][-1])
        return tree.error(f"unknown key{suggest(word, known)}", place, ", ".join(sorted(set(known))))
    context = first.get("ctx", {})
    allowed = str(context.get("expected", "")) or str(context.get("pattern", ""))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] not in ("missing", "value_error"):
        message += f", not {_short(first['input'])}"
    return tree.error(message, place, allowed, missing=str(place[-1]) if first["type"] == "missing" else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fields_at(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """Names of the keys allowed at a place. Parts that are no field (a tag, a dictionary's key, a number) are passed over."""
    models = [model]
    for part in place:
        named = [m for m in models if m.__name__ == part]
        inner = [found for m in models if part in m.model_fields for found in _models_in(m.model_fields[str(part)].annotation)]
        models = named or inner or models
    return [name for found in models for name in found.model_fields]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


# --- references within the file -------------------------------------------------------------------------------


def _check_references(file: StudyFile) -> None:
    study, tree = file.study, file.tree
    for section in ("datasets", "pretrain") if not study.imports else ():
        if not tree.data.get(section):
            raise tree.error("Field required", (section,), missing=section)
    _check_upstream(file)
    named: list[tuple[Place, str]] = [(("pretrain", "data"), study.pretrain.data)] if study.pretrain.data else []
    for section, part in (("transfer", study.transfer), ("probe", study.probe)):
        named += [((section, "tasks", number), task) for number, task in enumerate(part.tasks if part else ())]
    for task in study.transfer.task_recipes if study.transfer else ():
        named.append((("transfer", "task_recipes", task), task))
    for place, name in named:
        if name not in study.datasets:
            hint = suggest(name, list(study.datasets))
            raise tree.error(f"unknown dataset {name!r}{hint}", place, ", ".join(study.datasets))
    entries = [(entry.model.variant, entry.recipe) for entry in study.pretrain.models]
    for number, entry in enumerate(entries):
        if entry in entries[:number]:
            allowed = "one entry a model, or entries with recipe keys of their own"
            raise tree.error(f"a second model called {entry[0]}", ("pretrain", "models", number), allowed)
    _check_lengths(file)
    _check_questions(file)


def _check_upstream(file: StudyFile) -> None:
    """What a pretraining needs is there for those that are trained, and not there for those that are imported."""
    pretrain, tree = file.study.pretrain, file.tree
    for number, entry in enumerate(pretrain.models):
        for key in ("lengths", "recipe"):
            if entry.init and key in entry.model_fields_set:
                raise tree.error("imported weights are not trained further upstream", ("pretrain", "models", number, key))
    if any(entry.init is None for entry in pretrain.models):
        for key in ("data", "resolution", "sizes", "lengths", "recipe"):
            if key not in pretrain.model_fields_set:
                raise tree.error("Field required", ("pretrain",), missing=key)


def _check_lengths(file: StudyFile) -> None:
    pretrain = file.study.pretrain
    lists: list[tuple[Place, tuple[Length, ...]]] = [(("pretrain", "lengths"), pretrain.lengths)]
    lists += [(("pretrain", "models", i, "lengths"), e.lengths or ()) for i, e in enumerate(pretrain.models)]
    for place, lengths in lists:
        for number, length in enumerate(lengths):
            if len(length.model_dump(exclude_none=True)) != 1:
                raise file.tree.error("a length has exactly one unit", (*place, number), "epochs, steps, examples")


def _check_questions(file: StudyFile) -> None:
    """Tasks, variants and tables that claims, targets and imports name."""
    study, tree = file.study, file.tree
    names = [entry.name for entry in study.imports]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise tree.error(f"a second table called {name}", ("imports", number, "name"))
    if study.imports:
        return  # the rest is checked against the tables' own rows
    parts = [part for part in (study.transfer, study.probe) if part]
    tasks = list(dict.fromkeys(task for part in parts for task in part.tasks))
    variants = [entry.model.variant for entry in study.pretrain.models]
    asked: list[tuple[Place, str]] = [(("claims", "tasks", i), task) for i, task in enumerate(study.claims.tasks or ())]
    asked += [(("claims", "on", claim), task) for claim, task in study.claims.on.items()]
    asked += [(("targets", i, "task"), target.task) for i, target in enumerate(study.targets) if target.task]
    for place, task in asked:
        if task not in tasks:
            raise tree.error(f"unknown task {task!r}{suggest(task, tasks)}", place, ", ".join(tasks))
    models: list[tuple[Place, str]] = []
    models += [(("claims", "pairs", i, j), name) for i, pair in enumerate(study.claims.pairs) for j, name in enumerate(pair)]
    for place, variant in models:
        if variant not in variants:
            raise tree.error(f"unknown model {variant!r}{suggest(variant, variants)}", place, ", ".join(variants))
    for number, target in enumerate(study.targets):
        if target.variant not in variants:
            try:
                named_model(target.variant)
            except UserError as error:
                allowed = f"{', '.join(variants)}; {error.allowed}"
                raise tree.error(error.message, ("targets", number, "variant"), allowed) from None
