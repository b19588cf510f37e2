"""How other codebases store a transformer encoder: vision_transformer's published npz files, timm 1.0, transformers 5."""

from __future__ import annotations

from collections.abc import Iterator

from vitmodel.config.families.hybrid import HybridConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.weights.tensor_forms import (
    CONV,
    OUT_KERNEL,
    PACKED,
    QKV_BIAS,
    QKV_KERNEL,
    SAME,
    Entry,
    dense_layer,
    weight_and_bias,
)


def encoder_official(model: ViTConfig | HybridConfig) -> Iterator[Entry]:
    if model.pooling == "cls":
        yield Entry("cls_token", ("cls",), SAME)
    yield Entry("pos_embed", ("Transformer/posembed_input/pos_embedding",), SAME)
    yield Entry("patch_embed.proj.weight", ("embedding/kernel",), CONV)
    yield Entry("patch_embed.proj.bias", ("embedding/bias",), SAME)
    for number in range(model.depth):
        native, block = f"blocks.{number}", f"Transformer/encoderblock_{number}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        three = [f"{attention}/{name}" for name in ("query", "key", "value")]
        yield from weight_and_bias(f"{native}.norm1", f"{block}/LayerNorm_0/", "scale")
        yield Entry(f"{native}.attn.qkv.weight", tuple(f"{name}/kernel" for name in three), QKV_KERNEL)
        yield Entry(f"{native}.attn.qkv.bias", tuple(f"{name}/bias" for name in three), QKV_BIAS)
        yield Entry(f"{native}.attn.proj.weight", (f"{attention}/out/kernel",), OUT_KERNEL)
        yield Entry(f"{native}.attn.proj.bias", (f"{attention}/out/bias",), SAME)
        yield from weight_and_bias(f"{native}.norm2", f"{block}/LayerNorm_2/", "scale")
        yield from dense_layer(f"{native}.mlp.fc1", f"{block}/MlpBlock_3/Dense_0")
        yield from dense_layer(f"{native}.mlp.fc2", f"{block}/MlpBlock_3/Dense_1")
    yield from weight_and_bias("norm", "Transformer/encoder_norm/", "scale")
    if model.pre_logits:
        yield from dense_layer("pre_logits", "pre_logits")
    yield from dense_layer("head", "head")


def encoder_timm(model: ViTConfig | HybridConfig) -> Iterator[Entry]:
    """Our names are the same as timm's."""
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for name in (*(["cls_token"] if model.pooling == "cls" else []), "pos_embed"):
        yield Entry(name, (name,), SAME)
    blocks = (f"blocks.{number}.{layer}" for number in range(model.depth) for layer in layers)
    for name in ("patch_embed.proj", *blocks, "norm", "head"):
        yield from weight_and_bias(name, f"{name}.")


def encoder_hf(model: ViTConfig | HybridConfig) -> Iterator[Entry]:
    yield Entry("cls_token", ("vit.embeddings.cls_token",), SAME)
    yield Entry("pos_embed", ("vit.embeddings.position_embeddings",), SAME)
    yield from weight_and_bias("patch_embed.proj", "vit.embeddings.patch_embeddings.projection.")
    for number in range(model.depth):
        native, layer = f"blocks.{number}", f"vit.encoder.layer.{number}"
        for part in ("weight", "bias"):
            names = tuple(f"{layer}.attention.attention.{name}.{part}" for name in ("query", "key", "value"))
            yield Entry(f"{native}.attn.qkv.{part}", names, PACKED)
        yield from weight_and_bias(f"{native}.norm1", f"{layer}.layernorm_before.")
        yield from weight_and_bias(f"{native}.attn.proj", f"{layer}.attention.output.dense.")
        yield from weight_and_bias(f"{native}.norm2", f"{layer}.layernorm_after.")
        yield from weight_and_bias(f"{native}.mlp.fc1", f"{layer}.intermediate.dense.")
        yield from weight_and_bias(f"{native}.mlp.fc2", f"{layer}.output.dense.")
    yield from weight_and_bias("norm", "vit.layernorm.")
    if model.pre_logits:
        yield from weight_and_bias("pre_logits", "vit.pooler.dense.")
    yield from weight_and_bias("head", "classifier.")
