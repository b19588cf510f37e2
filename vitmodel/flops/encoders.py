"""Parameters and FLOPs of the transformer encoder and its blocks, in closed form. The convention: flops.py."""

from __future__ import annotations

from vitmodel.config.models import HybridConfig, ViTConfig
from vitmodel.flops.convolutions import hybrid_features
from vitmodel.flops.grid import patch_grid

Encoder = ViTConfig | HybridConfig


def prefix_tokens(model: Encoder) -> int:
    """Tokens before the grid's: the class token, where there is one."""
    return int(model.pooling == "cls")


def token_count(model: Encoder, image_size: int) -> int:
    """Tokens that the blocks work on."""
    return patch_grid(model, image_size) ** 2 + prefix_tokens(model)


def encoder_params(model: Encoder, image_size: int, classes: int) -> int:
    """Patch embedding, positions, blocks and the head; 0 classes: no head."""
    width, tokens = model.width, token_count(model, image_size)
    embed = (_patch_inputs(model) + 1 + tokens + prefix_tokens(model)) * width
    mixing = 4 * (width + 1) * width
    if model.mixer == "pooling":
        mixing = 0
    elif model.mixer == "mlp":
        hidden = width // 2
        mixing = (tokens + 1) * hidden + (hidden + 1) * tokens
    head = ((model.pre_logits or width) + 1) * classes + (width + 1) * model.pre_logits
    return embed + model.depth * (mixing + _mlp_and_norm_params(width, model.mlp_dim)) + 2 * width + head


def block_params(width: int, mlp_dim: int) -> int:
    """One block with full attention."""
    return 4 * (width + 1) * width + _mlp_and_norm_params(width, mlp_dim)


def _mlp_and_norm_params(width: int, mlp_dim: int) -> int:
    return (width + 1) * mlp_dim + (mlp_dim + 1) * width + 4 * width


def embed_flops(model: Encoder, image_size: int) -> int:
    """Embedding every patch."""
    return 2 * patch_grid(model, image_size) ** 2 * _patch_inputs(model) * model.width


def encoder_flops(model: Encoder, image_size: int, classes: int) -> int:
    """Patch embedding, blocks and the head; 0 classes: no head."""
    head = 2 * model.width * model.pre_logits + 2 * (model.pre_logits or model.width) * classes
    mlp = 4 * token_count(model, image_size) * model.width * model.mlp_dim
    return embed_flops(model, image_size) + model.depth * (_mixer_flops(model, image_size) + mlp) + head


def block_flops(tokens: int, width: int, mlp_dim: int) -> int:
    """One block with full attention."""
    return attention_flops(tokens, tokens, width) + 4 * tokens * width * mlp_dim


def attention_flops(tokens: int, reach: int, width: int) -> int:
    """Four projections, and two products of each token with the `reach` tokens it attends to."""
    return 8 * tokens * width**2 + 4 * tokens * reach * width


def block_values(tokens: int, width: int, mlp_dim: int) -> int:
    """Rough number of values a block keeps for the backward pass: fused attention keeps no T x T matrix."""
    return tokens * (12 * width + 2 * mlp_dim)


def _patch_inputs(model: Encoder) -> int:
    channels = hybrid_features(model) if isinstance(model, HybridConfig) else 3
    return channels * model.patch**2


def _mixer_flops(model: Encoder, image_size: int) -> int:
    """Mixing the tokens once."""
    tokens, width, grid = token_count(model, image_size), model.width, patch_grid(model, image_size)
    if model.mixer == "pooling":
        return 0
    if model.mixer == "mlp":
        return 4 * tokens * width * (width // 2)
    return attention_flops(tokens, {"full": tokens, "window": model.window**2, "axial": grid}[model.mixer], width)
