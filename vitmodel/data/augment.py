"""Augmentation of whole batches on the device. Each sample's augmentation is a function of (seed, epoch, sample) alone, so it
does not depend on a resume or the workers.

Shapes: B batch, S resolution in pixels per side.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitmodel.data.crops import AREA, RATIO
from vitmodel.data.draws import BATCH_CROPS, uniform
from vitmodel.data.order import Batch

SHIFT_FRACTION = 0.125  # of the image's side, as 4 pixels of 32 (He et al. 2016, section 4.2)
CROP_OF_SMALL, CROP_OF_LARGE = 128 / 160, 384 / 448  # side of a BiT crop (Kolesnikov et al. 2020, section 3.3)


def normalise(images_BSS3: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 images to float (B, 3, S, S) in [-1, 1], the scaling of the ViT and BiT papers."""
    if device.type == "cpu":  # single-threaded: torch's threads would wait for a core that is decoding
        floats = images_BSS3.astype(np.float32)
        floats /= np.float32(127.5)
        floats -= np.float32(1.0)
        return torch.from_numpy(floats).permute(0, 3, 1, 2)
    pixels = torch.from_numpy(images_BSS3).to(device, non_blocking=True)
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def normalise_and_augment(
    images_BSS3: NDArray[np.uint8], batch: Batch, seed: int, kind: str, flip: bool, *, device: torch.device
) -> Tensor:
    """uint8 images (B, S, S, 3) to normalised, augmented images (B, 3, S, S) on the device."""
    if kind == "none" and flip and device.type == "cpu":  # same result as below, on bytes: a quarter of the memory traffic
        return normalise(_mirror(images_BSS3, _mirrored(batch, seed)), device)
    return augment(normalise(images_BSS3, device), batch, seed, kind, flip)


def augment(images_B3SS: Tensor, batch: Batch, seed: int, kind: str, flip: bool) -> Tensor:
    """Randomly crop or shift, and flip, each image. `kind`: none, shift, crop or inception. none without flip: the input."""
    if kind == "none" and not flip:
        return images_B3SS
    if kind == "none":  # no resampling
        mirrored = torch.from_numpy(_mirrored(batch, seed)).to(images_B3SS.device)
        return torch.where(mirrored[:, None, None, None], images_B3SS.flip(-1), images_B3SS)
    draws = uniform(batch, seed, BATCH_CROPS, 4)
    mirror = np.where(_mirrored(batch, seed), -1.0, 1.0) if flip else np.ones(len(draws))
    if kind == "shift":
        width = height = np.ones(len(draws))
        x, y = ((draws[:, i] * 2 - 1) * 2 * SHIFT_FRACTION for i in (0, 1))
    elif kind == "crop":
        width = height = np.full(len(draws), CROP_OF_SMALL if images_B3SS.shape[-1] <= 128 else CROP_OF_LARGE)
        x, y = ((draws[:, i] * 2 - 1) * (1 - width) for i in (0, 1))
    else:  # inception
        width, height = _inception_box(draws)
        x, y = ((draws[:, i] * 2 - 1) * (1 - side) for i, side in ((0, width), (1, height)))
    zero = np.zeros(len(draws))
    maps = np.stack([np.stack([width * mirror, zero, x], -1), np.stack([zero, height, y], -1)], 1)
    theta = torch.from_numpy(maps).to(images_B3SS)
    grid = F.affine_grid(theta, list(images_B3SS.shape), align_corners=False)
    return F.grid_sample(images_B3SS, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _mirrored(batch: Batch, seed: int) -> NDArray[np.bool_]:
    """The samples that are flipped. The number follows the four that the crops draw."""
    return uniform(batch, seed, BATCH_CROPS, 1, first=4)[:, 0] < 0.5


def _mirror(images_BSS3: NDArray[np.uint8], mirrored: NDArray[np.bool_]) -> NDArray[np.uint8]:
    images, chosen = images_BSS3.copy(), images_BSS3[mirrored]
    if len(chosen):  # one call: all rows of all images
        images[mirrored] = cv2.flip(chosen.reshape(-1, *chosen.shape[2:]), 1).reshape(chosen.shape)
    return images


def _inception_box(draws: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Width and height, as fractions of the image, of a box of random area and aspect."""
    area = AREA[0] + draws[:, 2] * (AREA[1] - AREA[0])
    ratio = np.exp(np.log(RATIO[0]) + draws[:, 3] * (np.log(RATIO[1]) - np.log(RATIO[0])))
    return np.minimum(1.0, np.sqrt(area * ratio)), np.minimum(1.0, np.sqrt(area / ratio))
