"""The record that describes a model family to the rest of the project. The table of all families: vitmodel/config/models.py.

The convention of all FLOP counts: vitmodel/flops/count.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from vitmodel.config.base import Frozen, UserError

Config = TypeVar("Config", bound=Frozen)


@dataclass(frozen=True, kw_only=True)
class Family(Generic[Config]):
    """A model family: how it is configured, named, counted and built."""

    config: type[Config]
    title: str  # its models in the plural, such as "Vision Transformers"
    name_forms: str  # the names that `named` accepts, for messages
    published: Mapping[str, str]  # every published variant, and its source
    unpublished: tuple[str, ...] = ()  # further names to suggest for a misspelt one
    named: Callable[[str], Config | None]  # the configuration behind a name; None for a name of another family
    check_image_size: Callable[[Config, int], None]  # raises UserError if square images of this many pixels do not fit
    params: Callable[[Config, int, int], int]  # (model, image size, classes): trainable parameters; 0 classes: no head
    forward_flops: Callable[[Config, int, int], int]  # (model, image size, classes): of one image
    activation_values: Callable[[Config, int], int]  # (model, image size): stored for the backward pass of one image, roughly
    module: str  # of torch modules: its `make` builds a model of this family
    utilisation: Literal["vit", "resnet"] = "resnet"  # which of a device's expected utilisations applies
    has_statistics: bool = False  # whether its weights include tensors that are not parameters, such as BatchNorm's


def check_least_size(variant: str, image_size: int, least: int) -> None:
    """Raise UserError for images of fewer pixels per side than a model needs."""
    if image_size < least:
        raise UserError(f"{variant} needs larger images than {image_size} pixels", allowed=f"{least} or more")
