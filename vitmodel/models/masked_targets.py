"""Targets of objectives that predict masked patches: mean colours, normalised pixels; and the decoder's fixed positions.

Shapes: B batch, C channels, T patches, P values of a patch.
"""

from __future__ import annotations

import torch
from torch import Tensor

TARGET_EPS = 1e-6  # added to a patch's variance (official code of He et al. 2022)
POSITION_PERIOD = 10_000.0  # of the slowest sine (Vaswani et al. 2017, section 3.5)


def patch_pixels(images: Tensor, side: int) -> Tensor:
    """The pixels of every patch of `side` pixels, row by row: (B, T, side * side * 3)."""
    B, C, height, width = images.shape
    tiles = images.reshape(B, C, height // side, side, width // side, side)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, side * side * C)


def colour_classes(images: Tensor, side: int) -> Tensor:
    """The mean colour of every patch in 3 bits per channel, red first: (B, T) in 0..511. Image values are in [-1, 1]."""
    means_BT3 = patch_pixels(images, side).view(*images.shape[:1], -1, side * side, 3).mean(dim=2)
    levels_BT3 = ((means_BT3 + 1) * 4).floor().clamp(0, 7).long()
    return levels_BT3[..., 0] * 64 + levels_BT3[..., 1] * 8 + levels_BT3[..., 2]


def normalised_patches(images: Tensor, side: int) -> Tensor:
    """Every patch's pixels less their mean, over their standard deviation: (B, T, P) (He et al. 2022, section 3)."""
    pixels_BTP = patch_pixels(images, side)
    variance, mean = torch.var_mean(pixels_BTP, dim=2, keepdim=True)
    return (pixels_BTP - mean) * (variance + TARGET_EPS).rsqrt()


def sine_positions(width: int, grid: tuple[int, int]) -> Tensor:
    """Fixed position embedding of a grid, (T, width): half the channels for rows, half for columns, sines before cosines."""
    rates = POSITION_PERIOD ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    angles = [side.reshape(-1, 1) * rates for side in (rows, columns)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
