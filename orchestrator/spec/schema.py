"""The shape of a study file: frozen, strict pydantic models, one a section. What is allowed stands here and nowhere else."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from orchestrator.spec.claims import Claims, Count, Import, Name, Target
from orchestrator.spec.data_policy import CacheSize, SkipBad
from orchestrator.spec.fault_tolerance import AnyWorkers, Auto, Checkpoint, OnFailure
from orchestrator.spec.integrations import Notify, Tracking
from vitmodel.config.base import Frozen
from vitmodel.config.models import FAMILIES, ModelConfig
from vitmodel.config.objectives import SUPERVISED, Objective
from vitmodel.data.descriptions import Description
from vitmodel.data.generated import DigitsConfig, FractalConfig

ObjectiveName = Literal["supervised", "masked_patch", "mae"]


def _size(value: int | str) -> int | str:
    if isinstance(value, int) or re.fullmatch(r"all|\d+(\.\d+)?[kMB%]?", value):
        return value
    raise ValueError("a size is a count such as 16384, 16k or 30M, a percentage such as 10%, or all")


Size = Annotated[int | str, AfterValidator(_size)]


class ExternalData(Frozen):
    """A dataset that is packed already, or by the study from the downloads at `source`. What it should contain is declared,
    here or in the description that `describe` names, so that a study can be planned without it."""

    url: str = ""  # its folder; default, where there is a source: in the study's storage
    source: str = ""
    dev: bool = False  # the description's development split
    description: Description | None = None  # from the file that `describe` names
    train: Count
    classes: Count
    eval_split: Literal["val", "test"] = "test"
    licence: str = ""
    image_size: int | None = Field(default=None, gt=0)  # pixels per side, as they are before resizing: BiT's hyper-rule asks


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


# A recipe key: a value, or a list of values, each a recipe of its own.
Number = float | Annotated[tuple[float, ...], Field(min_length=1)] | None
Whole = int | Annotated[tuple[int, ...], Field(min_length=1)] | None
Switch = bool | Annotated[tuple[bool, ...], Field(min_length=1)] | None
Word = str | Annotated[tuple[str, ...], Field(min_length=1)] | None


class RecipeSpec(Frozen):
    """A preset's name and the keys that differ from it: those of vitmodel.config.recipe.Recipe, which checks their values."""

    preset: Word = None
    optimizer: Word = None
    lr: Number = None
    layer_decay: Number = None
    batch_size: Whole = None
    schedule: Word = None
    warmup: Number = None
    cooldown: Number = None
    weight_decay: Number = None
    beta1: Number = None
    beta2: Number = None
    momentum: Number = None
    grad_clip: Number = None
    dropout: Number = None
    stochastic_depth: Number = None
    label_smoothing: Number = None
    augment: Word = None
    flip: Switch = None
    randaugment_layers: Whole = None
    randaugment_magnitude: Number = None
    mixup: Number = None
    cutmix: Number = None
    ema: Number = None
    precision: Word = None

    def given(self) -> dict[str, Any]:
        """The keys that the study gives."""
        return self.model_dump(exclude_none=True)


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


class InitFile(Frozen):
    """A file of weights that takes the place of a pretraining, as its header and its bytes say."""

    path: str
    identity: str  # hash of its content
    image_size: int  # pixels per side that its position embedding is made for
    classes: int  # of its head; 1: none


class ModelEntry(Frozen):
    """One model of the axis, with what is its own: lengths, recipe keys; or the file its weights come from."""

    model: ModelConfig
    init: InitFile | None = None
    lengths: tuple[Length, ...] | None = Field(default=None, min_length=1)
    finetune_resolution: int | None = Field(default=None, gt=0)
    recipe: RecipeSpec = RecipeSpec()


class ObjectiveEntry(Frozen):
    """One objective of the axis, with what is its own: lengths, recipe keys."""

    objective: Objective
    lengths: tuple[Length, ...] | None = Field(default=None, min_length=1)
    recipe: RecipeSpec = RecipeSpec()


class Cut(Frozen):
    """Values of axes that name one or more cells."""

    model: str | None = None
    objective: ObjectiveName | None = None
    size: Size | None = None
    epochs: float | None = None
    seed: int | None = None
    recipe: str | None = None  # as rows name it: weight_decay=0.1


class Pretrain(Frozen):
    """The upstream axes. Where every model is imported, there is nothing to say but the models."""

    data: str = ""
    resolution: int = Field(default=0, gt=0)
    sizes: tuple[Size, ...] = Field(default=(), min_length=1)
    subset_seed: int | None = Field(default=None, ge=0)  # which images a size is; None: the first as packed
    models: tuple[ModelEntry, ...] = Field(min_length=1)
    objective: tuple[ObjectiveEntry, ...] = Field(default=(ObjectiveEntry(objective=SUPERVISED),), min_length=1)
    lengths: tuple[Length, ...] = Field(default=(), min_length=1)
    recipe: AnyRecipe = RecipeSpec()
    lanes: int | None = Field(default=None, gt=0)
    window: int = Field(default=8192, gt=0)
    combine: Literal["grid", "zip"] = "grid"
    include: tuple[Cut, ...] = ()
    exclude: tuple[Cut, ...] = ()


class Transfer(Frozen):
    """Fine-tuning of every pretrained model on every task for every number of epochs."""

    tasks: tuple[str, ...] = Field(min_length=1)
    epochs: tuple[float | Literal["hyperrule"], ...] = Field(min_length=1)
    resolution: Annotated[int, Field(gt=0)] | Literal["hyperrule"]
    recipe: AnyRecipe
    task_recipes: dict[str, RecipeSpec] = Field(default={})


class Probe(Frozen):
    """Few-shot linear probes of every pretrained model."""

    tasks: tuple[str, ...] = Field(min_length=1)
    shots: tuple[int, ...] = Field(min_length=1)


class Resources(Frozen):
    """With what the runs are done. Nothing here changes a result."""

    device: Literal["auto", "cpu", "a100", "h100", "h200", "tpuv3"] = "auto"
    workers: AnyWorkers = "auto"
    cpus_per_worker: Annotated[int, Field(gt=0)] | Auto = "auto"
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | Auto = "auto"
    zero_stage: Annotated[int, Field(ge=0, le=3)] | Auto = "auto"
    micro_batch: Annotated[int, Field(gt=0)] | Auto = "auto"
    max_concurrent: Annotated[int, Field(gt=0)] | Auto = "auto"
    bundle: Literal["auto", "cell", "run"] = "auto"
    checkpoint: Checkpoint = Checkpoint()
    cache: CacheSize = "auto"  # decoded images that a worker keeps in memory, in bytes
    stall_minutes: float = Field(default=15.0, gt=0)  # without progress for so long, a worker group is started again
    wait_minutes: float = Field(default=0.0, ge=0)  # for a cluster that grows; 0: what cannot fit now is refused


class Budget(Frozen):
    """Limits. The number of runs is checked on the plan; hours on the plan and again while runs finish."""

    max_runs: int = Field(default=2000, gt=0, le=100_000)
    gpu_hours: float | None = Field(default=None, gt=0)
    wall_hours: float | None = Field(default=None, gt=0)
    price_per_gpu_hour: float | None = Field(default=None, gt=0)
    cost: float | None = Field(default=None, gt=0)  # in the money of the price

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Budget:
        if self.cost is not None and self.price_per_gpu_hour is None:
            raise ValueError("a limit in money needs price_per_gpu_hour")
        return self

    @property
    def gpu_limits(self) -> list[tuple[float, str]]:
        """Every limit as GPU-hours, and in its own words."""
        limits = [] if self.gpu_hours is None else [(self.gpu_hours, f"{self.gpu_hours:g} GPU-hours")]
        if self.cost is not None and self.price_per_gpu_hour is not None:
            hours = self.cost / self.price_per_gpu_hour
            limits.append((hours, f"{self.cost:g}, {hours:g} GPU-hours at {self.price_per_gpu_hour:g} each"))
        return limits


class Storage(Frozen):
    """The folder of all runs: shared by all nodes of a cluster."""

    path: str = "runs"


class Report(Frozen):
    """Words for the head of the report."""

    title: str = ""
    note: str = ""


# The axes of a study that trains nothing and only reads imported tables.
NO_PRETRAINING = Pretrain.model_construct(data="", resolution=1, sizes=(), models=(), lengths=(), recipe=RecipeSpec())


class Study(Frozen):
    """A whole study, as written. With `imports` it may have no runs of its own."""

    name: Name
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    datasets: dict[Name, DatasetSpec] = Field(default={})
    pretrain: Pretrain = NO_PRETRAINING
    transfer: Transfer | None = None
    probe: Probe | None = None
    resources: Resources = Resources()
    budget: Budget = Budget()
    storage: Storage = Storage()
    tracking: Tracking = Tracking()
    notify: Notify | None = None
    on_failure: OnFailure = OnFailure()
    on_bad_sample: Literal["fail"] | SkipBad = "fail"
    report: Report = Report()
    imports: tuple[Import, ...] = ()
    claims: Claims = Claims()
    targets: tuple[Target, ...] = ()
