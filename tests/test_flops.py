"""Counts in closed form against the modules themselves, published numbers, and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitmodel.config import RESNET_STAGES, ResNetConfig, UserError, ViTConfig, named_model
from vitmodel.flops import count_params, forward_flops, train_flops
from vitmodel.models.build import build

# ViT: exact counts for 1000 classes at 224 px with a class token. R50x1: Kolesnikov et al. 2020, 25.5M.
KNOWN = {
    "Ti/16": 5_717_416,
    "S/16": 22_050_664,
    "B/32": 88_224_232,
    "B/16": 86_567_656,
    "L/16": 304_326_632,
    "L/32": 306_535_400,
    "H/14": 632_045_800,
    "R50x1": 25_549_352,
}
MICRO_VIT = ViTConfig(family="vit", variant="v", width=48, depth=3, mlp_dim=96, heads=4, patch=8, pooling="gap")
MICRO_RESNET = ResNetConfig(family="resnet", variant="r", stages=(1, 2, 1), width=8, block="basic", stem="stride2", groups=2)
CIFAR_RESNET = ResNetConfig(family="resnet", variant="c", stages=(2, 2), width=16, stem="stride1", groups=4)
NAMED = ["Ti/16", "S/32", "B/16", "B/32", "L/16", "H/14", "g/14", "So400m/14"] + [
    f"R{d}x{w}" for d in RESNET_STAGES for w in (1, 2)
]


@pytest.mark.parametrize(("variant", "params"), KNOWN.items())
def test_published_parameter_counts(variant: str, params: int) -> None:
    assert count_params(named_model(variant), 224, 1000) == params


def test_gap_has_no_class_token() -> None:
    config = named_model("B/16").model_copy(update={"pooling": "gap"})
    assert count_params(config, 224, 1000) == 86_566_120


@pytest.mark.parametrize("variant", NAMED)
def test_parameters_equal_the_modules(variant: str) -> None:
    config = named_model(variant)
    with torch.device("meta"):
        module = build(config, 224, 1000)
    assert sum(p.numel() for p in module.parameters()) == count_params(config, 224, 1000)


@pytest.mark.parametrize(
    ("config", "size"),
    [(MICRO_VIT, 32), (MICRO_RESNET, 32), (CIFAR_RESNET, 33), (named_model("Ti/16"), 224), (named_model("R50x1"), 97)],
)
def test_flops_meet_torchs_counter(config: ViTConfig | ResNetConfig, size: int) -> None:
    with torch.device("meta"):
        module, image = build(config, size, 10), torch.empty(1, 3, size, size)
    assert sum(p.numel() for p in module.parameters()) == count_params(config, size, 10)
    with FlopCounterMode(display=False) as counter:
        module(image)
    assert forward_flops(config, size, 10) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_training_is_three_forwards() -> None:
    config = named_model("B/16")
    assert train_flops(config, 224, 1000, 7) == 21 * forward_flops(config, 224, 1000)


@pytest.mark.parametrize("variant", ["B16", "Q/16", "R51x1", "B/0", ""])
def test_unknown_names_are_refused(variant: str) -> None:
    with pytest.raises(UserError, match="unknown model"):
        named_model(variant)


def test_patch_must_divide_the_image() -> None:
    with pytest.raises(UserError, match="patch 16 .* does not divide") as caught:
        build(named_model("B/16"), 100, 10)
    assert "1, 2, 4, 5, 10, 20, 25, 50, 100" in str(caught.value)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads 5 must divide width 48"):
        ViTConfig(family="vit", variant="v", width=48, depth=1, mlp_dim=48, heads=5, patch=8)
