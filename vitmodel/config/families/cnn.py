"""The smaller CNNs of the field, of any width: AlexNet, MobileNetV2, ResNet-34 and ResNet-50 with BatchNorm.

Sources: AlexNet: Krizhevsky 2014 (one tower), section 5, as in torchvision. MobileNetV2: Sandler et al. 2018, Table 2.
ResNets: He et al. 2016, Table 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from vitmodel.config.base import Frozen
from vitmodel.config.families.convolutions import Conv, Residual, halved, residual_blocks, residual_convs
from vitmodel.config.families.family import Family, check_least_size

Architecture = Literal["alexnet", "mobilenetv2", "resnet34", "resnet50"]
CNN_NAMES: dict[str, Architecture] = {
    "AlexNet": "alexnet",
    "MobileNetV2": "mobilenetv2",
    "ResNet-34": "resnet34",
    "ResNet-50": "resnet50",
}

ALEXNET_GRID = 6  # pixels per side of the input of the dense layers
ALEXNET_DENSE = 4096
ALEXNET_CHANNELS = (64, 192, 384, 256, 256)
ALEXNET_LEAST_PIXELS = {"imagenet": 63, "small": 29}  # for its third pool to have an output
MOBILENET_LAST = 1280

# expansion, channels, blocks, stride of the first block (Sandler et al. 2018, Table 2: t, c, n, s).
MOBILENET_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
CNN_STAGES = {"resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


class CnnConfig(Frozen):
    """The smaller CNNs of the field, with BatchNorm where they have a norm."""

    family: Literal["cnn"]
    """The family's name."""
    variant: str = Field(examples=["MobileNetV2 half"])
    """Name of the model in results; it does not enter run ids."""
    architecture: Architecture = Field(examples=["mobilenetv2"])
    """Architecture of the layers."""
    width_factor: float = Field(default=1.0, gt=0)
    """Factor on all channels."""
    stem: Literal["imagenet", "small"] = "imagenet"
    """First layer; small: smaller strides at the start, for images of 32 to 64 pixels."""


def scaled(model: CnnConfig, channels: int) -> int:
    """Channels times the width factor, to a multiple of 8 and never below 9/10 (Sandler et al. 2018, official code)."""
    if model.width_factor == 1:
        return channels
    exact = channels * model.width_factor
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


def cnn_blocks(model: CnnConfig) -> Iterator[Residual]:
    """Every residual block of a ResNet or MobileNetV2, in order; for MobileNetV2 `inner` is the expanded width."""
    if model.architecture != "mobilenetv2":
        width = scaled(model, 64)
        yield from residual_blocks(CNN_STAGES[model.architecture], width, cnn_block_kind(model))
        return
    channels = scaled(model, 32)
    for number, (expansion, unscaled, blocks, first_stride) in enumerate(MOBILENET_STAGES):
        outputs = scaled(model, unscaled)
        keeps_size = number < 2 and model.stem == "small"
        for block in range(blocks):
            stride = first_stride if block == 0 and not keeps_size else 1
            yield Residual(channels, channels * expansion, outputs, stride)
            channels = outputs


def cnn_block_kind(model: CnnConfig) -> str:
    """basic: two 3x3 convolutions; bottleneck: 1x1, 3x3, 1x1."""
    return "basic" if model.architecture == "resnet34" else "bottleneck"


def cnn_features(model: CnnConfig) -> int:
    """Width of the representation."""
    if model.architecture == "alexnet":
        return scaled(model, ALEXNET_DENSE)
    if model.architecture == "mobilenetv2":
        return max(MOBILENET_LAST, scaled(model, MOBILENET_LAST))  # narrow networks keep 1280 (section 6.1.2)
    return list(cnn_blocks(model))[-1].outputs


def alexnet_stem(model: CnnConfig) -> tuple[int, int, int]:
    """Kernel, stride and padding of the first convolution."""
    return (11, 4, 2) if model.stem == "imagenet" else (3, 2, 1)


def _convs(model: CnnConfig, image_size: int) -> Iterator[Conv]:
    if model.architecture == "alexnet":
        yield from _alexnet_convs(model, image_size)
    elif model.architecture == "mobilenetv2":
        yield from _mobilenet_convs(model, image_size)
    else:
        resolution = image_size if model.stem == "small" else halved(image_size)
        yield Conv(3, scaled(model, 64), 3 if model.stem == "small" else 7, resolution)
        resolution = resolution if model.stem == "small" else halved(resolution)
        yield from residual_convs(cnn_blocks(model), cnn_block_kind(model), resolution)


def _alexnet_convs(model: CnnConfig, image_size: int) -> Iterator[Conv]:
    kernel, stride, padding = alexnet_stem(model)
    resolution = (image_size + 2 * padding - kernel) // stride + 1
    inputs = 3
    for number, channels in enumerate(ALEXNET_CHANNELS):
        outputs = scaled(model, channels)
        yield Conv(inputs, outputs, (kernel, 5, 3, 3, 3)[number], resolution)
        if number < 2:  # max pools of 3 at stride 2 after the first two, and after the last
            resolution = (resolution - 3) // 2 + 1
        inputs = outputs


def _mobilenet_convs(model: CnnConfig, image_size: int) -> Iterator[Conv]:
    resolution = image_size if model.stem == "small" else halved(image_size)
    blocks = list(cnn_blocks(model))
    yield Conv(3, blocks[0].inputs, 3, resolution)
    for inputs, inner, outputs, stride in blocks:
        after = halved(resolution) if stride == 2 else resolution
        if inner != inputs:
            yield Conv(inputs, inner, 1, resolution)
        yield Conv(inner, inner, 3, after, groups=inner)
        yield Conv(inner, outputs, 1, after)
        resolution = after
    yield Conv(blocks[-1].outputs, cnn_features(model), 1, resolution)


def _dense_layers(model: CnnConfig, classes: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of every dense layer; 0 classes: no head."""
    features = cnn_features(model)
    if model.architecture != "alexnet":
        return [(features, classes)]
    flat = ALEXNET_GRID**2 * scaled(model, ALEXNET_CHANNELS[-1])
    return [(flat, features), (features, features), (features, classes)]


def _named(variant: str) -> CnnConfig | None:
    return CnnConfig(family="cnn", variant=variant, architecture=CNN_NAMES[variant]) if variant in CNN_NAMES else None


def _check_image_size(model: CnnConfig, image_size: int) -> None:
    check_least_size(model.variant, image_size, ALEXNET_LEAST_PIXELS[model.stem] if model.architecture == "alexnet" else 1)


def _params(model: CnnConfig, image_size: int, classes: int) -> int:
    per_output = 1 if model.architecture == "alexnet" else 2  # a bias, or a norm's scale and bias
    convs = sum(conv.params + per_output * conv.outputs for conv in _convs(model, image_size))
    return convs + sum((inputs + 1) * outputs for inputs, outputs in _dense_layers(model, classes))


def _forward_flops(model: CnnConfig, image_size: int, classes: int) -> int:
    dense = sum(2 * inputs * outputs for inputs, outputs in _dense_layers(model, classes))
    return sum(conv.flops for conv in _convs(model, image_size)) + dense


CNN = Family(
    config=CnnConfig,
    title="the smaller CNNs",
    name_forms=", ".join(CNN_NAMES),
    published={
        "AlexNet": "Krizhevsky 2014, section 5",
        "MobileNetV2": "Sandler et al. 2018, Table 2",
        **dict.fromkeys(("ResNet-34", "ResNet-50"), "He et al. 2016, Table 1"),
    },
    named=_named,
    check_image_size=_check_image_size,
    params=_params,
    forward_flops=_forward_flops,
    activation_values=lambda model, image_size: sum(conv.values for conv in _convs(model, image_size)),
    module="vitmodel.models.cnn",
    has_statistics=True,
)
