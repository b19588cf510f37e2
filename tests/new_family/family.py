"""Example of docs/models.md, copied to vitmodel/config/families/mlp.py: perceptrons on images pooled to 8 x 8 pixels."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from vitmodel.config.base import Frozen
from vitmodel.config.families.family import Family, check_least_size

SIDE = 8
INPUTS = 3 * SIDE**2


class MlpConfig(Frozen):
    """A perceptron with one hidden layer."""

    family: Literal["mlp"]
    """The family's name."""
    variant: str = Field(examples=["MLP-96"])
    """Name of the model in results; it does not enter run ids."""
    width: int = Field(gt=0, examples=["96"])
    """Width of the hidden layer."""


def _named(variant: str) -> MlpConfig | None:
    match = re.fullmatch(r"MLP-(\d+)", variant)
    return MlpConfig(family="mlp", variant=variant, width=int(match[1])) if match and int(match[1]) else None


MLP = Family(
    config=MlpConfig,
    title="perceptrons",
    name_forms="MLP-WIDTH",
    published={"MLP-512": "an example"},
    named=_named,
    check_image_size=lambda model, image_size: check_least_size(model.variant, image_size, SIDE),
    params=lambda model, image_size, classes: (INPUTS + 1) * model.width + (model.width + 1) * classes,
    forward_flops=lambda model, image_size, classes: 2 * INPUTS * model.width + 2 * model.width * classes,
    activation_values=lambda model, image_size: INPUTS + 2 * model.width,
    module="vitmodel.models.mlp",
)
