"""Training objectives: the loss of a micro-batch, and the scores of samples of a held-out split.

The training loop depends on the `Objective` interface only; `make_objective` chooses one by the run's configuration.
Shapes: B batch, T patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vitmodel.config.families.encoder import PatchEncoderConfig
from vitmodel.config.objectives import Supervised
from vitmodel.config.run import RunConfig
from vitmodel.data.masks import patch_order
from vitmodel.data.mixing import Targets, mixed_loss
from vitmodel.data.order import Batch
from vitmodel.training.evaluate import classification_scores


class Objective(Protocol):
    """A training loss and evaluation scores."""

    def loss(self, engine: Any, images: Tensor, targets: Targets, batch: Batch) -> Tensor:
        """The mean loss of a micro-batch of normalised images in fp32."""

    def scores(self, engine: Any, images: Tensor, labels: Tensor, samples: np.ndarray) -> dict[str, Tensor]:
        """Each sample's value (B,) by metric; the metric is the mean over a split."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Cross-entropy with the labels, which are mixed like the images."""

    label_smoothing: float

    def loss(self, engine: Any, images: Tensor, targets: Targets, batch: Batch) -> Tensor:
        logits = engine(images.to(_precision(engine)))
        return mixed_loss(logits, targets, self.label_smoothing)

    def scores(self, engine: Any, images: Tensor, labels: Tensor, samples: np.ndarray) -> dict[str, Tensor]:
        return classification_scores(engine(images.to(_precision(engine))), labels)


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The loss of a module that masks patches and predicts them (models/masked.py). It has no top-1 accuracy."""

    seed: int
    patches: int

    def loss(self, engine: Any, images: Tensor, targets: Targets, batch: Batch) -> Tensor:
        order_BT = torch.from_numpy(patch_order(batch, self.seed, self.patches)).to(images.device)
        return engine(images, order_BT).mean()

    def scores(self, engine: Any, images: Tensor, labels: Tensor, samples: np.ndarray) -> dict[str, Tensor]:
        """Every sample with its mask of epoch 0, so that evaluations are comparable."""
        order = patch_order(Batch(samples, np.zeros_like(samples)), self.seed, self.patches)
        return {"eval/loss": engine(images, torch.from_numpy(order).to(images.device))}


def make_objective(config: RunConfig) -> Objective:
    """The objective of a run."""
    assert config.recipe is not None
    if isinstance(config.objective, Supervised):
        return Classification(label_smoothing=config.recipe.label_smoothing)
    assert isinstance(config.model, PatchEncoderConfig), "check_objective refuses other models"
    return Reconstruction(seed=config.seed, patches=config.model.patch_grid(config.image_size) ** 2)


def _precision(engine: Any) -> torch.dtype:
    return next(engine.module.parameters()).dtype
