"""What a training minimises: the loss of a micro-batch, and what a sample scores on a held-out split.

The loop knows this interface and no more; which one a run has follows from its configuration (`make_objective`).
Shapes: B batch, T patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vitmodel.config.models import HybridConfig, ViTConfig
from vitmodel.config.objectives import Supervised
from vitmodel.config.run import RunConfig
from vitmodel.data.masks import patch_order
from vitmodel.data.mixing import Targets, mixed_loss
from vitmodel.data.order import Batch
from vitmodel.flops.grid import patch_grid
from vitmodel.training.evaluate import classification_scores


class Objective(Protocol):
    """A loss, and the scores of an evaluation."""

    def loss(self, engine: Any, images: Tensor, targets: Targets, batch: Batch) -> Tensor:
        """The mean loss of a micro-batch of normalised images in fp32."""

    def scores(self, engine: Any, images: Tensor, labels: Tensor, samples: np.ndarray) -> dict[str, Tensor]:
        """By metric, each sample's value (B,); the metric is their mean over a split."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Cross-entropy with the labels, mixed as the images are."""

    label_smoothing: float

    def loss(self, engine: Any, images: Tensor, targets: Targets, batch: Batch) -> Tensor:
        logits = engine(images.to(_precision(engine)))
        return mixed_loss(logits, targets, self.label_smoothing)

    def scores(self, engine: Any, images: Tensor, labels: Tensor, samples: np.ndarray) -> dict[str, Tensor]:
        return classification_scores(engine(images.to(_precision(engine))), labels)


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The loss of a module that hides patches and predicts them (models/masked.py). It has a loss and no top-1."""

    seed: int
    patches: int

    def loss(self, engine: Any, images: Tensor, targets: Targets, batch: Batch) -> Tensor:
        order_BT = torch.from_numpy(patch_order(batch, self.seed, self.patches)).to(images.device)
        return engine(images, order_BT).mean()

    def scores(self, engine: Any, images: Tensor, labels: Tensor, samples: np.ndarray) -> dict[str, Tensor]:
        """Every sample under one mask, that of epoch 0, so that evaluations can be compared."""
        order = patch_order(Batch(samples, np.zeros_like(samples)), self.seed, self.patches)
        return {"eval/loss": engine(images, torch.from_numpy(order).to(images.device))}


def make_objective(config: RunConfig) -> Objective:
    """What this run minimises."""
    assert config.recipe is not None
    if isinstance(config.objective, Supervised):
        return Classification(label_smoothing=config.recipe.label_smoothing)
    assert isinstance(config.model, ViTConfig | HybridConfig), "check_objective lets nothing else pass"
    return Reconstruction(seed=config.seed, patches=patch_grid(config.model, config.image_size) ** 2)


def _precision(engine: Any) -> torch.dtype:
    return next(engine.module.parameters()).dtype
