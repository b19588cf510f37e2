"""From a model configuration to an initialised module."""

from __future__ import annotations

import torch

from vitmodel.config import ResNetConfig, ViTConfig, check_image_size
from vitmodel.models.resnet import ResNet
from vitmodel.models.vit import ViT


def build(
    model: ViTConfig | ResNetConfig, image_size: int, classes: int, *, dropout: float = 0.0, seed: int | None = None
) -> ViT | ResNet:
    """A fresh module; with a seed, its weights are a function of that seed alone.

    Raises UserError where the model cannot take images of this size.
    """
    check_image_size(model, image_size)
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        if isinstance(model, ViTConfig):
            module: ViT | ResNet = ViT(model, image_size, classes, dropout)
        else:
            module = ResNet(model, classes, dropout)
        if not module.head.weight.is_meta:
            module.init_weights()
    return module
