"""The table of model families. A new architecture is added here: docs/models.md, "Add an architecture"."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from vitmodel.config.base import UserError, suggest
from vitmodel.config.families.cnn import CNN, CnnConfig
from vitmodel.config.families.family import Family
from vitmodel.config.families.hybrid import HYBRID, HybridConfig
from vitmodel.config.families.resnet import RESNET, ResNetConfig
from vitmodel.config.families.vit import VIT, ViTConfig

ModelConfig = Annotated[ViTConfig | HybridConfig | ResNetConfig | CnnConfig, Field(discriminator="family")]
FAMILIES: dict[str, Family[Any]] = {"vit": VIT, "hybrid": HYBRID, "resnet": RESNET, "cnn": CNN}

NAMED_VARIANTS = {variant: source for family in FAMILIES.values() for variant, source in family.published.items()}


def named_model(variant: str) -> ModelConfig:
    """The configuration of a named model: `B/16`, `R50x1`, `R50+B/16`, `ResNet-50`. Raises UserError for unknown names."""
    for family in FAMILIES.values():
        model: ModelConfig | None = family.named(variant)
        if model is not None:
            return model
    known = [*NAMED_VARIANTS, *(name for family in FAMILIES.values() for name in family.unpublished)]
    forms = ", ".join(family.name_forms for family in FAMILIES.values())
    raise UserError(f"unknown model {variant!r}{suggest(variant, known)}", allowed=f"{forms}, or a mapping with family")


def check_image_size(model: ModelConfig, image_size: int) -> None:
    """Raise UserError if the model does not support square images of this many pixels."""
    FAMILIES[model.family].check_image_size(model, image_size)
