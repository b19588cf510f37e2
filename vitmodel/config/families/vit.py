"""Vision Transformers on patches of pixels (Dosovitskiy et al. 2021)."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from vitmodel.config.base import UserError
from vitmodel.config.families.encoder import (
    PatchEncoderConfig,
    check_patches,
    encoder_flops,
    encoder_params,
    encoder_values,
)
from vitmodel.config.families.family import Family

# name: (width, depth, mlp_dim, heads). B, L, H: ViT paper, Table 1. Ti, S: Steiner et al. 2021 ("How to train your
# ViT?"), Table 1. mu, M: big_vision's table. g, G: Zhai et al. 2022, Table 2. So400m:
# Alabdulmohsin et al. 2023 (arXiv 2305.13035), SoViT-400m; the same four numbers in big_vision's table.
VIT_SIZES: dict[str, tuple[int, int, int, int]] = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
}
STEINER = "Steiner et al. 2021, Table 1"


class ViTConfig(PatchEncoderConfig):
    """Vision Transformer on patches of pixels (Dosovitskiy et al. 2021, section 3.1)."""

    family: Literal["vit"]
    """The family's name."""
    variant: str = Field(examples=["V64/8"])
    """Name of the model in results; it does not enter run ids."""


def encoder_size(size: str) -> dict[str, Any]:
    """The fields of a named size."""
    return dict(zip(("width", "depth", "mlp_dim", "heads"), VIT_SIZES[size], strict=True))


def _named(variant: str) -> ViTConfig | None:
    match = re.fullmatch(r"(\w+)/(\d+)", variant)
    if match is None or match[1] not in VIT_SIZES or int(match[2]) < 1:
        return None
    return ViTConfig(family="vit", variant=variant, patch=int(match[2]), **encoder_size(match[1]))


def _check_image_size(model: ViTConfig, image_size: int) -> None:
    if image_size % model.patch:
        divisors = [str(p) for p in range(1, image_size + 1) if image_size % p == 0]
        raise UserError(
            f"patch {model.patch} of {model.variant} does not divide the image size {image_size}",
            field="patch",
            allowed=", ".join(divisors),
        )
    check_patches(model, model.variant, image_size)


VIT = Family(
    config=ViTConfig,
    title="Vision Transformers",
    name_forms=f"ViT {'|'.join(VIT_SIZES)}/PATCH",
    published={
        "mu/16": "big_vision, models/vit.py",
        **dict.fromkeys(("Ti/16", "S/32", "S/16"), STEINER),
        **dict.fromkeys(("M/32", "M/16"), "big_vision, models/vit.py"),
        **dict.fromkeys(("B/32", "B/16", "L/32", "L/16", "H/14"), "Dosovitskiy et al. 2021, Table 1"),
        "So400m/14": "Alabdulmohsin et al. 2023; big_vision, models/vit.py",
        **dict.fromkeys(("g/14", "G/14"), "Zhai et al. 2022, Table 2"),
    },
    unpublished=tuple(f"{size}/{patch}" for size in VIT_SIZES for patch in (14, 16, 32)),
    named=_named,
    check_image_size=_check_image_size,
    params=encoder_params,
    forward_flops=encoder_flops,
    activation_values=encoder_values,
    module="vitmodel.models.vit",
    utilisation="vit",
)
