"""Hybrids (Dosovitskiy et al. 2021, sections 3.1 and 4.1): the ViT encoder on the feature map of a ResNet."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from vitmodel.config.families.convolutions import (
    Conv,
    Residual,
    check_stages,
    halved,
    norm_params,
    residual_blocks,
    residual_convs,
)
from vitmodel.config.families.encoder import (
    PatchEncoderConfig,
    check_patches,
    encoder_flops,
    encoder_params,
    encoder_values,
)
from vitmodel.config.families.family import Family
from vitmodel.config.families.vit import STEINER, VIT_SIZES, encoder_size

# ResNet of a hybrid: blocks per stage for a map at 1/32. For one at 1/16 the blocks of the last stage belong to the one
# before (ViT paper, section 4.1: "same number of layers in stage 3"). 26: Steiner et al. 2021, Table 1.
HYBRID_STAGES: dict[int, tuple[int, ...]] = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


class HybridConfig(PatchEncoderConfig):
    """Vision Transformer on the feature map of a post-activation ResNet (Dosovitskiy et al. 2021, sections 3.1 and 4.1)."""

    family: Literal["hybrid"]
    """The family's name."""
    variant: str = Field(examples=["H64"])
    """Name of the model in results; it does not enter run ids."""
    stages: tuple[int, ...] = Field(examples=["[3, 4, 9]"])
    """Bottleneck blocks per stage; each stage after the first halves the feature map. An empty list: the stem only."""
    stem_width: int = Field(default=64, gt=0)
    """Channels of the stem."""
    groups: int = Field(default=32, gt=0)
    """Groups of the GroupNorms; they must divide the stem's width."""
    patch: int = Field(default=1, gt=0)
    """Side of a patch in pixels of the feature map."""

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        check_stages(self.stem_width, self.groups, self.stages)
        return self

    @property
    def patch_channels(self) -> int:
        """Channels of the feature map."""
        return self.stem_width * (4 * 2 ** (len(self.stages) - 1) if self.stages else 1)

    def map_size(self, image_size: int) -> int:
        """Side of the feature map in pixels."""
        pixels = image_size
        for _ in range(2 + max(0, len(self.stages) - 1)):  # convolution, pool, every stage but the first
            pixels = halved(pixels)
        return pixels


def hybrid_blocks(model: HybridConfig) -> Iterator[Residual]:
    """Every block of the ResNet, in order."""
    yield from residual_blocks(model.stages, model.stem_width, "bottleneck")


def _convs(model: HybridConfig, image_size: int) -> Iterator[Conv]:
    """Every convolution before the patch embedding."""
    resolution = halved(image_size)
    yield Conv(3, model.stem_width, 7, resolution)
    yield from residual_convs(hybrid_blocks(model), "bottleneck", halved(resolution))


def _named(variant: str) -> HybridConfig | None:
    """`R50+B/16`: the last number is the total down-sampling ratio (ViT paper, Table 6), not a patch."""
    if variant == "R+Ti/16":  # the official name; the stem divides by 4, the patch by 8
        return HybridConfig(family="hybrid", variant=variant, stages=(), patch=8, **encoder_size("Ti"))
    match = re.fullmatch(r"R(26|50)\+(\w+)/(16|32)", variant)
    if match is None or match[2] not in VIT_SIZES:
        return None
    stages = HYBRID_STAGES[int(match[1])]
    if match[3] == "16":
        stages = (*stages[:2], stages[2] + stages[3])
    return HybridConfig(family="hybrid", variant=variant, stages=stages, **encoder_size(match[2]))


def _params(model: HybridConfig, image_size: int, classes: int) -> int:
    convs = sum(conv.params for conv in _convs(model, image_size))
    norms = 2 * model.stem_width + sum(norm_params(block, "bottleneck") for block in hybrid_blocks(model))
    return convs + norms + encoder_params(model, image_size, classes)


def _forward_flops(model: HybridConfig, image_size: int, classes: int) -> int:
    return sum(conv.flops for conv in _convs(model, image_size)) + encoder_flops(model, image_size, classes)


def _activation_values(model: HybridConfig, image_size: int) -> int:
    return sum(conv.values for conv in _convs(model, image_size)) + encoder_values(model, image_size)


HYBRID = Family(
    config=HybridConfig,
    title="hybrids",
    name_forms="hybrid R26|R50+SIZE/16|32",
    published={
        **dict.fromkeys(("R+Ti/16", "R26+S/32", "R26+B/32"), STEINER),
        **dict.fromkeys(("R50+B/32", "R50+B/16", "R50+L/32", "R50+L/16"), "Dosovitskiy et al. 2021, Table 6"),
    },
    named=_named,
    check_image_size=lambda model, image_size: check_patches(model, model.variant, image_size),
    params=_params,
    forward_flops=_forward_flops,
    activation_values=_activation_values,
    module="vitmodel.models.hybrid",
)
