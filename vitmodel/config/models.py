"""Configurations of the model families. Sizes published under a name: variants.py."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vitmodel.config.base import Frozen


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
