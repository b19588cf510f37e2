"""Parameters and FLOPs of any model configuration, in closed form.

The convention, everywhere in this project: one multiply-accumulate is 2 FLOPs; matrix products and convolutions
count, attention's two products included; norms, activations and additions do not. A training step costs three
forward passes (backward = 2 x forward). The ViT paper's exaFLOPs (Table 6) follow the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vitmodel.config import ResNetConfig, ViTConfig

TRAIN_FACTOR = 3  # training FLOPs per forward FLOP


class Conv(NamedTuple):
    """A convolution without bias at its output resolution (pixels per side)."""

    inputs: int
    outputs: int
    kernel: int
    resolution: int

    @property
    def params(self) -> int:
        return self.kernel**2 * self.inputs * self.outputs

    @property
    def flops(self) -> int:
        return 2 * self.params * self.resolution**2


def count_params(model: ViTConfig | ResNetConfig, image_size: int, classes: int) -> int:
    """Trainable parameters, to the unit."""
    if isinstance(model, ViTConfig):
        return _vit_params(model, image_size, classes)
    convs = list(_resnet_convs(model, image_size))
    return sum(conv.params for conv in convs) + _resnet_norm_params(model) + (resnet_features(model) + 1) * classes


def forward_flops(model: ViTConfig | ResNetConfig, image_size: int, classes: int) -> int:
    """FLOPs of one image's forward pass."""
    if isinstance(model, ViTConfig):
        return _vit_flops(model, image_size, classes)
    return sum(conv.flops for conv in _resnet_convs(model, image_size)) + 2 * resnet_features(model) * classes


def train_flops(model: ViTConfig | ResNetConfig, image_size: int, classes: int, examples: int) -> int:
    """FLOPs of training on `examples` images, repeats counted."""
    return TRAIN_FACTOR * forward_flops(model, image_size, classes) * examples


def activation_bytes(model: ViTConfig | ResNetConfig, image_size: int, bytes_per_value: int) -> int:
    """Rough memory that one image's training step keeps for the backward pass, without checkpointing.

    ViT: per block and token about 12 width + 2 mlp_dim values (fused attention keeps no T x T matrix).
    ResNet: input of each convolution, norm and ReLU, about 4 values per convolution output.
    """
    if isinstance(model, ViTConfig):
        return bytes_per_value * model.depth * _vit_tokens(model, image_size) * (12 * model.width + 2 * model.mlp_dim)
    return bytes_per_value * sum(4 * conv.outputs * conv.resolution**2 for conv in _resnet_convs(model, image_size))


def _vit_tokens(model: ViTConfig, image_size: int) -> int:
    return (image_size // model.patch) ** 2 + (model.pooling == "cls")


def _vit_params(model: ViTConfig, image_size: int, classes: int) -> int:
    width, mlp = model.width, model.mlp_dim
    embed = (3 * model.patch**2 + 1) * width + _vit_tokens(model, image_size) * width
    block = 4 * (width + 1) * width + (width + 1) * mlp + (mlp + 1) * width + 4 * width
    return embed + (model.pooling == "cls") * width + model.depth * block + 2 * width + (width + 1) * classes


def _vit_flops(model: ViTConfig, image_size: int, classes: int) -> int:
    tokens, width = _vit_tokens(model, image_size), model.width
    patches = (image_size // model.patch) ** 2
    embed = 2 * patches * 3 * model.patch**2 * width
    block = 2 * tokens * (4 * width**2 + 2 * width * model.mlp_dim) + 4 * tokens**2 * width
    return embed + model.depth * block + 2 * width * classes


def resnet_features(model: ResNetConfig) -> int:
    """Channels of the last stage: the width of the representation."""
    return model.width * 2 ** (len(model.stages) - 1) * (4 if model.block == "bottleneck" else 1)


def resnet_blocks(model: ResNetConfig) -> Iterator[tuple[int, int, int, int]]:
    """(input channels, inner channels, output channels, stride) of every block, in order."""
    channels = model.width
    for stage, blocks in enumerate(model.stages):
        inner = model.width * 2**stage
        for block in range(blocks):
            outputs = inner * (4 if model.block == "bottleneck" else 1)
            yield channels, inner, outputs, 2 if stage and not block else 1
            channels = outputs


def _halved(resolution: int) -> int:
    return (resolution + 1) // 2


def _resnet_convs(model: ResNetConfig, image_size: int) -> Iterator[Conv]:
    resolution = image_size if model.stem == "stride1" else _halved(image_size)
    yield Conv(3, model.width, 7 if model.stem == "imagenet" else 3, resolution)
    if model.stem == "imagenet":
        resolution = _halved(resolution)
    for inputs, inner, outputs, stride in resnet_blocks(model):
        after = _halved(resolution) if stride == 2 else resolution
        if inputs != outputs or stride == 2:
            yield Conv(inputs, outputs, 1, after)
        if model.block == "bottleneck":
            yield from (Conv(inputs, inner, 1, resolution), Conv(inner, inner, 3, after), Conv(inner, outputs, 1, after))
        else:
            yield from (Conv(inputs, inner, 3, after), Conv(inner, outputs, 3, after))
        resolution = after


def _resnet_norm_params(model: ResNetConfig) -> int:
    inner_norms = 2 if model.block == "bottleneck" else 1
    blocks = sum(2 * inputs + inner_norms * 2 * inner for inputs, inner, _, _ in resnet_blocks(model))
    return blocks + 2 * resnet_features(model)
