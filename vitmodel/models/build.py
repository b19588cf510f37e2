"""From a model configuration to an initialised module."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

import torch

from vitmodel.config.base import UserError
from vitmodel.config.families.encoder import EncoderConfig
from vitmodel.config.models import FAMILIES, ModelConfig, check_image_size
from vitmodel.config.objectives import Mae, Objective, Supervised
from vitmodel.models.classifier import Classifier
from vitmodel.models.masked import MaskedAutoencoder, MaskedPatchPredictor
from vitmodel.models.vit import ViT


class Make(Protocol):
    """`make` in the module of each family."""

    def __call__(
        self, model: ModelConfig, sides: tuple[int, int], classes: int, *, dropout: float, stochastic_depth: float
    ) -> Classifier: ...


def build(
    model: ModelConfig,
    image_size: int | tuple[int, int],
    classes: int,
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    seed: int | None = None,
) -> Classifier:
    """A new module for square images, or for (height, width). With a seed, its weights depend on that seed only.

    Stochastic depth is the rate of an encoder's last block. Raises UserError if the model does not support this image
    size, or stochastic depth.
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
) -> Classifier | MaskedAutoencoder | MaskedPatchPredictor:
    """The module to train: a classifier, or an encoder with the parts that its objective adds (masked.py)."""
    if isinstance(objective, Supervised):
        return build(model, image_size, classes, dropout=dropout, stochastic_depth=stochastic_depth, seed=seed)
    encoder = build(model, image_size, 0, dropout=dropout, stochastic_depth=stochastic_depth, seed=seed)
    assert isinstance(encoder, ViT), "check_objective refuses other models"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(objective, Mae):
            return MaskedAutoencoder(encoder, objective, image_size)
        return MaskedPatchPredictor(encoder, objective, image_size)


def _assemble(model: ModelConfig, sides: tuple[int, int], classes: int, dropout: float, stochastic_depth: float) -> Classifier:
    if stochastic_depth and not isinstance(model, EncoderConfig):
        raise UserError(f"{model.family} has no stochastic depth", field="stochastic_depth", allowed="0")
    make: Make = import_module(FAMILIES[model.family].module).make
    return make(model, sides, classes, dropout=dropout, stochastic_depth=stochastic_depth)
