"""Example of docs/models.md, copied to vitmodel/models/mlp.py: the module of the family in family.py."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from vitmodel.config.families.mlp import INPUTS, SIDE, MlpConfig

from vitmodel.models.classifier import Classifier


class Mlp(Classifier):
    """Images (B, 3, S, S) in [-1, 1] to logits (B, classes)."""

    def __init__(self, config: MlpConfig, classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(INPUTS, config.width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(config.width, classes)
        self.activation_checkpointing = False  # one layer: nothing to recompute

    def features(self, images: Tensor) -> Tensor:
        """The hidden layer: (B, width)."""
        return F.relu(self.hidden(F.adaptive_avg_pool2d(images, SIDE).flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.features(images)))

    def init_weights(self) -> None:
        """He normal (He et al. 2015), zero biases, zero head."""
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        for tensor in (self.hidden.bias, self.head.weight, self.head.bias):
            nn.init.zeros_(tensor)


def make(model: MlpConfig, sides: tuple[int, int], classes: int, *, dropout: float, stochastic_depth: float) -> Mlp:
    """A perceptron for images of any size. It has no stochastic depth."""
    return Mlp(model, classes, dropout)
