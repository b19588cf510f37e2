"""How other codebases name and shape the same tensors: one table a layout, from a model's configuration.

`tensors_of(model, layout)` lists, for every tensor of ours, the tensors it is in that layout and the form of the
translation; `to_own` and `to_foreign` apply it, bit for bit. Pure: reads no files. Sources of the names: the published
npz files of vision_transformer and big_transfer, timm 1.0, transformers 5 (as its files name them).

Shapes: I inputs, O outputs, K kernel, D width, H heads, E = D / H.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vitmodel.config.base import UserError
from vitmodel.config.models import HybridConfig, ModelConfig, ResNetConfig, ViTConfig
from vitmodel.flops.convolutions import hybrid_blocks, resnet_blocks
from vitmodel.weights.recognise import Layout


class Form(NamedTuple):
    """One way to store a tensor. `write` gets the number of heads too."""

    read: Callable[[list[Tensor]], Tensor]
    write: Callable[[Tensor, int], list[Tensor]]


class Entry(NamedTuple):
    """One tensor of ours and the tensors it is elsewhere."""

    own: str
    foreign: tuple[str, ...]
    form: Form


SAME = Form(lambda parts: parts[0], lambda own, heads: [own])
DENSE = Form(lambda parts: parts[0].T, lambda own, heads: [own.T])  # (I, O) <-> (O, I)
CONV = Form(
    lambda parts: parts[0].permute(3, 2, 0, 1), lambda own, heads: [own.permute(2, 3, 1, 0)]
)  # (K, K, I, O) <-> (O, I, K, K)
PACKED = Form(torch.cat, lambda own, heads: list(own.chunk(3)))  # query, key, value <-> one after the other
QKV_KERNEL = Form(  # three (D, H, E) <-> (3 D, D)
    lambda parts: torch.cat([part.flatten(1).T for part in parts]),
    lambda own, heads: [part.T.reshape(part.shape[1], heads, -1) for part in own.chunk(3)],
)
QKV_BIAS = Form(  # three (H, E) <-> (3 D)
    lambda parts: torch.cat([part.flatten() for part in parts]),
    lambda own, heads: [part.reshape(heads, -1) for part in own.chunk(3)],
)
OUT_KERNEL = Form(
    lambda parts: parts[0].flatten(0, 1).T, lambda own, heads: [own.T.reshape(heads, -1, own.shape[0])]
)  # (H, E, D) <-> (D, D)
DENSE_HWIO = Form(lambda parts: parts[0][0, 0].T, lambda own, heads: [own.T[None, None]])  # (1, 1, I, O) <-> (O, I)
DENSE_OIHW = Form(lambda parts: parts[0].flatten(1), lambda own, heads: [own[:, :, None, None]])  # (O, I, 1, 1) <-> (O, I)


def tensors_of(model: ModelConfig, layout: Layout, *, has_head: bool = True) -> list[Entry]:
    """The whole table of one model, with its head or without. Raises UserError where the layout has no place for it."""
    _check_place(model, layout, has_head)
    if isinstance(model, ResNetConfig):
        entries = list(_bit_official(model) if layout == "official" else _bit_timm(model))
    else:
        assert isinstance(model, ViTConfig | HybridConfig)
        encoder = {"official": _encoder_official, "timm": _encoder_timm, "hf": _encoder_hf}[layout]
        entries = list(encoder(model))
        if isinstance(model, HybridConfig):
            entries += _backbone_official(model) if layout == "official" else _backbone_timm(model)
    return [entry for entry in entries if has_head or not entry.own.startswith("head.")]


def to_own(foreign: dict[str, Tensor], entries: list[Entry]) -> dict[str, Tensor]:
    """Our tensors from theirs: all of the table's names must be there, in the right shapes."""
    return {entry.own: entry.form.read([foreign[name] for name in entry.foreign]).contiguous() for entry in entries}


def to_foreign(own: dict[str, Tensor], entries: list[Entry], heads: int) -> dict[str, Tensor]:
    """Their tensors from ours; on the meta device, their shapes."""
    return {
        name: part.contiguous()
        for entry in entries
        for name, part in zip(entry.foreign, entry.form.write(own[entry.own], heads), strict=True)
    }


def _check_place(model: ModelConfig, layout: Layout, has_head: bool) -> None:
    if isinstance(model, ResNetConfig):
        is_published = model.block == "bottleneck" and model.stem == "imagenet"
        if not is_published or layout == "hf":
            raise UserError(
                f"layout {layout} has no place for {model.variant}", field="layout", allowed="official or timm, for BiT"
            )
        return
    if not isinstance(model, ViTConfig | HybridConfig) or (layout == "hf" and isinstance(model, HybridConfig)):
        raise UserError(f"layout {layout} has no place for family {model.family}", field="layout")
    is_hf_encoder = layout == "hf" and not has_head
    limits = {
        "mixer": (model.mixer, ("full",)),
        "pooling": (model.pooling, ("cls",) if layout == "hf" else ("cls", "gap")),
        # Hugging Face's classifier passes its pooler by; its headless ViTModel has it
        "pre_logits": (bool(model.pre_logits), (False, True) if layout == "official" or is_hf_encoder else (False,)),
    }
    for field, (value, allowed) in limits.items():
        if value not in allowed:
            raise UserError(f"layout {layout} has no place for {field} {value}", field=field, allowed=str(allowed[0]))


def _both(own: str, foreign: str, scale: str = "weight") -> Iterator[Entry]:
    """A norm's two vectors, or a layer stored as we store it."""
    yield Entry(f"{own}.weight", (f"{foreign}{scale}",), SAME)
    yield Entry(f"{own}.bias", (f"{foreign}{'beta' if scale == 'gamma' else 'bias'}",), SAME)


def _dense(own: str, foreign: str) -> Iterator[Entry]:
    yield Entry(f"{own}.weight", (f"{foreign}/kernel",), DENSE)
    yield Entry(f"{own}.bias", (f"{foreign}/bias",), SAME)


# --- encoders -------------------------------------------------------------------------------------------------


def _encoder_official(model: ViTConfig | HybridConfig) -> Iterator[Entry]:
    if model.pooling == "cls":
        yield Entry("cls_token", ("cls",), SAME)
    yield Entry("pos_embed", ("Transformer/posembed_input/pos_embedding",), SAME)
    yield Entry("patch_embed.proj.weight", ("embedding/kernel",), CONV)
    yield Entry("patch_embed.proj.bias", ("embedding/bias",), SAME)
    for number in range(model.depth):
        own, block = f"blocks.{number}", f"Transformer/encoderblock_{number}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        three = [f"{attention}/{name}" for name in ("query", "key", "value")]
        yield from _both(f"{own}.norm1", f"{block}/LayerNorm_0/", "scale")
        yield Entry(f"{own}.attn.qkv.weight", tuple(f"{name}/kernel" for name in three), QKV_KERNEL)
        yield Entry(f"{own}.attn.qkv.bias", tuple(f"{name}/bias" for name in three), QKV_BIAS)
        yield Entry(f"{own}.attn.proj.weight", (f"{attention}/out/kernel",), OUT_KERNEL)
        yield Entry(f"{own}.attn.proj.bias", (f"{attention}/out/bias",), SAME)
        yield from _both(f"{own}.norm2", f"{block}/LayerNorm_2/", "scale")
        yield from _dense(f"{own}.mlp.fc1", f"{block}/MlpBlock_3/Dense_0")
        yield from _dense(f"{own}.mlp.fc2", f"{block}/MlpBlock_3/Dense_1")
    yield from _both("norm", "Transformer/encoder_norm/", "scale")
    if model.pre_logits:
        yield from _dense("pre_logits", "pre_logits")
    yield from _dense("head", "head")


def _encoder_timm(model: ViTConfig | HybridConfig) -> Iterator[Entry]:
    """Our names are timm's."""
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for name in (*(["cls_token"] if model.pooling == "cls" else []), "pos_embed"):
        yield Entry(name, (name,), SAME)
    blocks = (f"blocks.{number}.{layer}" for number in range(model.depth) for layer in layers)
    for name in ("patch_embed.proj", *blocks, "norm", "head"):
        yield from _both(name, f"{name}.")


def _encoder_hf(model: ViTConfig | HybridConfig) -> Iterator[Entry]:
    yield Entry("cls_token", ("vit.embeddings.cls_token",), SAME)
    yield Entry("pos_embed", ("vit.embeddings.position_embeddings",), SAME)
    yield from _both("patch_embed.proj", "vit.embeddings.patch_embeddings.projection.")
    for number in range(model.depth):
        own, layer = f"blocks.{number}", f"vit.encoder.layer.{number}"
        for part in ("weight", "bias"):
            names = tuple(f"{layer}.attention.attention.{name}.{part}" for name in ("query", "key", "value"))
            yield Entry(f"{own}.attn.qkv.{part}", names, PACKED)
        yield from _both(f"{own}.norm1", f"{layer}.layernorm_before.")
        yield from _both(f"{own}.attn.proj", f"{layer}.attention.output.dense.")
        yield from _both(f"{own}.norm2", f"{layer}.layernorm_after.")
        yield from _both(f"{own}.mlp.fc1", f"{layer}.intermediate.dense.")
        yield from _both(f"{own}.mlp.fc2", f"{layer}.output.dense.")
    yield from _both("norm", "vit.layernorm.")
    if model.pre_logits:
        yield from _both("pre_logits", "vit.pooler.dense.")
    yield from _both("head", "classifier.")


# --- ResNets --------------------------------------------------------------------------------------------------


def _units(stages: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """(our flat number, stage from 1, unit from 1) of every block."""
    places = [(stage, unit) for stage, blocks in enumerate(stages, 1) for unit in range(1, blocks + 1)]
    yield from ((number, stage, unit) for number, (stage, unit) in enumerate(places))


def _backbone_official(model: HybridConfig) -> Iterator[Entry]:
    own = "patch_embed.backbone"
    yield Entry(f"{own}.conv.weight", ("conv_root/kernel",), CONV)
    yield from _both(f"{own}.norm", "gn_root/", "scale")
    for (number, stage, unit), shape in zip(_units(model.stages), hybrid_blocks(model), strict=True):
        block, there = f"{own}.blocks.{number}", f"block{stage}/unit{unit}"
        for part in range(3):
            yield Entry(f"{block}.convs.{part}.weight", (f"{there}/conv{part + 1}/kernel",), CONV)
            yield from _both(f"{block}.norms.{part}", f"{there}/gn{part + 1}/", "scale")
        if shape.has_projection:
            yield Entry(f"{block}.shortcut.weight", (f"{there}/conv_proj/kernel",), CONV)
            yield from _both(f"{block}.shortcut_norm", f"{there}/gn_proj/", "scale")


def _backbone_timm(model: HybridConfig) -> Iterator[Entry]:
    own = "patch_embed.backbone"
    stem = f"{own}.stem" if model.stages else own
    yield Entry(f"{own}.conv.weight", (f"{stem}.conv.weight",), SAME)
    yield from _both(f"{own}.norm", f"{stem}.norm.")
    for (number, stage, unit), shape in zip(_units(model.stages), hybrid_blocks(model), strict=True):
        block, there = f"{own}.blocks.{number}", f"{own}.stages.{stage - 1}.blocks.{unit - 1}"
        for part in range(3):
            yield Entry(f"{block}.convs.{part}.weight", (f"{there}.conv{part + 1}.weight",), SAME)
            yield from _both(f"{block}.norms.{part}", f"{there}.norm{part + 1}.")
        if shape.has_projection:
            yield Entry(f"{block}.shortcut.weight", (f"{there}.downsample.conv.weight",), SAME)
            yield from _both(f"{block}.shortcut_norm", f"{there}.downsample.norm.")


def _bit_official(model: ResNetConfig) -> Iterator[Entry]:
    yield Entry("stem.conv.weight", ("resnet/root_block/standardized_conv2d/kernel",), CONV)
    for (number, stage, unit), shape in zip(_units(model.stages), resnet_blocks(model), strict=True):
        own, there = f"blocks.{number}", f"resnet/block{stage}/unit{unit:02d}"
        for part, letter in enumerate("abc"):
            yield Entry(f"{own}.convs.{part}.weight", (f"{there}/{letter}/standardized_conv2d/kernel",), CONV)
            yield from _both(f"{own}.norms.{part}", f"{there}/{letter}/group_norm/", "gamma")
        if shape.has_projection:
            yield Entry(f"{own}.shortcut.weight", (f"{there}/a/proj/standardized_conv2d/kernel",), CONV)
    yield from _both("norm", "resnet/group_norm/", "gamma")
    yield Entry("head.weight", ("resnet/head/conv2d/kernel",), DENSE_HWIO)
    yield Entry("head.bias", ("resnet/head/conv2d/bias",), SAME)


def _bit_timm(model: ResNetConfig) -> Iterator[Entry]:
    yield Entry("stem.conv.weight", ("stem.conv.weight",), SAME)
    for (number, stage, unit), shape in zip(_units(model.stages), resnet_blocks(model), strict=True):
        own, there = f"blocks.{number}", f"stages.{stage - 1}.blocks.{unit - 1}"
        for part in range(3):
            yield Entry(f"{own}.convs.{part}.weight", (f"{there}.conv{part + 1}.weight",), SAME)
            yield from _both(f"{own}.norms.{part}", f"{there}.norm{part + 1}.")
        if shape.has_projection:
            yield Entry(f"{own}.shortcut.weight", (f"{there}.downsample.conv.weight",), SAME)
    yield from _both("norm", "norm.")
    yield Entry("head.weight", ("head.fc.weight",), DENSE_OIHW)
    yield Entry("head.bias", ("head.fc.bias",), SAME)
