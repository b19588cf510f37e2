"""Shared by convolutional families: the post-activation residual block (He et al. 2016), and the memory format of images.

The stride is on the first 3x3 convolution, as in torchvision and in the official hybrids. Shapes: B batch, C
channels, R resolution in pixels per side.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vitmodel.config.families.convolutions import Residual

MakeConv = Callable[[int, int, int, int], nn.Module]  # inputs, outputs, kernel, stride
MakeNorm = Callable[[int], nn.Module]  # channels


def channels_first(images: Tensor) -> Tensor:
    """On a CPU, convert images from channels-last (the memory format of decoded images) to channels-first.

    On a CPU channels-last is slower, and oneDNN (torch 2.13) crashes in the backward pass of a 1x1 convolution with
    stride 2 and 8 channels.
    """
    return images.contiguous() if images.device.type == "cpu" else images


class PostActivation(nn.Module):
    """A residual block: a norm after every convolution, the last ReLU after the addition."""

    def __init__(self, block: Residual, kind: str, conv: MakeConv, norm: MakeNorm) -> None:
        super().__init__()
        kernels = (1, 3, 1) if kind == "bottleneck" else (3, 3)
        channels = [block.inputs, *[block.inner] * (len(kernels) - 1), block.outputs]
        strides = [block.stride if i == kernels.index(3) else 1 for i in range(len(kernels))]
        self.convs = nn.ModuleList(
            conv(a, b, k, s) for a, b, k, s in zip(channels, channels[1:], kernels, strides, strict=False)
        )
        self.norms = nn.ModuleList(norm(c) for c in channels[1:])
        self.shortcut = conv(block.inputs, block.outputs, 1, block.stride) if block.has_projection else None
        self.shortcut_norm = norm(block.outputs) if block.has_projection else None

    def forward(self, x_BCRR: Tensor) -> Tensor:
        y = x_BCRR
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), 1):
            y = norm(conv(y))
            if number < len(self.convs):
                y = F.relu(y)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x_BCRR = self.shortcut_norm(self.shortcut(x_BCRR))
        return F.relu(y + x_BCRR)
