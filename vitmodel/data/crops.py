"""The part of a stored image that a training step sees: an Inception crop, drawn before the image is decoded.

A box is a function of (seed, epoch, sample) and of the stored image's size, so it does not depend on a resume or the workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitmodel.data.decode import Box, Header
from vitmodel.data.draws import STORED_CROPS, uniform
from vitmodel.data.order import Batch

AREA, RATIO = (0.05, 1.0), (3 / 4, 4 / 3)  # of the image; width / height (Szegedy et al. 2015; the ViT code's area range)
ATTEMPTS = 10  # boxes drawn until one is inside the image; then the largest centred one, as in the Inception code


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Random crops, and flips, of stored images."""

    seed: int
    flip: bool


class CropDraws(NamedTuple):
    """The random numbers of a batch's samples: (B, ATTEMPTS, 4) in [0, 1), and whether each sample is mirrored."""

    boxes: NDArray[np.float64]
    mirrored: NDArray[np.bool_]


def draw_crops(crops: Crops, batch: Batch) -> CropDraws:
    """Random numbers for every sample of a batch."""
    numbers = uniform(batch, crops.seed, STORED_CROPS, ATTEMPTS * 4 + 1)
    return CropDraws(numbers[:, 1:].reshape(-1, ATTEMPTS, 4), (numbers[:, 0] < 0.5) & crops.flip)


def crop_box(numbers: NDArray[np.float64], header: Header) -> Box:
    """The box that (ATTEMPTS, 4) random numbers give in an image of this size."""
    log_low, log_high = math.log(RATIO[0]), math.log(RATIO[1])
    for area, ratio, x, y in numbers.tolist():
        pixels = header.width * header.height * (AREA[0] + area * (AREA[1] - AREA[0]))
        shape = math.exp(log_low + ratio * (log_high - log_low))
        width, height = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < width <= header.width and 0 < height <= header.height:
            return int(x * (header.width - width + 1)), int(y * (header.height - height + 1)), width, height
    width = max(1, min(header.width, round(header.height * RATIO[1])))
    height = max(1, min(header.height, round(header.width / RATIO[0])))
    return (header.width - width) // 2, (header.height - height) // 2, width, height
