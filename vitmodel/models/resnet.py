"""BiT ResNet-v2 (Kolesnikov et al. 2020): pre-activation, GroupNorm, weight standardisation; also in micro sizes.

Shapes: B batch, C channels, R resolution in pixels per side.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitmodel.config.families.resnet import ResNetConfig, resnet_blocks, resnet_features
from vitmodel.models.classifier import Classifier
from vitmodel.models.residual import channels_first

STANDARDISATION_EPS = 1e-10  # official BiT: added to the variance


class StdConv2d(nn.Conv2d):
    """Convolution whose kernel has zero mean and unit variance for each output channel, at fixed padding.

    Written as a layer norm over the flattened kernel: one fused operation, forward and backward.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        weight = F.layer_norm(flat, flat.shape[1:], eps=STANDARDISATION_EPS).view_as(self.weight)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


class Block(nn.Module):
    """Pre-activation residual unit: the stride is on the first 3x3 convolution, the shortcut branches off after the norm."""

    def __init__(self, config: ResNetConfig, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        kernels = (1, 3, 1) if config.block == "bottleneck" else (3, 3)
        channels = [inputs, *[inner] * (len(kernels) - 1), outputs]
        strides = [stride if i == kernels.index(3) else 1 for i in range(len(kernels))]
        self.norms = nn.ModuleList(nn.GroupNorm(config.groups, c) for c in channels[:-1])
        self.convs = nn.ModuleList(
            StdConv2d(a, b, k, s) for a, b, k, s in zip(channels, channels[1:], kernels, strides, strict=False)
        )
        self.shortcut = StdConv2d(inputs, outputs, 1, stride) if inputs != outputs or stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.convs[0](y)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            y = conv(F.relu(norm(y)))
        return y + shortcut


class Stem(nn.Module):
    """First convolution; the ImageNet stem ends in a max pool with zero padding, as in the official code."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        kernel, stride = {"imagenet": (7, 2), "stride2": (3, 2), "stride1": (3, 1)}[config.stem]
        self.conv = StdConv2d(3, config.width, kernel, stride)
        self.pool = config.stem == "imagenet"

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2) if self.pool else x


class ResNet(Classifier):
    """Images (B, 3, S, S) in [-1, 1] to logits (B, classes)."""

    def __init__(self, config: ResNetConfig, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        features = resnet_features(config)
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(Block(config, *shape) for shape in resnet_blocks(config))
        self.norm = nn.GroupNorm(config.groups, features)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)
        self.activation_checkpointing = False

    def features(self, images: Tensor) -> Tensor:
        """Mean over the last feature map, after its norm and ReLU: (B, C)."""
        x_BCRR = self.stem(channels_first(images))
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x_BCRR = checkpoint(block, x_BCRR, use_reentrant=False)
            else:
                x_BCRR = block(x_BCRR)
        return F.relu(self.norm(x_BCRR)).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.features(images)))

    def init_weights(self) -> None:
        """He normal kernels (their scale does not matter: they are standardised) and a zero head, as in BiT."""
        for module in self.modules():
            if isinstance(module, StdConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def make(model: ResNetConfig, sides: tuple[int, int], classes: int, *, dropout: float, stochastic_depth: float) -> ResNet:
    """A ResNet for images of any size. It has no stochastic depth."""
    return ResNet(model, classes, dropout)
