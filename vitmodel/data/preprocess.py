"""Turns a batch as it was read into the input of a training step: normalised, augmented and mixed images, and their targets.

Works on the device and in micro-batches. The result does not depend on how a batch is cut into micro-batches.

Shapes: B batch, S resolution in pixels per side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitmodel.config.recipe import Recipe
from vitmodel.data.augment import normalise_and_augment
from vitmodel.data.mixing import Mix, Targets, draw_mix, mix_images
from vitmodel.data.order import Batch, Ints
from vitmodel.data.reader import LoadedBatch


def mix_of(loaded: LoadedBatch, recipe: Recipe, seed: int, lane_samples: int) -> Mix | None:
    """The mixing of a worker's whole share of a batch; None if the recipe mixes nothing."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    return draw_mix(loaded.batch, lane_samples, recipe, seed, loaded.images.shape[1])


def preprocess(
    loaded: LoadedBatch, places: Ints, mix: Mix | None, recipe: Recipe, *, seed: int, device: torch.device
) -> tuple[Tensor, Targets]:
    """Images (B, 3, S, S) and targets of the samples at `places` in a worker's share. Their partners may be elsewhere in it."""
    labels = torch.from_numpy(loaded.labels[places]).to(device)
    if mix is None:
        return _augmented(loaded, places, recipe, seed, device), Targets(labels)
    partners = mix.partners[places]
    needed, where = np.unique(np.concatenate([places, partners]), return_inverse=True)  # each image is augmented once
    images = _augmented(loaded, needed, recipe, seed, device)
    samples, others = (images[torch.from_numpy(rows).to(device)] for rows in np.split(where, 2))
    part = Mix(partners, mix.shares[places], mix.boxes[places])
    shares = torch.from_numpy(part.shares).to(device, torch.float32)
    return mix_images(samples, others, part), Targets(labels, torch.from_numpy(loaded.labels[partners]).to(device), shares)


def _augmented(loaded: LoadedBatch, places: Ints, recipe: Recipe, seed: int, device: torch.device) -> Tensor:
    batch = Batch(loaded.batch.samples[places], loaded.batch.epochs[places])
    kind, flip = ("none", False) if loaded.cropped else (recipe.augment, recipe.flip)
    images = normalise_and_augment(loaded.images[places], batch, seed, kind, flip, device=device)
    if not recipe.randaugment_layers:
        return images
    from vitmodel.data.randaugment import randaugment  # importing kornia is slow

    return randaugment(images, batch, seed, recipe.randaugment_layers, recipe.randaugment_magnitude)
