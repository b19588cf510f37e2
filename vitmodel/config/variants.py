"""Published models by name: the size tables, each with its paper and table, and the configuration behind a name."""

from __future__ import annotations

import re
from typing import Any, Literal

from vitmodel.config.base import UserError, suggest
from vitmodel.config.models import CnnConfig, HybridConfig, ModelConfig, ResNetConfig, ViTConfig

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

# depth: blocks per stage. 50, 101, 152: He et al. 2016, Table 1. 200: He et al. 2016b (pre-activation), Table 5.
RESNET_STAGES: dict[int, tuple[int, ...]] = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}

# ResNet below a hybrid: blocks per stage where the map ends at 1/32. At 1/16 the last stage's blocks move into the one
# before (ViT paper, section 4.1: "same number of layers in stage 3"). 26: Steiner et al. 2021, Table 1.
HYBRID_STAGES: dict[int, tuple[int, ...]] = {26: (2, 2, 2, 2), 50: (3, 4, 6, 3)}

CNN_NAMES: dict[str, Literal["alexnet", "mobilenetv2", "resnet34", "resnet50"]] = {
    "AlexNet": "alexnet",
    "MobileNetV2": "mobilenetv2",
    "ResNet-34": "resnet34",
    "ResNet-50": "resnet50",
}

# Every variant that a paper has published, with the place where it stands: what `list_variants` lists.
_VIT_PAPER, _STEINER = "Dosovitskiy et al. 2021, Table 1", "Steiner et al. 2021, Table 1"
_BIT, _HYBRIDS = "Kolesnikov et al. 2020, section 3.1", "Dosovitskiy et al. 2021, Table 6"
NAMED_VARIANTS: dict[str, str] = {
    "mu/16": "big_vision, models/vit.py",
    **dict.fromkeys(("Ti/16", "S/32", "S/16"), _STEINER),
    **dict.fromkeys(("M/32", "M/16"), "big_vision, models/vit.py"),
    **dict.fromkeys(("B/32", "B/16", "L/32", "L/16", "H/14"), _VIT_PAPER),
    "So400m/14": "Alabdulmohsin et al. 2023; big_vision, models/vit.py",
    **dict.fromkeys(("g/14", "G/14"), "Zhai et al. 2022, Table 2"),
    **dict.fromkeys(("R+Ti/16", "R26+S/32", "R26+B/32"), _STEINER),
    **dict.fromkeys(("R50+B/32", "R50+B/16", "R50+L/32", "R50+L/16"), _HYBRIDS),
    **dict.fromkeys(("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4"), _BIT),
    **dict.fromkeys(("R50x2", "R152x1", "R200x3"), _HYBRIDS),
    "AlexNet": "Krizhevsky 2014, section 5",
    "MobileNetV2": "Sandler et al. 2018, Table 2",
    **dict.fromkeys(("ResNet-34", "ResNet-50"), "He et al. 2016, Table 1"),
}

MODEL_NAMES = (
    f"ViT {'|'.join(VIT_SIZES)}/PATCH, BiT R{'|'.join(map(str, RESNET_STAGES))}xWIDTH, hybrid R26|R50+SIZE/16|32, "
    f"{', '.join(CNN_NAMES)}, or a mapping with family"
)


def named_model(variant: str) -> ModelConfig:
    """The configuration behind a published name: `B/16`, `R50x1`, `R50+B/16`, `ResNet-50`. Raises UserError for others."""
    if match := re.fullmatch(r"(\w+)/(\d+)", variant):
        size, patch = match.groups()
        if size in VIT_SIZES and int(patch) > 0:
            return ViTConfig(family="vit", variant=variant, patch=int(patch), **_encoder_size(size))
    if match := re.fullmatch(r"R(\d+)x(\d+)", variant):
        depth, factor = map(int, match.groups())
        if depth in RESNET_STAGES and factor > 0:
            return ResNetConfig(family="resnet", variant=variant, stages=RESNET_STAGES[depth], width=64 * factor)
    if (hybrid := _named_hybrid(variant)) is not None:
        return hybrid
    if variant in CNN_NAMES:
        return CnnConfig(family="cnn", variant=variant, architecture=CNN_NAMES[variant])
    known = list(NAMED_VARIANTS) + [f"{size}/{p}" for size in VIT_SIZES for p in (14, 16, 32)]
    raise UserError(f"unknown model {variant!r}{suggest(variant, known)}", allowed=MODEL_NAMES)


def _encoder_size(size: str) -> dict[str, Any]:
    return dict(zip(("width", "depth", "mlp_dim", "heads"), VIT_SIZES[size], strict=True))


def _named_hybrid(variant: str) -> HybridConfig | None:
    """`R50+B/16`: the last number is the total down-sampling ratio (ViT paper, Table 6), not a patch."""
    if variant == "R+Ti/16":  # the official name; the stem alone divides by 4, the patch by 8
        return HybridConfig(family="hybrid", variant=variant, stages=(), patch=8, **_encoder_size("Ti"))
    match = re.fullmatch(r"R(26|50)\+(\w+)/(16|32)", variant)
    if match is None or match[2] not in VIT_SIZES:
        return None
    stages = HYBRID_STAGES[int(match[1])]
    if match[3] == "16":
        stages = (*stages[:2], stages[2] + stages[3])
    return HybridConfig(family="hybrid", variant=variant, stages=stages, **_encoder_size(match[2]))
