"""How other codebases store BiT's ResNets and the ResNet of a hybrid: the published npz files, timm 1.0."""

from __future__ import annotations

from collections.abc import Iterator

from vitmodel.config.families.hybrid import HybridConfig, hybrid_blocks
from vitmodel.config.families.resnet import ResNetConfig, resnet_blocks
from vitmodel.weights.tensor_forms import CONV, DENSE_HWIO, DENSE_OIHW, SAME, Entry, weight_and_bias


def _units(stages: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """(index of the block in ours, stage from 1, unit from 1) of every block."""
    places = [(stage, unit) for stage, blocks in enumerate(stages, 1) for unit in range(1, blocks + 1)]
    yield from ((number, stage, unit) for number, (stage, unit) in enumerate(places))


def backbone_official(model: HybridConfig) -> Iterator[Entry]:
    native = "patch_embed.backbone"
    yield Entry(f"{native}.conv.weight", ("conv_root/kernel",), CONV)
    yield from weight_and_bias(f"{native}.norm", "gn_root/", "scale")
    for (number, stage, unit), shape in zip(_units(model.stages), hybrid_blocks(model), strict=True):
        block, there = f"{native}.blocks.{number}", f"block{stage}/unit{unit}"
        for part in range(3):
            yield Entry(f"{block}.convs.{part}.weight", (f"{there}/conv{part + 1}/kernel",), CONV)
            yield from weight_and_bias(f"{block}.norms.{part}", f"{there}/gn{part + 1}/", "scale")
        if shape.has_projection:
            yield Entry(f"{block}.shortcut.weight", (f"{there}/conv_proj/kernel",), CONV)
            yield from weight_and_bias(f"{block}.shortcut_norm", f"{there}/gn_proj/", "scale")


def backbone_timm(model: HybridConfig) -> Iterator[Entry]:
    native = "patch_embed.backbone"
    stem = f"{native}.stem" if model.stages else native
    yield Entry(f"{native}.conv.weight", (f"{stem}.conv.weight",), SAME)
    yield from weight_and_bias(f"{native}.norm", f"{stem}.norm.")
    for (number, stage, unit), shape in zip(_units(model.stages), hybrid_blocks(model), strict=True):
        block, there = f"{native}.blocks.{number}", f"{native}.stages.{stage - 1}.blocks.{unit - 1}"
        for part in range(3):
            yield Entry(f"{block}.convs.{part}.weight", (f"{there}.conv{part + 1}.weight",), SAME)
            yield from weight_and_bias(f"{block}.norms.{part}", f"{there}.norm{part + 1}.")
        if shape.has_projection:
            yield Entry(f"{block}.shortcut.weight", (f"{there}.downsample.conv.weight",), SAME)
            yield from weight_and_bias(f"{block}.shortcut_norm", f"{there}.downsample.norm.")


def bit_official(model: ResNetConfig) -> Iterator[Entry]:
    yield Entry("stem.conv.weight", ("resnet/root_block/standardized_conv2d/kernel",), CONV)
    for (number, stage, unit), shape in zip(_units(model.stages), resnet_blocks(model), strict=True):
        native, there = f"blocks.{number}", f"resnet/block{stage}/unit{unit:02d}"
        for part, letter in enumerate("abc"):
            yield Entry(f"{native}.convs.{part}.weight", (f"{there}/{letter}/standardized_conv2d/kernel",), CONV)
            yield from weight_and_bias(f"{native}.norms.{part}", f"{there}/{letter}/group_norm/", "gamma")
        if shape.has_projection:
            yield Entry(f"{native}.shortcut.weight", (f"{there}/a/proj/standardized_conv2d/kernel",), CONV)
    yield from weight_and_bias("norm", "resnet/group_norm/", "gamma")
    yield Entry("head.weight", ("resnet/head/conv2d/kernel",), DENSE_HWIO)
    yield Entry("head.bias", ("resnet/head/conv2d/bias",), SAME)


def bit_timm(model: ResNetConfig) -> Iterator[Entry]:
    yield Entry("stem.conv.weight", ("stem.conv.weight",), SAME)
    for (number, stage, unit), shape in zip(_units(model.stages), resnet_blocks(model), strict=True):
        native, there = f"blocks.{number}", f"stages.{stage - 1}.blocks.{unit - 1}"
        for part in range(3):
            yield Entry(f"{native}.convs.{part}.weight", (f"{there}.conv{part + 1}.weight",), SAME)
            yield from weight_and_bias(f"{native}.norms.{part}", f"{there}.norm{part + 1}.")
        if shape.has_projection:
            yield Entry(f"{native}.shortcut.weight", (f"{there}.downsample.conv.weight",), SAME)
    yield from weight_and_bias("norm", "norm.")
    yield Entry("head.weight", ("head.fc.weight",), DENSE_OIHW)
    yield Entry("head.bias", ("head.fc.bias",), SAME)
