"""The study file: YAML to a frozen, checked `Study`. Every mistake is one UserError with file, line, field and what is allowed.

Reads the YAML and, where they exist, the datasets' indexes. Decides nothing about which runs there will be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Discriminator, Field, Tag, ValidationError

from orchestrator.yamltree import Place, YamlTree
from vitmodel.config import FAMILIES, Frozen, ModelConfig, UserError, ViTConfig, named_model, suggest
from vitmodel.data.generated import DigitsConfig, FractalConfig

NAME = r"^[a-z0-9._-]{1,64}$"
Name = Annotated[str, Field(pattern=NAME)]
MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def _count(value: Any) -> Any:
    """Counts may be written 16k, 30M or 1e6."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?)", value)):
        value = float(match[1]) * MULTIPLES[match[2]]
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_count), Field(gt=0)]


def _size(value: int | str) -> int | str:
    if isinstance(value, int) or re.fullmatch(r"all|\d+(\.\d+)?[kMB%]?", value):
        return value
    raise ValueError("a size is a count such as 16384, 16k or 30M, a percentage such as 10%, or all")


Size = Annotated[int | str, AfterValidator(_size)]


class ExternalData(Frozen):
    """A dataset packed elsewhere. What it should contain is declared, so that a study can be planned without it."""

    url: str
    train: Count
    classes: Count
    eval_split: Literal["val", "test"] = "test"
    licence: str = ""


def _dataset_kind(value: Any) -> str:
    return str(value.get("generate", "external")) if isinstance(value, dict) else "external"


DatasetSpec = Annotated[
    Annotated[FractalConfig, Tag("fractals")]
    | Annotated[DigitsConfig, Tag("digits")]
    | Annotated[ExternalData, Tag("external")],
    Discriminator(_dataset_kind),
]


class Length(Frozen):
    """A duration in exactly one unit."""

    epochs: float | None = Field(default=None, gt=0)
    steps: Count | None = None
    examples: Count | None = None


class RecipeSpec(Frozen):
    """A preset's name and the keys that differ from it."""

    preset: str | None = None
    optimizer: Literal["adamw", "sgd"] | None = None
    lr: float | None = None
    batch_size: int | None = None
    schedule: Literal["constant", "linear", "cosine", "rsqrt"] | None = None
    warmup: float | None = None
    cooldown: float | None = None
    weight_decay: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    momentum: float | None = None
    grad_clip: float | None = None
    dropout: float | None = None
    stochastic_depth: float | None = None
    label_smoothing: float | None = None
    augment: Literal["none", "shift", "inception"] | None = None
    flip: bool | None = None
    precision: Literal["auto", "fp32", "bf16"] | None = None

    def overrides(self) -> dict[str, Any]:
        return self.model_dump(exclude={"preset"}, exclude_none=True)


class FamilyRecipes(Frozen):
    """A recipe for each family."""

    vit: RecipeSpec | None = None
    hybrid: RecipeSpec | None = None
    resnet: RecipeSpec | None = None
    cnn: RecipeSpec | None = None


def _recipe_kind(value: Any) -> str:
    return "by_family" if isinstance(value, dict) and set(value) & set(FAMILIES) else "one"


AnyRecipe = Annotated[
    Annotated[RecipeSpec, Tag("one")] | Annotated[FamilyRecipes, Tag("by_family")], Discriminator(_recipe_kind)
]


class ModelEntry(Frozen):
    """One model of the axis, with what is its own: lengths, recipe keys."""

    model: ModelConfig
    lengths: tuple[Length, ...] | None = Field(default=None, min_length=1)
    finetune_resolution: int | None = Field(default=None, gt=0)
    recipe: RecipeSpec = RecipeSpec()


class Cut(Frozen):
    """Values of axes that name one or more cells."""

    model: str | None = None
    size: Size | None = None
    epochs: float | None = None
    seed: int | None = None


class Pretrain(Frozen):
    """The upstream axes."""

    data: str
    resolution: int = Field(gt=0)
    sizes: tuple[Size, ...] = Field(min_length=1)
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    lengths: tuple[Length, ...] = Field(min_length=1)
    recipe: AnyRecipe
    lanes: int | None = Field(default=None, gt=0)
    window: int = Field(default=8192, gt=0)
    combine: Literal["grid", "zip"] = "grid"
    include: tuple[Cut, ...] = ()
    exclude: tuple[Cut, ...] = ()


class Transfer(Frozen):
    """Fine-tuning of every pretrained model on every task for every number of epochs."""

    tasks: tuple[str, ...] = Field(min_length=1)
    epochs: tuple[float, ...] = Field(min_length=1)
    resolution: int = Field(gt=0)
    recipe: AnyRecipe
    task_recipes: dict[str, RecipeSpec] = Field(default={})


class Probe(Frozen):
    """Few-shot linear probes of every pretrained model."""

    tasks: tuple[str, ...] = Field(min_length=1)
    shots: tuple[int, ...] = Field(min_length=1)


Auto = Literal["auto"]


class Resources(Frozen):
    """With what the runs are done. Nothing here changes a result."""

    device: Literal["auto", "cpu", "a100", "h100", "h200", "tpuv3"] = "auto"
    workers: Annotated[int, Field(gt=0)] | Auto = "auto"
    cpus_per_worker: Annotated[int, Field(gt=0)] | Auto = "auto"
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | Auto = "auto"
    zero_stage: Annotated[int, Field(ge=0, le=3)] | Auto = "auto"
    micro_batch: Annotated[int, Field(gt=0)] | Auto = "auto"
    max_concurrent: Annotated[int, Field(gt=0)] | Auto = "auto"
    bundle: Literal["auto", "cell"] = "auto"
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    wait_minutes: float = Field(default=0.0, ge=0)  # for a cluster that grows; 0: what cannot fit now is refused


class Budget(Frozen):
    """Limits. The number of runs is checked on the plan; hours on the plan and again while runs finish."""

    max_runs: int = Field(default=2000, gt=0, le=100_000)
    gpu_hours: float | None = Field(default=None, gt=0)
    wall_hours: float | None = Field(default=None, gt=0)
    price_per_gpu_hour: float | None = Field(default=None, gt=0)


class Storage(Frozen):
    """The folder of all runs: shared by all nodes of a cluster."""

    path: str = "runs"


class Tracking(Frozen):
    """MLflow's address; `auto` is a sqlite file in the storage folder."""

    mlflow: str = "auto"


class StopAfter(Frozen):
    """End the study after this many failed runs."""

    stop_after: int = Field(gt=0)


class OnFailure(Frozen):
    """How often a run is tried again after its workers died, and whether the others go on."""

    retries: int = Field(default=2, ge=0)
    then: Literal["continue", "stop"] | StopAfter = "continue"


class Report(Frozen):
    """Words for the head of the report."""

    title: str = ""
    note: str = ""


class Study(Frozen):
    """A whole study, as written."""

    name: Name
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    datasets: dict[Name, DatasetSpec] = Field(min_length=1)
    pretrain: Pretrain
    transfer: Transfer | None = None
    probe: Probe | None = None
    resources: Resources = Resources()
    budget: Budget = Budget()
    storage: Storage = Storage()
    tracking: Tracking = Tracking()
    on_failure: OnFailure = OnFailure()
    report: Report = Report()


@dataclass(frozen=True)
class StudyFile:
    """A study and the tree it was read from, for messages with line numbers."""

    study: Study
    tree: YamlTree


def read_study(path: Path) -> StudyFile:
    """Read and check a study file by itself. Raises UserError."""
    tree = YamlTree(path)
    data = _expand_models(tree)
    try:
        study = Study.model_validate(_tuples(data))
    except ValidationError as error:
        raise _user_error(tree, error) from None
    file = StudyFile(study, tree)
    _check_references(file)
    return file


def expand_environment(text: str) -> str:
    """`${env:NAME}` replaced by its value. Raises UserError where it is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(f"environment variable {match[1]} is not set", field=text)
        return os.environ[match[1]]

    return re.sub(r"\$\{env:(\w+)\}", value, text)


def resolve_size(size: Size, available: int) -> int:
    """A size as a number of images: 16k, 10%, all. Raises UserError above what there is."""
    if size == "all":
        return available
    percent = isinstance(size, str) and size.endswith("%")
    images = round(float(str(size)[:-1]) / 100 * available) if percent else _count(size)
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
        entries.append({"model": _one_model(tree, place, {k: v for k, v in keys.items() if k not in own}), **own})
    return {**data, "pretrain": {**pretrain, "models": entries}}


def _one_model(tree: YamlTree, place: Place, keys: dict[str, Any]) -> ModelConfig:
    try:
        if "model" in keys:
            return _variant_of(named_model(str(keys["model"])), {key: keys[key] for key in keys if key != "model"})
        kind = FAMILIES.get(str(keys.get("family")))
        if kind is None:
            raise UserError("a model of free size needs its family", field="family", allowed=", ".join(FAMILIES))
        return kind.model_validate(_tuples(keys))
    except ValidationError as error:
        raise _user_error(tree, error, place) from None
    except UserError as error:
        raise tree.error(error.message, (*place, error.field) if error.field else place, error.allowed) from None


def _variant_of(model: ModelConfig, changes: dict[str, Any]) -> ModelConfig:
    """A named model with some keys of its own, such as `{model: S/16, mixer: axial, pooling: gap}`, and a name of its own."""
    if not changes:
        return model
    variant = " ".join([model.variant, *(f"{key}={value}" for key, value in changes.items())])
    return type(model).model_validate({**model.model_dump(), "variant": variant, **_tuples(changes)})


def _tuples(node: Any) -> Any:
    """Lists as tuples: what strict validation wants for frozen sequences."""
    if isinstance(node, dict):
        return {key: _tuples(value) for key, value in node.items()}
    return tuple(map(_tuples, node)) if isinstance(node, list) else node


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
    named: list[tuple[Place, str]] = [(("pretrain", "data"), study.pretrain.data)]
    for section, part in (("transfer", study.transfer), ("probe", study.probe)):
        named += [((section, "tasks", number), task) for number, task in enumerate(part.tasks if part else ())]
    for task in study.transfer.task_recipes if study.transfer else ():
        named.append((("transfer", "task_recipes", task), task))
    for place, name in named:
        if name not in study.datasets:
            hint = suggest(name, list(study.datasets))
            raise tree.error(f"unknown dataset {name!r}{hint}", place, ", ".join(study.datasets))
    variants = [entry.model.variant for entry in study.pretrain.models]
    for number, variant in enumerate(variants):
        if variant in variants[:number]:
            raise tree.error(f"a second model called {variant}", ("pretrain", "models", number))
    _check_lengths(file)


def _check_lengths(file: StudyFile) -> None:
    pretrain = file.study.pretrain
    lists: list[tuple[Place, tuple[Length, ...]]] = [(("pretrain", "lengths"), pretrain.lengths)]
    lists += [(("pretrain", "models", i, "lengths"), e.lengths or ()) for i, e in enumerate(pretrain.models)]
    for place, lengths in lists:
        for number, length in enumerate(lengths):
            if len(length.model_dump(exclude_none=True)) != 1:
                raise file.tree.error("a length has exactly one unit", (*place, number), "epochs, steps, examples")
