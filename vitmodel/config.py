"""Frozen configurations of models, data order, recipes and runs.

Reads nothing and imports no torch, so that a study can be planned on any laptop. Everything that decides
the result of a run stands in `RunConfig`; everything that only decides how fast it gets there does not.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class UserError(Exception):
    """What a user got wrong: the file, the line, the field and what is allowed there."""

    def __init__(self, message: str, *, file: str = "", line: int | None = None, field: str = "", allowed: str = "") -> None:
        self.message, self.file, self.line, self.field, self.allowed = message, file, line, field, allowed
        super().__init__(str(self))

    def __str__(self) -> str:
        where = self.file + (f", line {self.line}" if self.line else "")
        head = ": ".join(part for part in (where, self.field, self.message) if part)
        return f"{head} (allowed: {self.allowed})" if self.allowed else head


class Frozen(BaseModel):
    """Base of all configuration: immutable, unknown keys forbidden, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def suggest(word: str, known: list[str]) -> str:
    """`, did you mean X?` for a misspelt word, or the empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


# --- models ---------------------------------------------------------------------------------------------------


class EncoderConfig(Frozen):
    """The pre-LayerNorm encoder and its head (Dosovitskiy et al. 2021, equations 1 to 4), of any size."""

    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    mlp_dim: int = Field(gt=0)
    heads: int = Field(gt=0)
    pooling: Literal["cls", "gap"] = "cls"
    gelu: Literal["tanh", "erf"] = "tanh"  # official code: tanh; timm and Hugging Face: erf
    layer_norm_eps: float = Field(default=1e-6, gt=0)
    pre_logits: int = Field(default=0, ge=0)  # width of the tanh layer before the head; 0: none
    mixer: Literal["full", "window", "axial", "pooling", "mlp"] = "full"  # what mixes the tokens: models/mixers.py
    window: int = Field(default=7, gt=0)  # side in tokens, for mixer window

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.mixer != "full" and self.pooling == "cls":
            raise ValueError(f"mixer {self.mixer} works on the grid alone, without a class token: pooling must be gap")
        return self


class ViTConfig(EncoderConfig):
    """Vision Transformer on patches of pixels (Dosovitskiy et al. 2021, section 3.1)."""

    family: Literal["vit"]
    variant: str
    patch: int = Field(gt=0)


class HybridConfig(EncoderConfig):
    """Vision Transformer on the feature map of a post-activation ResNet (Dosovitskiy et al. 2021, sections 3.1 and 4.1)."""

    family: Literal["hybrid"]
    variant: str
    stages: tuple[int, ...]  # bottleneck blocks per stage; each stage after the first halves the map; none: the stem alone
    stem_width: int = Field(default=64, gt=0)
    groups: int = Field(default=32, gt=0)
    patch: int = Field(default=1, gt=0)  # in pixels of the feature map

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        _check_stages(self.stem_width, self.groups, self.stages)
        return self


class ResNetConfig(Frozen):
    """BiT ResNet-v2: pre-activation, GroupNorm, weight standardisation (Kolesnikov et al. 2020, section 3.1)."""

    family: Literal["resnet"]
    variant: str
    stages: tuple[int, ...] = Field(min_length=1)  # blocks per stage; each stage after the first halves the image
    width: int = Field(gt=0)  # channels of the stem; stage s works at width * 2^s
    block: Literal["bottleneck", "basic"] = "bottleneck"
    stem: Literal["imagenet", "stride2", "stride1"] = "imagenet"  # 7x7 s2 + pool | 3x3 s2 | 3x3 s1
    groups: int = Field(default=32, gt=0)

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        _check_stages(self.width, self.groups, self.stages)
        return self


class CnnConfig(Frozen):
    """The smaller CNNs of the field, with BatchNorm where they have a norm. Sources: convolutions.py."""

    family: Literal["cnn"]
    variant: str
    architecture: Literal["alexnet", "mobilenetv2", "resnet34", "resnet50"]
    width_factor: float = Field(default=1.0, gt=0)  # scales all channels
    stem: Literal["imagenet", "small"] = "imagenet"  # small: for images of 32 to 64 px, less stride at the start


ModelConfig = Annotated[ViTConfig | ResNetConfig | HybridConfig | CnnConfig, Field(discriminator="family")]
FAMILIES: dict[str, type[ViTConfig] | type[ResNetConfig] | type[HybridConfig] | type[CnnConfig]] = {
    "vit": ViTConfig,
    "resnet": ResNetConfig,
    "hybrid": HybridConfig,
    "cnn": CnnConfig,
}


def _check_stages(width: int, groups: int, stages: tuple[int, ...]) -> None:
    if width % groups:
        raise ValueError(f"groups {groups} must divide width {width}")
    if min(stages, default=1) < 1:
        raise ValueError("every stage needs at least one block")


# --- objectives -----------------------------------------------------------------------------------------------


class Supervised(Frozen):
    """Cross-entropy with the labels."""

    kind: Literal["supervised"] = "supervised"


class MaskedPatch(Frozen):
    """Masked patch prediction: the mean colour of corrupted patches, in 512 classes (Dosovitskiy et al. 2021, B.1.2)."""

    kind: Literal["masked_patch"] = "masked_patch"
    corrupted: float = Field(default=0.5, gt=0, lt=1)  # share of the patches
    masked: float = Field(default=0.8, ge=0, le=1)  # of the corrupted: their embedding becomes the learnable [mask]
    other: float = Field(default=0.1, ge=0, le=1)  # of the corrupted: another patch's embedding; the rest stay as they are

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.masked + self.other > 1:
            raise ValueError(f"masked {self.masked} and other {self.other} are shares of the same patches: at most 1 together")
        return self


class MaeDecoder(Frozen):
    """The light decoder of a masked autoencoder: full attention, MLPs four times as wide."""

    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4, for sine and cosine positions in two dimensions")
        return self


class Mae(Frozen):
    """Masked autoencoder (He et al. 2022): normalised pixels of the masked patches, from the visible ones alone."""

    kind: Literal["mae"] = "mae"
    masked: float = Field(default=0.75, gt=0, lt=1)  # share of the patches
    decoder: MaeDecoder | None = None  # none: one that suits the encoder, filled in when a run is planned (objectives.py)


Objective = Annotated[Supervised | MaskedPatch | Mae, Field(discriminator="kind")]
SUPERVISED = Supervised()


# --- recipes --------------------------------------------------------------------------------------------------


class Recipe(Frozen):
    """How a model is trained, apart from how long. Learning rates are peaks, after warm-up."""

    preset: str
    optimizer: Literal["adamw", "sgd"]
    lr: float = Field(gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # of an encoder's rates, a factor a block from the head down; 1: off
    batch_size: int = Field(gt=0)  # global: over all workers and accumulation steps
    schedule: Literal["constant", "linear", "cosine", "rsqrt", "step"]
    warmup: float = Field(ge=0)  # steps if >= 1, else a fraction of all steps
    cooldown: float = Field(default=0.0, ge=0)  # for constant and rsqrt: linear to 0 at the end; unit as warmup
    weight_decay: float = Field(default=0.0, ge=0)  # decoupled for adamw; never on biases, norms, embeddings
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    grad_clip: float = Field(default=0.0, ge=0)  # global norm; 0 = off
    dropout: float = Field(default=0.0, ge=0, lt=1)
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)  # of the last block; earlier ones less, linearly
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Literal["none", "shift", "crop", "inception"] = "none"
    flip: bool = False
    randaugment_layers: int = Field(default=0, ge=0)  # operations drawn per image (Cubuk et al. 2020); 0: off
    randaugment_magnitude: float = Field(default=10.0, ge=0, le=30)
    mixup: float = Field(default=0.0, ge=0)  # alpha of Beta(alpha, alpha) (Zhang et al. 2018); 0: off
    cutmix: float = Field(default=0.0, ge=0)  # alpha of Beta(alpha, alpha) (Yun et al. 2019); 0: off
    ema: float = Field(default=0.0, ge=0, lt=1)  # decay a step of the averaged weights that are evaluated and kept; 0: off
    precision: Literal["auto", "fp32", "bf16"] = "auto"


# --- runs -----------------------------------------------------------------------------------------------------


class DataRef(Frozen):
    """Which samples a run sees, and in which order: `order(seed, epoch, n, lanes, window)`."""

    name: str
    identity: str  # content hash of the dataset: from its index, or of the generator's arguments
    size: int = Field(ge=0)  # unique training images: the first `size` of the train split; 0: not known, of an import
    subset_seed: int | None = None  # they are the first of a permutation of this seed instead; None: of the packed order
    lanes: int = Field(gt=0)
    window: int = Field(gt=0)
    eval_split: str


class RunConfig(Frozen):
    """One run, completely: equal configurations give equal results. Its hash is the run_id."""

    phase: Literal["pretrain", "import", "finetune", "probe"]  # import: weights from a file, in place of a pretraining
    model: ModelConfig
    image_size: int = Field(gt=0)
    classes: int = Field(gt=0)  # 1: imported weights without a head
    objective: Objective = SUPERVISED  # of a pretraining; what starts from it is always supervised
    data: DataRef
    seed: int
    parent: str | None = None  # run_id whose weights this run starts from
    steps: int = Field(default=0, ge=0)
    recipe: Recipe | None = None  # none for a probe, which is solved in closed form
    shots: int | None = Field(default=None, gt=0)  # labelled images per class, for a probe
