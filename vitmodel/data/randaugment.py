"""RandAugment (Cubuk et al. 2020) of whole batches on the device: each layer draws one of 14 operations for each image.

Images with the same operation are processed together; the five geometric operations share one resampling. Each sample's
operations are a function of (seed, epoch, sample) alone. Magnitude 10 is the end of AutoAugment's ranges; larger values go
beyond it. At 0 every operation with a strength is the identity, as in timm's "increasing" set and unlike the TensorFlow code,
where posterize, solarize and the four enhancements are strongest at 0. Geometric operations fill empty pixels with mid-grey.

Shapes: B batch, S resolution in pixels per side.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from kornia import enhance
from numpy.typing import NDArray
from torch import Tensor

from vitmodel.data.draws import OPERATIONS, uniform
from vitmodel.data.order import Batch

# AutoAugment's ranges (Cubuk et al. 2019, Table 6): the strengths at magnitude 10.
DEGREES, SHEAR, TRANSLATION = 30.0, 0.3, 0.45  # translation: of the image's side
ENHANCEMENT, LEAST_FACTOR = 0.9, 0.1  # colour, contrast, brightness, sharpness: a factor of 1 +- 0.9
BITS, LEVELS = 4.0, 256.0  # posterize: bits removed; solarize: levels by which the threshold falls

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
NAMES = (
    *GEOMETRIC,
    *("identity", "autocontrast", "equalize", "solarize", "posterize"),
    *("color", "contrast", "brightness", "sharpness"),  # FACTORS, below
)


def randaugment(images_B3SS: Tensor, batch: Batch, seed: int, layers: int, magnitude: float) -> Tensor:
    """Apply `layers` operations to each image. Input and output are in [-1, 1]."""
    draws = uniform(batch, seed, OPERATIONS, 2 * layers)
    pixels = (images_B3SS + 1) / 2
    for layer in range(layers):
        chosen = (draws[:, 2 * layer] * len(NAMES)).astype(np.int64)
        signs = np.where(draws[:, 2 * layer + 1] < 0.5, -1.0, 1.0)
        pixels = apply(pixels, chosen, signs * magnitude / 10)
    return pixels * 2 - 1


def apply(pixels_B3SS: Tensor, chosen: NDArray[np.int64], strengths: NDArray[np.float64]) -> Tensor:
    """Apply the chosen operation (an index of NAMES) to each image in [0, 1], at its signed strength (1: magnitude 10)."""
    out = pixels_B3SS.clone()
    groups = {"geometric": chosen < len(GEOMETRIC)}
    groups |= {name: chosen == NAMES.index(name) for name in NAMES[len(GEOMETRIC) :] if name != "identity"}
    for name, members in groups.items():
        if not members.any():
            continue
        rows = torch.from_numpy(np.flatnonzero(members)).to(out.device)
        some, amounts = pixels_B3SS[rows], strengths[members]
        out[rows] = _warp(some, chosen[members], amounts) if name == "geometric" else _enhance(name, some, amounts)
    return out


def _warp(pixels: Tensor, chosen: NDArray[np.int64], strengths: NDArray[np.float64]) -> Tensor:
    """Rotate about the centre, shear from the upper left corner as PIL does, or translate: one bilinear resampling."""
    theta = np.tile(np.eye(2, 3), (len(chosen), 1, 1))  # output coordinates to input coordinates, both in [-1, 1]
    for place, name in enumerate(GEOMETRIC):
        members = chosen == place
        amount = strengths[members]
        if name == "rotate":
            cos, sin = np.cos(np.radians(DEGREES * amount)), np.sin(np.radians(DEGREES * amount))
            theta[members, :, :2] = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)
        elif name.startswith("shear"):
            row = int(name == "shear_y")
            theta[members, row, 1 - row] = theta[members, row, 2] = SHEAR * amount
        else:
            theta[members, int(name == "translate_y"), 2] = 2 * TRANSLATION * amount
    grid = F.affine_grid(torch.from_numpy(theta).to(pixels), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels - 0.5, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + 0.5


# Operations with a factor. A factor of 1 is the identity.
FACTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": enhance.adjust_saturation_with_gray_subtraction,
    "contrast": enhance.adjust_contrast_with_mean_subtraction,
    "brightness": enhance.adjust_brightness_accumulative,
    "sharpness": enhance.sharpness,
}


def _enhance(name: str, pixels: Tensor, strengths: NDArray[np.float64]) -> Tensor:
    """One operation on pixel values, with a strength for each image."""
    if name in FACTORS:
        factors = np.maximum(LEAST_FACTOR, 1 + ENHANCEMENT * strengths)
        return FACTORS[name](pixels, torch.from_numpy(factors).to(pixels))
    if name == "solarize":  # half a level lower, so that rounding does not matter
        thresholds = (LEVELS * (1 - np.abs(strengths)) - 0.5) / 255
        return enhance.solarize(pixels, torch.from_numpy(thresholds).to(pixels))
    if name == "posterize":
        bits = np.maximum(1, 8 - np.round(BITS * np.abs(strengths))).astype(np.int64)
        return enhance.posterize(_eight_bits(pixels), torch.from_numpy(bits))
    return enhance.equalize(_eight_bits(pixels)) if name == "equalize" else _autocontrast(pixels)


def _autocontrast(pixels: Tensor) -> Tensor:
    """Every channel stretched to [0, 1]; a channel without contrast is unchanged."""
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    return torch.where(high > low, (pixels - low) / (high - low).clamp(min=1e-6), pixels)


def _eight_bits(pixels: Tensor) -> Tensor:
    """Rounded to the levels of an 8-bit image: operations on levels would otherwise truncate."""
    return (pixels * 255).round() / 255
