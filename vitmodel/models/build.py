"""From a model configuration to an initialised module."""

from __future__ import annotations

import torch

from vitmodel.config.base import UserError
from vitmodel.config.models import CnnConfig, HybridConfig, ModelConfig, ResNetConfig
from vitmodel.config.objectives import Mae, Objective, Supervised
from vitmodel.flops.grid import check_image_size, patch_grid
from vitmodel.models.cnn import Cnn
from vitmodel.models.hybrid import HybridEmbed
from vitmodel.models.masked import MaskedAutoencoder, MaskedPatchPredictor
from vitmodel.models.resnet import ResNet
from vitmodel.models.vit import PatchEmbed, ViT

Module = ViT | ResNet | Cnn


def build(
    model: ModelConfig,
    image_size: int | tuple[int, int],
    classes: int,
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    seed: int | None = None,
) -> Module:
    """A fresh module for square images, or for (height, width); with a seed, its weights are a function of that seed alone.

    Stochastic depth is the rate of an encoder's last block. Raises UserError where the model cannot take images of this
    size, or has no residual branches to drop.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    for side in (height, width):
        check_image_size(model, side)
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        module = _assemble(model, (height, width), classes, dropout, stochastic_depth)
        if not next(module.parameters()).is_meta:
            module.init_weights()
    return module


def build_for_training(
    objective: Objective,
    model: ModelConfig,
    image_size: int,
    classes: int,
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    seed: int,
) -> Module | MaskedAutoencoder | MaskedPatchPredictor:
    """The module that a training optimises: a classifier, or an encoder with what its objective adds (models/masked.py)."""
    if isinstance(objective, Supervised):
        return build(model, image_size, classes, dropout=dropout, stochastic_depth=stochastic_depth, seed=seed)
    encoder = build(model, image_size, 0, dropout=dropout, stochastic_depth=stochastic_depth, seed=seed)
    assert isinstance(encoder, ViT), "check_objective lets nothing else pass"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(objective, Mae):
            return MaskedAutoencoder(encoder, objective, image_size)
        return MaskedPatchPredictor(encoder, objective, image_size)


def _assemble(model: ModelConfig, sides: tuple[int, int], classes: int, dropout: float, stochastic_depth: float) -> Module:
    if isinstance(model, ResNetConfig | CnnConfig):
        if stochastic_depth:
            raise UserError(f"{model.family} has no stochastic depth", field="stochastic_depth", allowed="0")
        return ResNet(model, classes, dropout) if isinstance(model, ResNetConfig) else Cnn(model, classes, dropout)
    embed = HybridEmbed(model) if isinstance(model, HybridConfig) else PatchEmbed(model.width, model.patch)
    grid = patch_grid(model, sides[0]), patch_grid(model, sides[1])
    return ViT(model, embed, grid, classes, dropout=dropout, stochastic_depth=stochastic_depth)
