"""Counts in closed form against the modules themselves, published numbers, and torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitmodel.config.base import UserError
from vitmodel.config.families.cnn import CnnConfig
from vitmodel.config.families.hybrid import HybridConfig
from vitmodel.config.families.resnet import RESNET_STAGES, ResNetConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import NAMED_VARIANTS, ModelConfig, named_model
from vitmodel.flops.count import activation_bytes, count_params, forward_flops, list_variants, train_flops
from vitmodel.models.build import build

# Exact counts for 1000 classes at 224 px with a class token. BiT: Kolesnikov et al. 2020, 25.5M for R50x1. Hybrids: timm's
# vit_small_r26_s32_224, vit_base_r50_s16_224, vit_large_r50_s32_224; CNNs and the other BiT: torchvision's and timm's counts.
KNOWN = {
    "Ti/16": 5_717_416,
    "S/16": 22_050_664,
    "B/32": 88_224_232,
    "B/16": 86_567_656,
    "L/16": 304_326_632,
    "L/32": 306_535_400,
    "H/14": 632_045_800,
    "R50x1": 25_549_352,
    "R101x1": 44_541_480,
    "R152x2": 236_335_208,
    "R152x4": 936_533_224,
    "R26+S/32": 36_431_912,
    "R50+B/16": 98_659_112,
    "R50+L/32": 328_994_856,
    "AlexNet": 61_100_840,
    "MobileNetV2": 3_504_872,
    "ResNet-34": 21_797_672,
    "ResNet-50": 25_557_032,
}
# ViT paper, Table 6: exaFLOPs of 7 epochs of 303M images. R50+L/16's 14 epochs (1668) are used: its 7 do not fit them.
HYBRID_EXAFLOPS = {"R50+B/32": 106, "R50+B/16": 274, "R50+L/32": 246, "R50+L/16": 1668 / 2}
MICRO_VIT = ViTConfig(family="vit", variant="v", width=48, depth=3, mlp_dim=96, heads=4, patch=8, pooling="gap")
MICRO_RESNET = ResNetConfig(family="resnet", variant="r", stages=(1, 2, 1), width=8, block="basic", stem="stride2", groups=2)
CIFAR_RESNET = ResNetConfig(family="resnet", variant="c", stages=(2, 2), width=16, stem="stride1", groups=4)
GAP_VIT = MICRO_VIT.model_copy(update={"heads": 4, "window": 2})
MIXERS = [GAP_VIT.model_copy(update={"mixer": mixer, "variant": mixer}) for mixer in ("window", "axial", "pooling", "mlp")]
PRE_LOGITS = MICRO_VIT.model_copy(update={"pooling": "cls", "pre_logits": 20, "variant": "pre"})
MICRO_HYBRID = HybridConfig(
    family="hybrid", variant="h", stages=(1, 2), stem_width=8, groups=4, width=32, depth=2, mlp_dim=64, heads=4
)
MICRO_CNNS = [
    CnnConfig(family="cnn", variant=arch, architecture=arch, width_factor=0.125, stem="small")
    for arch in ("alexnet", "mobilenetv2", "resnet34", "resnet50")
]
MICRO = [MICRO_VIT, *MIXERS, PRE_LOGITS, MICRO_RESNET, CIFAR_RESNET, MICRO_HYBRID, *MICRO_CNNS]
AT_SIZES = [(model, 32) for model in MICRO] + [
    (CIFAR_RESNET, 33),
    (MICRO_HYBRID, 45),
    (named_model("Ti/16"), 224),
    (named_model("Ti/2"), 32),  # Cordonnier et al. 2020: 2x2 patches
    (named_model("R50x1"), 97),
    (named_model("R26+S/32"), 384),
    (named_model("R+Ti/16"), 224),
    (named_model("AlexNet"), 224),
    (named_model("AlexNet"), 63),
    (named_model("MobileNetV2"), 97),
    (named_model("ResNet-34"), 97),
    (named_model("ResNet-50"), 224),
    (named_model("S/16").model_copy(update={"mixer": "window", "pooling": "gap"}), 224),
]
VARIANTS = sorted({*NAMED_VARIANTS, *(f"R{d}x{w}" for d in RESNET_STAGES for w in (1, 2))})


@pytest.mark.parametrize(("variant", "params"), KNOWN.items())
def test_published_parameter_counts(variant: str, params: int) -> None:
    assert count_params(named_model(variant), 224, 1000) == params


def test_gap_has_no_class_token() -> None:
    config = named_model("B/16").model_copy(update={"pooling": "gap"})
    assert count_params(config, 224, 1000) == 86_566_120


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_equal_the_modules(variant: str) -> None:
    config = named_model(variant)
    with torch.device("meta"):
        module = build(config, 224, 1000)
    assert sum(p.numel() for p in module.parameters()) == count_params(config, 224, 1000)


@pytest.mark.parametrize(("config", "size"), AT_SIZES, ids=lambda value: getattr(value, "variant", value))
def test_flops_agree_with_torchs_counter(config: ModelConfig, size: int) -> None:
    with torch.device("meta"):
        module, image = build(config, size, 10).eval(), torch.empty(1, 3, size, size)
    assert sum(p.numel() for p in module.parameters()) == count_params(config, size, 10)
    with FlopCounterMode(display=False) as counter:
        module(image)
    assert forward_flops(config, size, 10) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert activation_bytes(config, size, 4) == 2 * activation_bytes(config, size, 2) > 0


@pytest.mark.parametrize(("variant", "exaflops"), HYBRID_EXAFLOPS.items())
def test_hybrids_of_the_papers_table_6(variant: str, exaflops: float) -> None:
    assert train_flops(named_model(variant), 224, 18291, 7 * 303_000_000) / 1e18 == pytest.approx(exaflops, rel=0.025)


def test_the_list_of_variants() -> None:
    rows = {row.variant: row for row in list_variants()}
    assert set(rows) == set(NAMED_VARIANTS)
    assert all(rows[variant].params == params for variant, params in KNOWN.items())
    assert {row.family for row in rows.values()} == {"vit", "hybrid", "resnet", "cnn"}
    assert all(row.source for row in rows.values())
    at_384 = {row.variant: row for row in list_variants(384)}
    assert set(rows) - set(at_384) == {"H/14", "g/14", "G/14", "So400m/14"}, "14 does not divide 384"
    assert at_384["B/16"].forward_flops == forward_flops(named_model("B/16"), 384, 1000)


def test_training_is_three_forwards() -> None:
    config = named_model("B/16")
    assert train_flops(config, 224, 1000, 7) == 21 * forward_flops(config, 224, 1000)


@pytest.mark.parametrize("variant", ["B16", "Q/16", "R51x1", "B/0", "", "R50+B/8", "R50+Q/16", "resnet50"])
def test_unknown_names_are_refused(variant: str) -> None:
    with pytest.raises(UserError, match="unknown model"):
        named_model(variant)


def test_patch_must_divide_the_image() -> None:
    with pytest.raises(UserError, match=r"patch 16 .* does not divide") as caught:
        build(named_model("B/16"), 100, 10)
    assert "1, 2, 4, 5, 10, 20, 25, 50, 100" in str(caught.value)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads 5 must divide width 48"):
        ViTConfig(family="vit", variant="v", width=48, depth=1, mlp_dim=48, heads=5, patch=8)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixer": "axial", "pooling": "cls"}, "pooling must be gap"),
        ({"mixer": "wimdow"}, "'full', 'window', 'axial', 'pooling' or 'mlp'"),
        ({"layer_norm_eps": 0.0}, "greater than 0"),
    ],
)
def test_impossible_encoders(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViTConfig.model_validate({**MICRO_VIT.model_dump(), **keys})


def test_images_too_small() -> None:
    with pytest.raises(UserError, match=r"window 3 .* grid of 4 .*allowed: 1, 2, 4"):
        build(MIXERS[0].model_copy(update={"window": 3}), 32, 10)
    with pytest.raises(UserError, match="63 or more"):
        build(named_model("AlexNet"), 32, 10)
    with pytest.raises(UserError, match="no patch"):
        build(named_model("R+Ti/16"), 16, 10)
    with pytest.raises(ValueError, match="groups 3 must divide width 8"):
        HybridConfig.model_validate({**MICRO_HYBRID.model_dump(), "groups": 3})
