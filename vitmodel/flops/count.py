"""Parameters, FLOPs and activations of any model configuration, in closed form.

The convention, everywhere in this project: one multiply-accumulate is 2 FLOPs; matrix products and convolutions
count, attention's two products included; norms, activations, pools and additions do not. A training step costs three
forward passes (backward = 2 x forward). The ViT paper's exaFLOPs (Table 6) follow the same rule.
"""

from __future__ import annotations

from typing import NamedTuple

from vitmodel.config.base import UserError
from vitmodel.config.models import FAMILIES, NAMED_VARIANTS, ModelConfig, check_image_size, named_model
from vitmodel.config.objectives import SUPERVISED, Objective, Supervised
from vitmodel.flops.objectives import objective_flops, objective_params, objective_values

TRAIN_FACTOR = 3  # training FLOPs per forward FLOP
LISTED_CLASSES = 1000


class Listed(NamedTuple):
    """One row of `list_variants`; FLOPs are of one image's forward pass, 1000 classes."""

    variant: str
    family: str
    params: int
    forward_flops: int
    source: str


def list_variants(image_size: int = 224) -> list[Listed]:
    """Every published variant that supports square images of this many pixels, family by family."""
    rows = []
    for variant, source in NAMED_VARIANTS.items():
        model = named_model(variant)
        try:
            check_image_size(model, image_size)
        except UserError:
            continue  # it has no counts at this size: its patch does not divide the image
        params = count_params(model, image_size, LISTED_CLASSES)
        flops = forward_flops(model, image_size, LISTED_CLASSES)
        rows.append(Listed(variant, model.family, params, flops, source))
    return rows


def count_params(model: ModelConfig, image_size: int, classes: int, objective: Objective = SUPERVISED) -> int:
    """Trainable parameters, exact. Without labels: no classifier, and the parameters that the objective adds."""
    family = FAMILIES[model.family]
    if isinstance(objective, Supervised):
        return family.params(model, image_size, classes)
    return family.params(model, image_size, 0) + objective_params(objective, model, image_size)


def forward_flops(model: ModelConfig, image_size: int, classes: int, objective: Objective = SUPERVISED) -> int:
    """FLOPs of one image's forward pass in training; a classifier's evaluation costs the same."""
    if isinstance(objective, Supervised):
        return FAMILIES[model.family].forward_flops(model, image_size, classes)
    return objective_flops(objective, model, image_size)


def train_flops(model: ModelConfig, image_size: int, classes: int, examples: int, objective: Objective = SUPERVISED) -> int:
    """FLOPs of training on `examples` images, repetitions included."""
    return TRAIN_FACTOR * forward_flops(model, image_size, classes, objective) * examples


def activation_bytes(model: ModelConfig, image_size: int, bytes_per_value: int, objective: Objective = SUPERVISED) -> int:
    """Approximate memory that one image's training step stores for the backward pass, without activation checkpointing."""
    if isinstance(objective, Supervised):
        return bytes_per_value * FAMILIES[model.family].activation_values(model, image_size)
    return bytes_per_value * objective_values(objective, model, image_size)
