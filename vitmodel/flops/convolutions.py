"""The convolutions of every convolutional model, in the order in which they are applied: one table to build and to count by.

Reads configurations, imports no torch. Sources: AlexNet: Krizhevsky 2014 (one tower), section 5, as torchvision has
it. MobileNetV2: Sandler et al. 2018, Table 2. ResNets: He et al. 2016, Table 1; v2: He et al. 2016b.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vitmodel.config.models import CnnConfig, HybridConfig, ResNetConfig
from vitmodel.flops.grid import halved

ALEXNET_GRID = 6  # pixels per side that the dense layers see
ALEXNET_DENSE = 4096
ALEXNET_CHANNELS = (64, 192, 384, 256, 256)
MOBILENET_LAST = 1280

# expansion, channels, blocks, stride of the first block (Sandler et al. 2018, Table 2: t, c, n, s).
MOBILENET_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
CNN_STAGES = {"resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


class Conv(NamedTuple):
    """A convolution at its output resolution (pixels per side)."""

    inputs: int
    outputs: int
    kernel: int
    resolution: int
    groups: int = 1

    @property
    def params(self) -> int:
        return self.kernel**2 * self.inputs // self.groups * self.outputs

    @property
    def flops(self) -> int:
        return 2 * self.params * self.resolution**2


class Residual(NamedTuple):
    """Channels and stride of one residual block; `inner` is the width of its 3x3 convolution."""

    inputs: int
    inner: int
    outputs: int
    stride: int

    @property
    def has_projection(self) -> bool:
        return self.inputs != self.outputs or self.stride != 1


def residual_blocks(stages: tuple[int, ...], width: int, block: str) -> Iterator[Residual]:
    """Every block in order. Each stage after the first doubles the width and halves the map."""
    channels = width
    for stage, blocks in enumerate(stages):
        inner = width * 2**stage
        for number in range(blocks):
            outputs = inner * (4 if block == "bottleneck" else 1)
            yield Residual(channels, inner, outputs, 2 if stage and not number else 1)
            channels = outputs


def resnet_features(model: ResNetConfig) -> int:
    """Channels of the last stage: the width of the representation."""
    return model.width * 2 ** (len(model.stages) - 1) * (4 if model.block == "bottleneck" else 1)


def resnet_blocks(model: ResNetConfig) -> Iterator[Residual]:
    """Every block of a BiT ResNet, in order."""
    yield from residual_blocks(model.stages, model.width, model.block)


def resnet_convs(model: ResNetConfig, image_size: int) -> Iterator[Conv]:
    """Every convolution of a BiT ResNet."""
    resolution = image_size if model.stem == "stride1" else halved(image_size)
    yield Conv(3, model.width, 7 if model.stem == "imagenet" else 3, resolution)
    if model.stem == "imagenet":
        resolution = halved(resolution)
    yield from _residual_convs(resnet_blocks(model), model.block, resolution)


# --- hybrids --------------------------------------------------------------------------------------------------


def hybrid_blocks(model: HybridConfig) -> Iterator[Residual]:
    """Every block of the ResNet below a hybrid, in order."""
    yield from residual_blocks(model.stages, model.stem_width, "bottleneck")


def hybrid_features(model: HybridConfig) -> int:
    """Channels of the map that the patches are cut from."""
    return model.stem_width * (4 * 2 ** (len(model.stages) - 1) if model.stages else 1)


def hybrid_convs(model: HybridConfig, image_size: int) -> Iterator[Conv]:
    """Every convolution below the patch embedding."""
    resolution = halved(image_size)
    yield Conv(3, model.stem_width, 7, resolution)
    yield from _residual_convs(hybrid_blocks(model), "bottleneck", halved(resolution))


# --- smaller CNNs ---------------------------------------------------------------------------------------------


def scaled(model: CnnConfig, channels: int) -> int:
    """Channels times the width factor, to a multiple of 8 and never below 9/10 (Sandler et al. 2018, official code)."""
    if model.width_factor == 1:
        return channels
    wanted = channels * model.width_factor
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def cnn_blocks(model: CnnConfig) -> Iterator[Residual]:
    """Every residual block of a ResNet or MobileNetV2, in order; of MobileNetV2 `inner` is the expanded width."""
    if model.architecture != "mobilenetv2":
        width = scaled(model, 64)
        yield from residual_blocks(CNN_STAGES[model.architecture], width, cnn_block_kind(model))
        return
    channels = scaled(model, 32)
    for number, (expansion, wanted, blocks, first_stride) in enumerate(MOBILENET_STAGES):
        outputs = scaled(model, wanted)
        keeps_size = number < 2 and model.stem == "small"
        for block in range(blocks):
            stride = first_stride if block == 0 and not keeps_size else 1
            yield Residual(channels, channels * expansion, outputs, stride)
            channels = outputs


def cnn_block_kind(model: CnnConfig) -> str:
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1."""
    return "basic" if model.architecture == "resnet34" else "bottleneck"


def cnn_features(model: CnnConfig) -> int:
    """Width of the representation."""
    if model.architecture == "alexnet":
        return scaled(model, ALEXNET_DENSE)
    if model.architecture == "mobilenetv2":
        return max(MOBILENET_LAST, scaled(model, MOBILENET_LAST))  # narrow nets keep 1280 (section 6.1.2)
    return list(cnn_blocks(model))[-1].outputs


def alexnet_stem(model: CnnConfig) -> tuple[int, int, int]:
    """Kernel, stride and padding of the first convolution."""
    return (11, 4, 2) if model.stem == "imagenet" else (3, 2, 1)


def cnn_convs(model: CnnConfig, image_size: int) -> Iterator[Conv]:
    """Every convolution of one of the smaller CNNs."""
    if model.architecture == "alexnet":
        yield from _alexnet_convs(model, image_size)
    elif model.architecture == "mobilenetv2":
        yield from _mobilenet_convs(model, image_size)
    else:
        resolution = image_size if model.stem == "small" else halved(image_size)
        yield Conv(3, scaled(model, 64), 3 if model.stem == "small" else 7, resolution)
        resolution = resolution if model.stem == "small" else halved(resolution)
        yield from _residual_convs(cnn_blocks(model), cnn_block_kind(model), resolution)


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


def _residual_convs(blocks: Iterator[Residual], kind: str, resolution: int) -> Iterator[Conv]:
    for block in blocks:
        inputs, inner, outputs, stride = block
        after = halved(resolution) if stride == 2 else resolution
        if block.has_projection:
            yield Conv(inputs, outputs, 1, after)
        if kind == "bottleneck":
            yield from (Conv(inputs, inner, 1, resolution), Conv(inner, inner, 3, after), Conv(inner, outputs, 1, after))
        else:
            yield from (Conv(inputs, inner, 3, after), Conv(inner, outputs, 3, after))
        resolution = after
