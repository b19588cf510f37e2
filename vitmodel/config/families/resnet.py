"""BiT ResNets (Kolesnikov et al. 2020): ResNet-v2 of any depth and width."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, model_validator

from vitmodel.config.base import Frozen
from vitmodel.config.families.convolutions import Conv, Residual, check_stages, halved, residual_blocks, residual_convs
from vitmodel.config.families.family import Family, check_least_size

# depth: blocks per stage. 50, 101, 152: He et al. 2016, Table 1. 200: He et al. 2016b (pre-activation), Table 5.
RESNET_STAGES: dict[int, tuple[int, ...]] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


class ResNetConfig(Frozen):
    """BiT ResNet-v2: pre-activation, GroupNorm, weight standardisation (Kolesnikov et al. 2020, section 3.1)."""

    family: Literal["resnet"]
    """The family's name."""
    variant: str = Field(examples=["R16"])
    """Name of the model in results; it does not enter run ids."""
    stages: tuple[int, ...] = Field(min_length=1, examples=["[3, 4, 6, 3]"])
    """Blocks per stage; each stage after the first halves the image."""
    width: int = Field(gt=0, examples=["64"])
    """Channels of the stem; stage s has width * 2^s, counted from 0."""
    block: Literal["bottleneck", "basic"] = "bottleneck"
    """Kind of the blocks."""
    stem: Literal["imagenet", "stride2", "stride1"] = "imagenet"
    """First layer: imagenet: 7 x 7 with stride 2, and a pool; stride2 and stride1: 3 x 3, for small images."""
    groups: int = Field(default=32, gt=0)
    """Groups of the GroupNorms; they must divide the width."""

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        check_stages(self.width, self.groups, self.stages)
        return self


def resnet_blocks(model: ResNetConfig) -> Iterator[Residual]:
    """Every block, in order."""
    yield from residual_blocks(model.stages, model.width, model.block)


def resnet_features(model: ResNetConfig) -> int:
    """Channels of the last stage: the width of the representation."""
    return model.width * 2 ** (len(model.stages) - 1) * (4 if model.block == "bottleneck" else 1)


def _convs(model: ResNetConfig, image_size: int) -> Iterator[Conv]:
    resolution = image_size if model.stem == "stride1" else halved(image_size)
    yield Conv(3, model.width, 7 if model.stem == "imagenet" else 3, resolution)
    if model.stem == "imagenet":
        resolution = halved(resolution)
    yield from residual_convs(resnet_blocks(model), model.block, resolution)


def _named(variant: str) -> ResNetConfig | None:
    match = re.fullmatch(r"R(\d+)x(\d+)", variant)
    if match is None or int(match[1]) not in RESNET_STAGES or int(match[2]) < 1:
        return None
    return ResNetConfig(family="resnet", variant=variant, stages=RESNET_STAGES[int(match[1])], width=64 * int(match[2]))


def _params(model: ResNetConfig, image_size: int, classes: int) -> int:
    inner_norms = 2 if model.block == "bottleneck" else 1
    norms = sum(2 * block.inputs + inner_norms * 2 * block.inner for block in resnet_blocks(model))
    features = resnet_features(model)
    return sum(conv.params for conv in _convs(model, image_size)) + norms + 2 * features + (features + 1) * classes


def _forward_flops(model: ResNetConfig, image_size: int, classes: int) -> int:
    return sum(conv.flops for conv in _convs(model, image_size)) + 2 * resnet_features(model) * classes


RESNET = Family(
    config=ResNetConfig,
    title="BiT ResNets",
    name_forms=f"BiT R{'|'.join(map(str, RESNET_STAGES))}xWIDTH",
    published={
        **dict.fromkeys(("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4"), "Kolesnikov et al. 2020, section 3.1"),
        **dict.fromkeys(("R50x2", "R152x1", "R200x3"), "Dosovitskiy et al. 2021, Table 6"),
    },
    named=_named,
    check_image_size=lambda model, image_size: check_least_size(model.variant, image_size, 1),
    params=_params,
    forward_flops=_forward_flops,
    activation_values=lambda model, image_size: sum(conv.values for conv in _convs(model, image_size)),
    module="vitmodel.models.resnet",
)
