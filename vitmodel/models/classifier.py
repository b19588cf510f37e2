"""The interface of every model family's module."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] to logits (B, classes), by `head` from `features`."""

    activation_checkpointing: bool  # recompute activations in the backward pass of a training step

    def features(self, images: Tensor) -> Tensor:
        """The input of the head: (B, D)."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Initialise all weights; the head with zeros."""
        raise NotImplementedError
