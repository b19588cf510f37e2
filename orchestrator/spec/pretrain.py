"""The sections of a study file that say what is trained: pretraining with its axes, recipes, models, objectives.

Models and objectives may be written as names; expand.py makes entries of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, Union

from pydantic import Discriminator, Field, Tag, create_model, model_validator

from orchestrator.spec.kinds import INTERNAL
from orchestrator.spec.values import Count, PresetName, Size, Written
from vitmodel.config.base import Frozen
from vitmodel.config.models import FAMILIES, ModelConfig
from vitmodel.config.objectives import SUPERVISED, Objective
from vitmodel.config.recipe import (
    Augment,
    Factor,
    Magnitude,
    NonNegativeFloat,
    NonNegativeInt,
    Optimizer,
    PositiveFloat,
    PositiveInt,
    Precision,
    Schedule,
    Share,
)

T = TypeVar("T")
Axis = Union[T, Annotated[tuple[T, ...], Field(min_length=1)], None]  # noqa: UP007  a value, or a list with a recipe for each
ObjectiveName = Literal["supervised", "masked_patch", "mae"]


class Length(Frozen):
    """A duration of training in exactly one unit."""

    written: ClassVar = Written(noun="length", forms="{epochs: 8}, {steps: 1000} or {examples: 1e6}", example="{epochs: 8}")

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the images of the run."""
    steps: Count | None = None
    """Optimizer steps."""
    examples: Count | None = None
    """Images seen, each counted as often as it is seen."""

    @model_validator(mode="after")
    def _has_one_unit(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("a length has exactly one unit")
        return self


class RecipeSpec(Frozen):
    """A preset's name and the keys that override it. A list of values is an axis: one recipe for each value."""

    written: ClassVar = Written(
        noun="recipe",
        forms="{preset: NAME, KEY: VALUE}, or where families differ {vit: {preset: NAME}, resnet: {preset: NAME}}",
        example="{preset: micro_vit, lr: 1e-3}",
    )

    preset: Axis[PresetName] = None
    optimizer: Axis[Optimizer] = None
    lr: Axis[PositiveFloat] = Field(default=None, examples=["1e-3"])
    layer_decay: Axis[Factor] = Field(default=None, examples=["0.75"])
    batch_size: Axis[PositiveInt] = Field(default=None, examples=["512"])
    schedule: Axis[Schedule] = Field(default=None, examples=["cosine"])
    warmup: Axis[NonNegativeFloat] = Field(default=None, examples=["0.1"])
    cooldown: Axis[NonNegativeFloat] = Field(default=None, examples=["0.2"])
    weight_decay: Axis[NonNegativeFloat] = Field(default=None, examples=["[0.03, 0.1]"])
    beta1: Axis[Share] = Field(default=None, examples=["0.9"])
    beta2: Axis[Share] = Field(default=None, examples=["0.95"])
    momentum: Axis[Share] = Field(default=None, examples=["0.9"])
    grad_clip: Axis[NonNegativeFloat] = Field(default=None, examples=["1.0"])
    dropout: Axis[Share] = Field(default=None, examples=["0.1"])
    stochastic_depth: Axis[Share] = Field(default=None, examples=["0.1"])
    label_smoothing: Axis[Share] = Field(default=None, examples=["0.1"])
    augment: Axis[Augment] = Field(default=None, examples=["inception"])
    flip: Axis[bool] = None
    randaugment_layers: Axis[NonNegativeInt] = Field(default=None, examples=["2"])
    randaugment_magnitude: Axis[Magnitude] = Field(default=None, examples=["9"])
    mixup: Axis[NonNegativeFloat] = Field(default=None, examples=["0.2"])
    cutmix: Axis[NonNegativeFloat] = Field(default=None, examples=["1.0"])
    ema: Axis[Share] = Field(default=None, examples=["0.9999"])
    precision: Axis[Precision] = None

    def given(self) -> dict[str, Any]:
        """The keys that the study gives."""
        return self.model_dump(exclude_none=True)


class _FamilyRecipes(Frozen):
    """A recipe for each family."""

    written: ClassVar = RecipeSpec.written

    def of(self, family: str) -> RecipeSpec | None:
        """The recipe of this family, if there is one."""
        recipe: RecipeSpec | None = getattr(self, family)
        return recipe


if TYPE_CHECKING:
    FamilyRecipes = _FamilyRecipes
else:  # one key for each family of the table
    FamilyRecipes = create_model(
        "FamilyRecipes",
        __base__=_FamilyRecipes,
        __doc__=_FamilyRecipes.__doc__,
        __module__=__name__,
        **{
            name: (RecipeSpec | None, Field(default=None, description=f"The recipe of {family.title}."))
            for name, family in FAMILIES.items()
        },
    )


def _recipe_kind(value: Any) -> str:
    return "by_family" if isinstance(value, dict) and set(value) & set(FAMILIES) else "one"


AnyRecipe = Annotated[
    Annotated[RecipeSpec, Tag("one")] | Annotated[FamilyRecipes, Tag("by_family")],
    Discriminator(_recipe_kind),
    RecipeSpec.written,
]


class InitFile(Frozen):
    """A file of weights in place of a pretraining, as its header and content describe it."""

    path: str
    identity: str  # hash of its content
    image_size: int  # pixels per side that its position embedding is made for
    classes: int  # of its head; 1: none


INIT = Written(
    noun="file of weights",
    forms="the path of an official .npz, a .safetensors or a Hugging Face folder",
    example="weights/b16.npz",
)


class ModelEntry(Frozen):
    """One model of the axis, with its own lengths and recipe keys, or with the file that its weights come from."""

    written: ClassVar = Written(
        noun="model",
        forms="a name such as B/16, R50x1 or R50+B/16, {model: NAME, KEY: VALUE}, {family: FAMILY, variant: NAME, ...} "
        "or {init: FILE}",
        example="{model: S/16, pooling: gap}",
    )

    model: ModelConfig = Field(json_schema_extra=INTERNAL)
    init: Annotated[InitFile, INIT] | None = None
    """File of weights that takes the place of a pretraining; `${env:NAME}` is allowed."""
    lengths: tuple[Length, ...] | None = Field(default=None, min_length=1)
    """Lengths of this model, in place of `pretrain.lengths`."""
    finetune_resolution: int | None = Field(default=None, gt=0, examples=["392"])
    """Pixels per side of this model's fine-tuning, in place of `transfer.resolution`."""
    recipe: RecipeSpec = RecipeSpec()
    """Recipe keys of this model, which override `pretrain.recipe`; another preset replaces it."""


class ObjectiveEntry(Frozen):
    """One objective of the axis, with its own lengths and recipe keys."""

    written: ClassVar = Written(
        noun="objective",
        forms="supervised, masked_patch, mae, or a mapping such as {kind: mae, masked: 0.75}",
        example="mae",
    )

    objective: Objective = Field(json_schema_extra=INTERNAL)
    lengths: tuple[Length, ...] | None = Field(default=None, min_length=1)
    """Lengths of this objective; they come before a model's and before `pretrain.lengths`."""
    recipe: RecipeSpec = RecipeSpec()
    """Recipe keys of this objective, which override a model's; another preset replaces the recipe."""


class Cut(Frozen):
    """Values of axes that select one or more cells."""

    model: str | None = Field(default=None, examples=["B/16"])
    """A model's variant."""
    objective: ObjectiveName | None = None
    """An objective's kind."""
    size: Size | None = None
    """A size, written as in `pretrain.sizes`."""
    epochs: float | None = Field(default=None, examples=["8"])
    """A length in epochs."""
    seed: int | None = None
    """A seed."""
    recipe: str | None = Field(default=None, examples=["weight_decay=0.1"])
    """A recipe of a recipe axis, as in the rows: `weight_decay=0.1`."""


class Pretrain(Frozen):
    """The axes of pretraining. Where every model has imported weights, `models` is the only key."""

    data: str = Field(default="", examples=["imagenet"])
    """Name of the dataset that models are pretrained on, a key of `datasets`."""
    resolution: int = Field(default=0, gt=0, examples=["224"])
    """Image size in pixels per side."""
    sizes: tuple[Size, ...] = Field(default=(), min_length=1, examples=["[10%, 50%, all]"])
    """Axis of dataset sizes: unique training images. Smaller sizes are subsets of larger ones."""
    subset_seed: int | None = Field(default=None, ge=0)
    """Seed of the permutation whose first images are a size; default: the first images as packed."""
    models: tuple[ModelEntry, ...] = Field(min_length=1, examples=["[B/16, R50x1]"])
    """Axis of models."""
    objective: tuple[ObjectiveEntry, ...] = Field(
        default=(ObjectiveEntry(objective=SUPERVISED),), min_length=1, examples=["mae"]
    )
    """Pretraining objective, or a list of objectives as an axis."""
    lengths: tuple[Length, ...] = Field(default=(), min_length=1, examples=["[{epochs: 8}]"])
    """Axis of lengths of training, each in one unit."""
    recipe: AnyRecipe = Field(default=RecipeSpec(), examples=["{preset: micro_vit}"])
    """Recipe of pretraining, or one recipe for each family."""
    lanes: int | None = Field(default=None, gt=0, examples=["512"])
    """Fixed virtual data-parallel streams of the data order; the batch must be divisible by lanes, and lanes by workers.
    Default: the greatest common divisor of the batch size and 64."""
    window: int = Field(default=8192, gt=0)
    """Samples that are shuffled together within a lane."""
    combine: Literal["grid", "zip"] = "grid"
    """How the axes combine: every combination, or the i-th values together."""
    include: tuple[Cut, ...] = Field(default=(), examples=["[{model: B/16, size: 1M}]"])
    """Cells to add: one model and one size each, optionally with objective, epochs, seed and recipe."""
    exclude: tuple[Cut, ...] = Field(default=(), examples=["[{model: L/16, size: 10%}]"])
    """Cells to leave out: those that have all values of an entry."""


class Transfer(Frozen):
    """Fine-tuning of every pretrained model on every task, once per number of epochs."""

    tasks: tuple[str, ...] = Field(min_length=1, examples=["[cifar10, pets]"])
    """Datasets to fine-tune on, keys of `datasets`."""
    epochs: tuple[float | Literal["hyperrule"], ...] = Field(min_length=1, examples=["[1, 3, 8]"])
    """Numbers of epochs; `hyperrule`: the steps of BiT's hyper-rule."""
    resolution: Annotated[int, Field(gt=0)] | Literal["hyperrule"] = Field(examples=["384"])
    """Image size in pixels per side; `hyperrule`: 128 or 384, by the size of the task's images."""
    recipe: AnyRecipe = Field(examples=["{preset: vit_finetune}"])
    """Recipe of fine-tuning, or one recipe for each family."""
    task_recipes: dict[str, RecipeSpec] = Field(default={}, examples=["{pets: {warmup: 0.1}}"])
    """Recipe keys of single tasks, which override `transfer.recipe`."""


class Probe(Frozen):
    """Few-shot linear probes of every pretrained model, solved in closed form."""

    tasks: tuple[str, ...] = Field(min_length=1, examples=["[imagenet]"])
    """Datasets to probe on, keys of `datasets`."""
    shots: tuple[int, ...] = Field(min_length=1, examples=["[5, 10]"])
    """Labelled images per class."""
