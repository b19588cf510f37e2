"""Convolutions and residual blocks as data, from which the modules are built and their parameters and FLOPs are counted.

Sources of the blocks: ResNets: He et al. 2016, Table 1; v2: He et al. 2016b.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


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

    @property
    def values(self) -> int:
        """Rough number of values stored for the backward pass: inputs of the convolution, its norm and its ReLU."""
        return 4 * self.outputs * self.resolution**2


class Residual(NamedTuple):
    """Channels and stride of one residual block; `inner` is the width of its 3x3 convolution."""

    inputs: int
    inner: int
    outputs: int
    stride: int

    @property
    def has_projection(self) -> bool:
        return self.inputs != self.outputs or self.stride != 1


def halved(pixels: int) -> int:
    """Side of a feature map after a step of stride 2 with padding."""
    return (pixels + 1) // 2


def residual_blocks(stages: tuple[int, ...], width: int, block: str) -> Iterator[Residual]:
    """Every block in order. Each stage after the first doubles the width and halves the map."""
    channels = width
    for stage, blocks in enumerate(stages):
        inner = width * 2**stage
        for number in range(blocks):
            outputs = inner * (4 if block == "bottleneck" else 1)
            yield Residual(channels, inner, outputs, 2 if stage and not number else 1)
            channels = outputs


def residual_convs(blocks: Iterable[Residual], kind: str, resolution: int) -> Iterator[Conv]:
    """Every convolution of these blocks, which start at this resolution."""
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


def norm_params(block: Residual, kind: str) -> int:
    """Scales and biases of a block with a norm after every convolution."""
    channels = (2 if kind == "bottleneck" else 1) * block.inner + block.outputs
    return 2 * (channels + (block.outputs if block.has_projection else 0))


def check_stages(width: int, groups: int, stages: tuple[int, ...]) -> None:
    """Raise ValueError for widths that GroupNorm cannot divide, and for stages without blocks."""
    if width % groups:
        raise ValueError(f"groups {groups} must divide width {width}")
    if min(stages, default=1) < 1:
        raise ValueError("every stage needs at least one block")
