"""The smaller CNNs: AlexNet, MobileNetV2, ResNet-34 and ResNet-50 (with BatchNorm), from the tables of config/families/cnn.py.

Shapes: B batch, C channels, R resolution in pixels per side. BatchNorm's running statistics are fp32 for any precision of
the weights, and differ between workers until `synchronise_statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitmodel.config.families.cnn import (
    ALEXNET_CHANNELS,
    ALEXNET_GRID,
    CnnConfig,
    alexnet_stem,
    cnn_block_kind,
    cnn_blocks,
    cnn_features,
    scaled,
)
from vitmodel.config.families.convolutions import Residual
from vitmodel.models.classifier import Classifier
from vitmodel.models.residual import PostActivation, channels_first

MOMENTUM, EPS = 0.1, 1e-5  # of BatchNorm, as in torchvision


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015), computed in fp32 or wider."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.updates_statistics = True

    def forward(self, x_BCRR: Tensor) -> Tensor:
        wide = torch.promote_types(x_BCRR.dtype, torch.float32)
        mean, var = self.running_mean, self.running_var
        if self.training and not self.updates_statistics:
            mean, var = mean.clone(), var.clone()
        y = F.batch_norm(
            x_BCRR.to(wide),
            mean,
            var,
            self.weight.to(wide),
            self.bias.to(wide),
            training=self.training,
            momentum=MOMENTUM,
            eps=EPS,
        )
        return y.to(x_BCRR.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BatchNorm:
        """Keep the statistics in fp32 when the module is converted, for example by `module.bfloat16()`."""
        before = {"running_mean": self.running_mean, "running_var": self.running_var}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, statistic in before.items():
            now = getattr(self, name)
            if now.dtype.itemsize < statistic.dtype.itemsize:
                setattr(self, name, statistic.to(now.device))
        return self


def synchronise_statistics(module: nn.Module) -> None:
    """Average BatchNorm's running statistics over all workers. Collective; does nothing for a module without BatchNorm."""
    norms = [norm for norm in module.modules() if isinstance(norm, BatchNorm)]
    if not norms or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    statistics = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    flat = torch.cat(statistics)
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for statistic, mean in zip(statistics, torch.split(flat, [s.numel() for s in statistics]), strict=True):
        statistic.copy_(mean)


class ConvNorm(nn.Module):
    """Convolution, BatchNorm and, if given, an activation."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, act: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv = _conv(inputs, outputs, kernel, stride, groups)
        self.norm = BatchNorm(outputs)
        self.act = act or nn.Identity()

    def forward(self, x_BCRR: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x_BCRR)))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expansion, depthwise convolution, linear projection (section 3.3)."""

    def __init__(self, block: Residual) -> None:
        super().__init__()
        inputs, inner, outputs, stride = block
        self.adds_input = not block.has_projection
        self.widen = ConvNorm(inputs, inner, 1, act=nn.ReLU6()) if inner != inputs else nn.Identity()
        self.convolve = ConvNorm(inner, inner, 3, stride, groups=inner, act=nn.ReLU6())
        self.narrow = ConvNorm(inner, outputs, 1)

    def forward(self, x_BCRR: Tensor) -> Tensor:
        y = self.narrow(self.convolve(self.widen(x_BCRR)))
        return x_BCRR + y if self.adds_input else y


class Cnn(Classifier):
    """Images (B, 3, S, S) in [-1, 1] to logits (B, classes). AlexNet's dropout is between its dense layers."""

    def __init__(self, config: CnnConfig, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        is_alexnet = config.architecture == "alexnet"
        self.blocks = nn.ModuleList(_alexnet(config, dropout) if is_alexnet else _with_batch_norm(config))
        self.drop = nn.Dropout(0.0 if is_alexnet else dropout)
        self.head = nn.Linear(cnn_features(config), classes)
        self.activation_checkpointing = False

    def features(self, images: Tensor) -> Tensor:
        """The input of the head: (B, C)."""
        x = channels_first(images)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_recompute_contexts, block))
            else:
                x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.features(images)))

    def init_weights(self) -> None:
        """He normal (He et al. 2015), zero biases, zero head."""
        for module in self.blocks.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


def make(model: CnnConfig, sides: tuple[int, int], classes: int, *, dropout: float, stochastic_depth: float) -> Cnn:
    """A CNN for images of any size. It has no stochastic depth."""
    return Cnn(model, classes, dropout)


def _recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For activation checkpointing: the second forward pass must not update the running statistics again."""

    @contextmanager
    def frozen() -> Iterator[None]:
        norms = [module for module in block.modules() if isinstance(module, BatchNorm)]
        for norm in norms:
            norm.updates_statistics = False
        try:
            yield
        finally:
            for norm in norms:
                norm.updates_statistics = True

    return nullcontext(), frozen()


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def _mean() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _with_batch_norm(config: CnnConfig) -> list[nn.Module]:
    """ResNet or MobileNetV2: stem, blocks, mean over the map."""
    blocks, stride = list(cnn_blocks(config)), 1 if config.stem == "small" else 2
    if config.architecture == "mobilenetv2":
        stem = ConvNorm(3, blocks[0].inputs, 3, stride, act=nn.ReLU6())
        last = ConvNorm(blocks[-1].outputs, cnn_features(config), 1, act=nn.ReLU6())
        return [stem, *(InvertedResidual(block) for block in blocks), last, _mean()]
    kind = cnn_block_kind(config)
    stem = ConvNorm(3, blocks[0].inputs, 7 if config.stem == "imagenet" else 3, stride, act=nn.ReLU())
    pool = [nn.MaxPool2d(3, 2, 1)] if config.stem == "imagenet" else []
    return [stem, *pool, *(PostActivation(block, kind, _conv, BatchNorm) for block in blocks), _mean()]


def _alexnet(config: CnnConfig, dropout: float) -> list[nn.Module]:
    """Five convolutions with biases, three max pools, two dense layers."""
    kernel, stride, padding = alexnet_stem(config)
    shapes = [(kernel, stride, padding), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1)]
    channels = [3, *(scaled(config, c) for c in ALEXNET_CHANNELS)]
    layers: list[nn.Module] = []
    for number, shape in enumerate(shapes):
        layers.append(nn.Sequential(nn.Conv2d(channels[number], channels[number + 1], *shape), nn.ReLU()))
        if number in (0, 1, 4):
            layers.append(nn.MaxPool2d(3, 2))
    layers.append(nn.Sequential(nn.AdaptiveAvgPool2d(ALEXNET_GRID), nn.Flatten()))
    width = cnn_features(config)
    for inputs in (math.prod((channels[-1], ALEXNET_GRID, ALEXNET_GRID)), width):
        layers.append(nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, width), nn.ReLU()))
    return layers
