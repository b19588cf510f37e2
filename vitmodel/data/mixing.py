"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): every image is mixed with a partner's image and label.

The partner of a sample is the next sample of its lane's slice of the global batch; the last one's partner is the first. A
worker always holds whole slices, so the pairs are the same for any number of workers, any micro-batch and after a resume.
The share, and the choice between the two methods if both are on (half of the samples each, as timm's switch), are functions
of (seed, epoch, sample) alone.

Shapes: B batch, S resolution in pixels per side, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vitmodel.config.recipe import Recipe
from vitmodel.data.draws import MIXING, uniform
from vitmodel.data.order import Batch, Ints

Floats = NDArray[np.float64]


class Mix(NamedTuple):
    """How each image is mixed with its partner. An empty box means that the two images are blended."""

    partners: Ints  # B: positions in the batch
    shares: Floats  # B: share of the sample itself in the label and in the pixels
    boxes: Ints  # B, 4: left, top, right, bottom of the partner's rectangle, in pixels


class Targets(NamedTuple):
    """The targets of the loss, each (B,): a label, or a mixture of two."""

    labels: Tensor
    partners: Tensor | None = None
    shares: Tensor | None = None  # of the first label


def draw_mix(batch: Batch, lane_samples: int, recipe: Recipe, seed: int, resolution: int) -> Mix:
    """The mixing of a batch that holds `lane_samples` of each of its lanes, lane by lane.

    Raises ValueError if a lane has a single sample in the batch: it has no partner.
    """
    from scipy.special import betaincinv  # importing scipy is slow; runs that mix nothing do not need it

    if lane_samples < 2:
        raise ValueError("mixing needs at least two samples of each lane in a batch")
    places = np.arange(len(batch.samples))
    partners = places - places % lane_samples + (places + 1) % lane_samples
    draws = uniform(batch, seed, MIXING, 4)
    cut = draws[:, 0] < 0.5 if recipe.mixup and recipe.cutmix else np.full(len(places), recipe.cutmix > 0)
    alpha = np.where(cut, recipe.cutmix, recipe.mixup)
    shares = betaincinv(alpha, alpha, draws[:, 1])  # Beta(alpha, alpha) by its inverse distribution function
    boxes = np.where(cut[:, None], _boxes(shares, draws[:, 2:], resolution), 0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Mix(partners, np.where(cut, 1 - areas / resolution**2, shares), boxes)


def mix_images(images_B3SS: Tensor, partners_B3SS: Tensor, mix: Mix) -> Tensor:
    """Each image blended with its partner, or with a rectangle of its partner pasted in."""
    pixels = np.arange(images_B3SS.shape[-1])
    left, top, right, bottom = (mix.boxes[:, i, None] for i in range(4))
    rows, columns = (top <= pixels) & (pixels < bottom), (left <= pixels) & (pixels < right)
    inside = rows[:, :, None] & columns[:, None, :]
    is_cut = np.any(mix.boxes != 0, axis=1)
    weights = np.where(is_cut[:, None, None], ~inside, mix.shares[:, None, None])
    return torch.lerp(partners_B3SS, images_B3SS, torch.from_numpy(weights).to(images_B3SS)[:, None])


def mixed_loss(logits_BK: Tensor, targets: Targets, label_smoothing: float) -> Tensor:
    """Mean cross-entropy with the labels or their mixtures, in fp32. Smoothing is uniform over all classes."""
    logits_BK = logits_BK.float()
    if targets.partners is None or targets.shares is None:
        return F.cross_entropy(logits_BK, targets.labels, label_smoothing=label_smoothing)
    losses_BK = -F.log_softmax(logits_BK, dim=1)
    first, second = (losses_BK.gather(1, labels[:, None])[:, 0] for labels in (targets.labels, targets.partners))
    mixed = torch.lerp(second, first, targets.shares)
    return ((1 - label_smoothing) * mixed + label_smoothing * losses_BK.mean(dim=1)).mean()


def _boxes(shares: Floats, centres: Floats, resolution: int) -> Ints:
    """Squares of area 1 - share around random centres, clipped at the border (Yun et al. 2019, equation 2)."""
    half = np.sqrt(1 - shares)[:, None] / 2
    corners = np.concatenate([centres - half, centres + half], axis=1) * resolution
    return corners.round().clip(0, resolution).astype(np.int64)
