"""From a batch as it was read to what a training step sees: normalised, augmented and mixed images, and their targets.

On the device and in micro-batches; nothing depends on how a batch is cut into them.

Shapes: B batch, S resolution in pixels per side.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitmodel.config.recipe import Recipe
from vitmodel.data.augment import ready
from vitmodel.data.mixing import Mix, Targets, draw_mix, mix_images
from vitmodel.data.order import Batch, Ints
from vitmodel.data.reader import Loaded


def mix_of(loaded: Loaded, recipe: Recipe, seed: int, lane_samples: int) -> Mix | None:
    """The mixing of a worker's whole share of a batch, or None where the recipe mixes nothing."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    return draw_mix(loaded.batch, lane_samples, recipe, seed, loaded.images.shape[1])


def prepare(
    loaded: Loaded, places: Ints, mix: Mix | None, recipe: Recipe, *, seed: int, device: torch.device
) -> tuple[Tensor, Targets]:
    """Images (B, 3, S, S) and targets of these places of a worker's share. Partners may lie outside of `places`."""
    labels = torch.from_numpy(loaded.labels[places]).to(device)
    if mix is None:
        return _augmented(loaded, places, recipe, seed, device), Targets(labels)
    partners = mix.partners[places]
    needed, where = np.unique(np.concatenate([places, partners]), return_inverse=True)  # each image is augmented once
    images = _augmented(loaded, needed, recipe, seed, device)
    own, other = (images[torch.from_numpy(part).to(device)] for part in np.split(where, 2))
    part = Mix(partners, mix.shares[places], mix.boxes[places])
    shares = torch.from_numpy(part.shares).to(device, torch.float32)
    return mix_images(own, other, part), Targets(labels, torch.from_numpy(loaded.labels[partners]).to(device), shares)


def _augmented(loaded: Loaded, places: Ints, recipe: Recipe, seed: int, device: torch.device) -> Tensor:
    batch = Batch(loaded.batch.samples[places], loaded.batch.epochs[places])
    kind, flip = ("none", False) if loaded.cropped else (recipe.augment, recipe.flip)
    images = ready(loaded.images[places], batch, seed, kind, flip, device=device)
    if not recipe.randaugment_layers:
        return images
    from vitmodel.data.randaugment import randaugment  # kornia takes its time to import

    return randaugment(images, batch, seed, recipe.randaugment_layers, recipe.randaugment_magnitude)
