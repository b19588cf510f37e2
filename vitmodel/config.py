"""Frozen configurations of models, data order, recipes and runs, and the size tables with their sources.

Reads nothing and imports no torch, so that a study can be planned on any laptop. Everything that decides
the result of a run stands in `RunConfig`; everything that only decides how fast it gets there does not.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, Self

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

# ResNet below a hybrid: blocks per stage where the map ends at 1/32. At 1/16 the last stage's blocks move into the one
# before (ViT paper, section 4.1: "same number of layers in stage 3"). 26: Steiner et al. 2021, Table 1.
HYBRID_STAGES: dict[int, tuple[int, ...]] = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3)}

CNN_NAMES: dict[str, Literal["alexnet", "mobilenetv2", "resnet34", "resnet50"]] = {
    "AlexNet": "alexnet",
    "MobileNetV2": "mobilenetv2",
    "ResNet-34": "resnet34",
    "ResNet-50": "resnet50",
}

ALEXNET_LEAST_PIXELS = {"imagenet": 63, "small": 29}  # below, its third pool has nothing left

# Every variant that a paper has published, with the place where it stands: what `list_variants` lists.
_VIT_PAPER, _STEINER = "Dosovitskiy et al. 2021, Table 1", "Steiner et al. 2021, Table 1"
_BIT, _HYBRIDS = "Kolesnikov et al. 2020, section 3.1", "Dosovitskiy et al. 2021, Table 6"
NAMED_VARIANTS: dict[str, str] = {
    "mu/16": "big_vision, models/vit.py",
    **dict.fromkeys(("Ti/16", "S/32", "S/16"), _STEINER),
    **dict.fromkeys(("M/32", "M/16"), "big_vision, models/vit.py"),
    **dict.fromkeys(("B/32", "B/16", "L/32", "L/16", "H/14"), _VIT_PAPER),
    "So400m/14": "Alabdulmohsin et al. 2023, section 5",
    **dict.fromkeys(("g/14", "G/14"), "Zhai et al. 2022, Table 2"),
    **dict.fromkeys(("R+Ti/16", "R26+S/32", "R26+B/32"), _STEINER),
    **dict.fromkeys(("R50+B/32", "R50+B/16", "R50+L/32", "R50+L/16"), _HYBRIDS),
    **dict.fromkeys(("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4"), _BIT),
    **dict.fromkeys(("R50x2", "R152x1", "R200x3"), _HYBRIDS),
    "AlexNet": "Krizhevsky 2014, section 5",
    "MobileNetV2": "Sandler et al. 2018, Table 2",
    **dict.fromkeys(("ResNet-34", "ResNet-50"), "He et al. 2016, Table 1"),
}

MODEL_NAMES = (
    f"ViT {'|'.join(VIT_SIZES)}/PATCH, BiT R{'|'.join(map(str, RESNET_STAGES))}xWIDTH, hybrid R26|R50+SIZE/16|32, "
    f"{', '.join(CNN_NAMES)}, or a mapping with family"
)


def named_model(variant: str) -> ModelConfig:
    """The configuration behind a published name: `B/16`, `R50x1`, `R50+B/16`, `ResNet-50`. Raises UserError for others."""
    if match := re.fullmatch(r"(\w+)/(\d+)", variant):
        size, patch = match.groups()
        if size in VIT_SIZES and int(patch) > 0:
            return ViTConfig(family="vit", variant=variant, patch=int(patch), **_encoder_size(size))
    if match := re.fullmatch(r"R(\d+)x(\d+)", variant):
        depth, factor = map(int, match.groups())
        if depth in RESNET_STAGES and factor > 0:
            return ResNetConfig(family="resnet", variant=variant, stages=RESNET_STAGES[depth], width=64 * factor)
    if (hybrid := _named_hybrid(variant)) is not None:
        return hybrid
    if variant in CNN_NAMES:
        return CnnConfig(family="cnn", variant=variant, architecture=CNN_NAMES[variant])
    known = list(NAMED_VARIANTS) + [f"{size}/{p}" for size in VIT_SIZES for p in (14, 16, 32)]
    raise UserError(f"unknown model {variant!r}{suggest(variant, known)}", allowed=MODEL_NAMES)


def _encoder_size(size: str) -> dict[str, Any]:
    return dict(zip(("width", "depth", "mlp_dim", "heads"), VIT_SIZES[size], strict=True))


def _named_hybrid(variant: str) -> HybridConfig | None:
    """`R50+B/16`: the last number is the total down-sampling ratio (ViT paper, Table 6), not a patch."""
    if variant == "R+Ti/16":  # the official name; the stem alone divides by 4, the patch by 8
        return HybridConfig(family="hybrid", variant=variant, stages=(), patch=8, **_encoder_size("Ti"))
    match = re.fullmatch(r"R(26|50)\+(\w+)/(16|32)", variant)
    if match is None or match[2] not in VIT_SIZES:
        return None
    stages = HYBRID_STAGES[int(match[1])]
    if match[3] == "16":
        stages = (*stages[:2], stages[2] + stages[3])
    return HybridConfig(family="hybrid", variant=variant, stages=stages, **_encoder_size(match[2]))


def halved(pixels: int) -> int:
    """Side of a map after a step of stride 2 that keeps the borders."""
    return (pixels + 1) // 2


def patch_grid(model: ViTConfig | HybridConfig, image_size: int) -> int:
    """Patches along one side of the image."""
    pixels = image_size
    if isinstance(model, HybridConfig):
        for _ in range(2 + max(0, len(model.stages) - 1)):  # convolution, pool, every stage but the first
            pixels = halved(pixels)
    return pixels // model.patch


def check_image_size(model: ModelConfig, image_size: int) -> None:
    """Raise UserError where the model cannot take square images of this many pixels."""
    if isinstance(model, CnnConfig | ResNetConfig):
        least = ALEXNET_LEAST_PIXELS[model.stem] if isinstance(model, CnnConfig) and model.architecture == "alexnet" else 1
        if image_size < least:
            raise UserError(f"{model.variant} leaves nothing of an image of {image_size} pixels", allowed=f"{least} or more")
        return
    if isinstance(model, ViTConfig) and image_size % model.patch:
        divisors = [str(p) for p in range(1, image_size + 1) if image_size % p == 0]
        raise UserError(
            f"patch {model.patch} of {model.variant} does not divide the image size {image_size}",
            field="patch",
            allowed=", ".join(divisors),
        )
    grid = patch_grid(model, image_size)
    if grid < 1:
        raise UserError(f"{model.variant} leaves no patch of an image of {image_size} pixels", field="patch")
    if model.mixer == "window" and grid % model.window:
        sides = [str(side) for side in range(1, grid + 1) if grid % side == 0]
        raise UserError(
            f"window {model.window} of {model.variant} does not divide the grid of {grid} patches",
            field="window",
            allowed=", ".join(sides),
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
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)  # of the last block; earlier ones less, linearly
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Literal["none", "shift", "inception"] = "none"
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
