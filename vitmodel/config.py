"""Frozen configurations of models, data order, recipes and runs, and the size tables with their sources.

Reads nothing and imports no torch, so that a study can be planned on any laptop. Everything that decides
the result of a run stands in `RunConfig`; everything that only decides how fast it gets there does not.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Literal

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


class ViTConfig(Frozen):
    """Vision Transformer (Dosovitskiy et al. 2021, section 3.1), of any size."""

    family: Literal["vit"]
    variant: str
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    mlp_dim: int = Field(gt=0)
    heads: int = Field(gt=0)
    patch: int = Field(gt=0)
    pooling: Literal["cls", "gap"] = "cls"
    gelu: Literal["tanh", "erf"] = "tanh"

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ViTConfig:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
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
    def _groups_divide_channels(self) -> ResNetConfig:
        if self.width % self.groups:
            raise ValueError(f"groups {self.groups} must divide width {self.width}")
        if min(self.stages) < 1:
            raise ValueError("every stage needs at least one block")
        return self


ModelConfig = Annotated[ViTConfig | ResNetConfig, Field(discriminator="family")]

# name: (width, depth, mlp_dim, heads). B, L, H: ViT paper, Table 1. Ti, S: Steiner et al. 2021 ("How to train your
# ViT?"), Table 1. mu, M: big_vision's table. g, G: Zhai et al. 2022, Table 2. So400m: Alabdulmohsin et al. 2023.
VIT_SIZES: dict[str, tuple[int, int, int, int]] = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
}

# depth: blocks per stage. 50, 101, 152: He et al. 2016, Table 1. 200: He et al. 2016b (pre-activation), Table 5.
RESNET_STAGES: dict[int, tuple[int, ...]] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}

MODEL_NAMES = f"ViT {'|'.join(VIT_SIZES)}/PATCH, BiT R{'|'.join(map(str, RESNET_STAGES))}xWIDTH, or a mapping with family"


def named_model(variant: str) -> ViTConfig | ResNetConfig:
    """The configuration behind a published name such as `B/16` or `R50x1`. Raises UserError for others."""
    if match := re.fullmatch(r"(\w+)/(\d+)", variant):
        size, patch = match.groups()
        if size in VIT_SIZES and int(patch) > 0:
            width, depth, mlp_dim, heads = VIT_SIZES[size]
            return ViTConfig(
                family="vit", variant=variant, width=width, depth=depth, mlp_dim=mlp_dim, heads=heads, patch=int(patch)
            )
    if match := re.fullmatch(r"R(\d+)x(\d+)", variant):
        depth, factor = map(int, match.groups())
        if depth in RESNET_STAGES and factor > 0:
            return ResNetConfig(family="resnet", variant=variant, stages=RESNET_STAGES[depth], width=64 * factor)
    known = [f"{size}/{p}" for size in VIT_SIZES for p in (14, 16, 32)] + [
        f"R{d}x{w}" for d in RESNET_STAGES for w in (1, 2, 3, 4)
    ]
    raise UserError(f"unknown model {variant!r}{suggest(variant, known)}", allowed=MODEL_NAMES)


def check_image_size(model: ViTConfig | ResNetConfig, image_size: int) -> None:
    """Raise UserError where the model cannot take square images of this many pixels."""
    if model.family == "vit" and image_size % model.patch:
        divisors = [str(p) for p in range(1, image_size + 1) if image_size % p == 0]
        raise UserError(
            f"patch {model.patch} of {model.variant} does not divide the image size {image_size}",
            field="patch",
            allowed=", ".join(divisors),
        )


# --- recipes --------------------------------------------------------------------------------------------------


class Recipe(Frozen):
    """How a model is trained, apart from how long. Learning rates are peaks, after warm-up."""

    preset: str
    optimizer: Literal["adamw", "sgd"]
    lr: float = Field(gt=0)
    batch_size: int = Field(gt=0)  # global: over all workers and accumulation steps
    schedule: Literal["constant", "linear", "cosine", "rsqrt"]
    warmup: float = Field(ge=0)  # steps if >= 1, else a fraction of all steps
    cooldown: float = Field(default=0.0, ge=0)  # for constant and rsqrt: linear to 0 at the end; unit as warmup
    weight_decay: float = Field(default=0.0, ge=0)  # decoupled for adamw; never on biases, norms, embeddings
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    grad_clip: float = Field(default=0.0, ge=0)  # global norm; 0 = off
    dropout: float = Field(default=0.0, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Literal["none", "shift", "inception"] = "none"
    flip: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"


# --- runs -----------------------------------------------------------------------------------------------------


class DataRef(Frozen):
    """Which samples a run sees, and in which order: `order(seed, epoch, n, lanes, window)`."""

    name: str
    identity: str  # content hash of the dataset: from its index, or of the generator's arguments
    size: int = Field(gt=0)  # unique training images: the first `size` of the train split
    lanes: int = Field(gt=0)
    window: int = Field(gt=0)
    eval_split: str


class RunConfig(Frozen):
    """One run, completely: equal configurations give equal results. Its hash is the run_id."""

    phase: Literal["pretrain", "finetune", "probe"]
    model: ModelConfig
    image_size: int = Field(gt=0)
    classes: int = Field(gt=1)
    data: DataRef
    seed: int
    parent: str | None = None  # run_id whose weights this run starts from
    steps: int = Field(default=0, ge=0)
    recipe: Recipe | None = None  # none for a probe, which is solved in closed form
    shots: int | None = Field(default=None, gt=0)  # labelled images per class, for a probe
