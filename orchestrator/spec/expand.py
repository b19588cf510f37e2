"""Short forms of a study file written out: names of models, objectives and datasets become the mappings of the schema.

Every step reports all of its mistakes and continues with a stand-in, so that the rest of the file is checked, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.secrets import expand_environment
from orchestrator.spec.complaints import short
from orchestrator.spec.describe import as_tuples, described
from orchestrator.spec.errors import combined, faults, unknown_key
from orchestrator.spec.hints import did_you_mean, intended
from orchestrator.spec.initial_weights import read_initial
from orchestrator.spec.kinds import keys_of
from orchestrator.spec.pretrain import INIT, ModelEntry, ObjectiveEntry
from orchestrator.spec.schema import ExternalData, Study
from orchestrator.spec.values import Written
from orchestrator.spec.yamltree import Place, YamlTree
from vitmodel.config.base import UserError
from vitmodel.config.families.cnn import CnnConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import FAMILIES, ModelConfig, named_model
from vitmodel.config.objectives import SUPERVISED, Mae, MaskedPatch, Objective, Supervised

M = TypeVar("M", bound=BaseModel)

OBJECTIVES: dict[str, type[Supervised] | type[MaskedPatch] | type[Mae]] = {
    "supervised": Supervised,
    "masked_patch": MaskedPatch,
    "mae": Mae,
}
GENERATORS = ("fractals", "digits")
OF_ENTRY = ("lengths", "finetune_resolution", "recipe")  # keys of a model's entry that do not describe the model
MODEL_KEYS: dict[str, FieldInfo] = {  # one of these begins a model's entry
    "model": Field(examples=["B/16"]),
    "family": ViTConfig.model_fields["family"],
    "init": ModelEntry.model_fields["init"],
}
STAND_IN = CnnConfig(family="cnn", variant="", architecture="alexnet")  # for a model that could not be read


def expand(tree: YamlTree) -> tuple[dict[str, Any], list[UserError]]:
    """The file's data with all short forms written out, and the mistakes in them."""
    errors: list[UserError] = []
    data = _without_empty_sections(tree, errors)
    for step in (_datasets, _models, _objectives):
        data = step(tree, data, errors)
    return data, errors


def _without_empty_sections(tree: YamlTree, errors: list[UserError]) -> dict[str, Any]:
    for name, value in tree.data.items():
        if value is None and name in Study.model_fields:
            errors.append(tree.error("the section is empty; fill it in or remove it", (name,)))
    return {name: value for name, value in tree.data.items() if value is not None or name not in Study.model_fields}


def _datasets(tree: YamlTree, data: dict[str, Any], errors: list[UserError]) -> dict[str, Any]:
    """Every dataset with the facts of its description; those with an unknown generator are left out."""
    datasets = data.get("datasets")
    if not isinstance(datasets, dict):
        return data
    expanded: dict[str, Any] = {}
    for name, keys in datasets.items():
        try:
            expanded[name] = _dataset(tree, ("datasets", name), keys)
        except UserError as error:
            errors.extend(error.errors)
    return {**data, "datasets": expanded}


def _dataset(tree: YamlTree, place: Place, keys: Any) -> Any:
    if not isinstance(keys, dict):
        return keys
    if "description" in keys:
        raise unknown_key(tree, (*place, "description"), keys_of(ExternalData), Study)
    if "generate" not in keys:
        return described(tree, place, keys) if keys.get("describe") is not None else keys
    if keys["generate"] not in GENERATORS:
        word = str(keys["generate"])
        message = f"unknown generator {word!r}{did_you_mean(word, GENERATORS)}"
        raise tree.error(message, (*place, "generate"), ", ".join(GENERATORS), example=f"generate: {GENERATORS[0]}")
    return keys


def _models(tree: YamlTree, data: dict[str, Any], errors: list[UserError]) -> dict[str, Any]:
    """Every entry of pretrain.models as {model, init, lengths, finetune_resolution, recipe}."""
    pretrain = data.get("pretrain")
    if not isinstance(pretrain, dict) or not isinstance(pretrain.get("models"), list):
        return data
    entries = []
    for number, entry in enumerate(pretrain["models"]):
        place: Place = ("pretrain", "models", number)
        keys = {"model": entry} if isinstance(entry, str) else entry
        try:
            model = _model(tree, place, keys)
        except UserError as error:
            errors.extend(error.errors)
            model = {"model": STAND_IN}
        of_entry = {key: keys[key] for key in OF_ENTRY if key in keys} if isinstance(keys, dict) else {}
        entries.append({**model, **of_entry})
    return {**data, "pretrain": {**pretrain, "models": entries}}


def _model(tree: YamlTree, place: Place, keys: Any) -> dict[str, Any]:
    """The model of an entry, and the file of its weights where there is one. Raises UserError."""
    if not isinstance(keys, dict):
        raise _not_valid(tree, place, "models", keys, ModelEntry.written)
    of_model = {key: value for key, value in keys.items() if key not in (*OF_ENTRY, "init")}
    if "init" in keys:
        return _imported(tree, place, of_model, str(keys["init"]))
    return {"model": _configured(tree, place, of_model)}


def _configured(tree: YamlTree, place: Place, keys: dict[str, Any]) -> ModelConfig:
    """The configuration of a named model with changes, or of a model of free size. Raises UserError."""
    if "model" in keys:
        return _named(tree, place, keys)
    family = FAMILIES.get(str(keys.get("family")))
    if family is not None:
        return _validated(tree, place, family.config, keys, ModelEntry)
    if "family" in keys:
        word = str(keys["family"])
        message = f"unknown family {word!r}{did_you_mean(word, list(FAMILIES))}"
        raise tree.error(message, (*place, "family"), ", ".join(FAMILIES), example="family: vit")
    for key in keys:
        if intended(key, list(MODEL_KEYS)):
            raise unknown_key(tree, (*place, key), MODEL_KEYS, Study)
    example = f"models: [{ModelEntry.written.example}]"
    raise tree.error("the model is not named", place, ModelEntry.written.forms, example=example)


def _named(tree: YamlTree, place: Place, keys: dict[str, Any]) -> ModelConfig:
    """A published model, with changes such as `{model: S/16, mixer: axial, pooling: gap}`, which are added to its name."""
    try:
        model = named_model(str(keys["model"]))
    except UserError as error:
        raise tree.error(error.message, (*place, "model"), error.allowed, example="models: [B/16]") from None
    changes = {key: value for key, value in keys.items() if key != "model"}
    if not changes:
        return model
    variant = " ".join([model.variant, *(f"{key}={value}" for key, value in changes.items())])
    return _validated(tree, place, type(model), {**model.model_dump(), "variant": variant, **changes}, ModelEntry)


def _imported(tree: YamlTree, place: Place, keys: dict[str, Any], init: str) -> dict[str, Any]:
    """{model, init} of an entry whose weights come from a file: the model as stated, completed from the file."""
    stated = _configured(tree, place, keys) if keys.keys() - {"variant"} else None
    try:
        model, file = read_initial(Path(expand_environment(init)).expanduser().absolute(), stated, keys)
    except OSError as error:
        reason = error.strerror or str(error)
        raise tree.error(f"cannot be read: {reason}", (*place, "init"), INIT.forms, example=f"init: {INIT.example}") from None
    except UserError as error:
        message = f"{error.file}: {error.message}" if error.file else error.message
        key = error.field if error.field in keys else "init"
        allowed = error.allowed or (INIT.forms if key == "init" else "")
        raise tree.error(message, (*place, key), allowed, example=f"init: {INIT.example}" if key == "init" else "") from None
    stem = Path(init).stem
    name = f"init={stem}" if model.variant == stem else f"{model.variant} init={stem}"
    variant = str(keys.get("variant", name))
    return {"model": model.model_copy(update={"variant": variant}), "init": file}


def _objectives(tree: YamlTree, data: dict[str, Any], errors: list[UserError]) -> dict[str, Any]:
    """pretrain.objective as a list of {objective, lengths, recipe}."""
    pretrain = data.get("pretrain")
    if not isinstance(pretrain, dict) or "objective" not in pretrain:
        return data
    given = pretrain["objective"]
    entries = []
    for number, entry in enumerate(given if isinstance(given, list) else [given]):
        place: Place = ("pretrain", "objective", *([number] if isinstance(given, list) else []))
        keys = {"kind": entry} if isinstance(entry, str) else entry
        objective: Objective = SUPERVISED
        try:
            objective = _objective(tree, place, keys)
        except UserError as error:
            errors.extend(error.errors)
        of_entry = {key: keys[key] for key in ("lengths", "recipe") if key in keys} if isinstance(keys, dict) else {}
        entries.append({"objective": objective, **of_entry})
    return {**data, "pretrain": {**pretrain, "objective": entries}}


def _objective(tree: YamlTree, place: Place, keys: Any) -> Objective:
    if not isinstance(keys, dict) or "kind" not in keys:
        raise _not_valid(tree, place, "objective", keys, ObjectiveEntry.written)
    kind = str(keys["kind"])
    if kind not in OBJECTIVES:
        message = f"unknown objective {kind!r}{did_you_mean(kind, list(OBJECTIVES))}"
        raise tree.error(message, (*place, "kind"), ", ".join(OBJECTIVES), example="objective: mae")
    of_objective = {key: value for key, value in keys.items() if key not in ("lengths", "recipe")}
    return _validated(tree, place, OBJECTIVES[kind], of_objective, ObjectiveEntry)


def _validated(tree: YamlTree, place: Place, model: type[M], keys: dict[str, Any], entry: type[BaseModel]) -> M:
    """A part of the file as a model. `entry`: whose keys may be in the same mapping. Raises UserError with all mistakes."""
    try:
        return model.model_validate(as_tuples(keys))
    except ValidationError as error:
        raise combined(faults(tree, error, model, base=place, known=keys_of(entry), schema=Study)) from None


def _not_valid(tree: YamlTree, place: Place, key: str, value: Any, written: Written) -> UserError:
    reason = "has no value" if value is None else f"{written.noun} {short(value)} is not valid"
    return tree.error(f"{reason}; write {written.forms}", place, example=f"{key}: [{written.example}]")
