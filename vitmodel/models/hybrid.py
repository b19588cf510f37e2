"""Hybrid (Dosovitskiy et al. 2021, section 3.1): the ViT encoder on the feature map of a post-activation ResNet.

As in the official code: GroupNorm with eps 1e-6, kernels standardised by (std + 1e-5), TensorFlow's SAME padding, no norm
after the last stage. Shapes: B batch, C channels, R resolution in pixels per side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmodel.config.families.hybrid import HybridConfig, hybrid_blocks
from vitmodel.models.residual import PostActivation, channels_first
from vitmodel.models.vit import PatchEmbed, ViT

STANDARDISATION_EPS = 1e-5  # official hybrids: added to the standard deviation, not to the variance
GROUP_NORM_EPS = 1e-6


def pad_same(x_BCRR: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """TensorFlow's SAME padding: the output has ceil(R / stride) pixels, an odd pixel of padding is at the end."""
    totals = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x_BCRR.shape[-2:]]
    (top, left), (bottom, right) = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return F.pad(x_BCRR, (left, right, top, bottom), value=value) if any(totals) else x_BCRR


class StdConvSame(nn.Conv2d):
    """Convolution with a standardised kernel and SAME padding, without bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        std, mean = torch.std_mean(flat, dim=1, correction=0, keepdim=True)
        weight = ((flat - mean) / (std + STANDARDISATION_EPS)).view_as(self.weight)
        return F.conv2d(pad_same(x, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


class Backbone(nn.Module):
    """Stem and stages: images to a map at 1/4, 1/8, 1/16 or 1/32."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()

        def norm(channels: int) -> nn.GroupNorm:
            return nn.GroupNorm(config.groups, channels, eps=GROUP_NORM_EPS)

        self.conv = StdConvSame(3, config.stem_width, 7, 2)
        self.norm = norm(config.stem_width)
        self.blocks = nn.ModuleList(PostActivation(b, "bottleneck", StdConvSame, norm) for b in hybrid_blocks(config))

    def forward(self, images: Tensor) -> Tensor:
        x_BCRR = F.relu(self.norm(self.conv(channels_first(images))))
        x_BCRR = F.max_pool2d(pad_same(x_BCRR, 3, 2, float("-inf")), 3, stride=2)
        for block in self.blocks:
            x_BCRR = block(x_BCRR)
        return x_BCRR


class HybridEmbed(PatchEmbed):
    """Image to a sequence of linearly embedded patches of the ResNet's map."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config.width, config.patch, config.patch_channels)
        self.backbone = Backbone(config)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self.backbone(images))

    def init_weights(self) -> None:
        """LeCun normal kernels; each residual branch starts at zero, as in the official code."""
        super().init_weights()
        for module in self.backbone.modules():
            if isinstance(module, StdConvSame):
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            elif isinstance(module, PostActivation):
                nn.init.zeros_(module.norms[-1].get_parameter("weight"))


def make(model: HybridConfig, sides: tuple[int, int], classes: int, *, dropout: float, stochastic_depth: float) -> ViT:
    """A hybrid for images of these (height, width)."""
    grid = model.patch_grid(sides[0]), model.patch_grid(sides[1])
    return ViT(model, HybridEmbed(model), grid, classes, dropout=dropout, stochastic_depth=stochastic_depth)
