"""The transformer encoder that several families use: its configuration, and its parameters and FLOPs in closed form."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from vitmodel.config.base import Frozen, UserError


class EncoderConfig(Frozen):
    """The pre-LayerNorm encoder and its head (Dosovitskiy et al. 2021, equations 1 to 4), of any size."""

    width: int = Field(gt=0, examples=["384"])
    """Width of the tokens."""
    depth: int = Field(gt=0, examples=["12"])
    """Number of blocks."""
    mlp_dim: int = Field(gt=0, examples=["1536"])
    """Width of the MLPs' hidden layer."""
    heads: int = Field(gt=0, examples=["6"])
    """Attention heads; they must divide the width."""
    pooling: Literal["cls", "gap"] = "cls"
    """What the head reads: the class token, or the mean over the patches (global average pooling)."""
    gelu: Literal["tanh", "erf"] = "tanh"
    """Form of the GELU: tanh as in the official code, erf as in timm and Hugging Face."""
    layer_norm_eps: float = Field(default=1e-6, gt=0)
    """Epsilon of the LayerNorms."""
    pre_logits: int = Field(default=0, ge=0)
    """Width of the tanh layer before the head; 0: none."""
    mixer: Literal["full", "window", "axial", "pooling", "mlp"] = "full"
    """Token mixer of the blocks; all but full attention need `pooling: gap`."""
    window: int = Field(default=7, gt=0)
    """Side of a window in tokens, for `mixer: window`."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.mixer != "full" and self.pooling == "cls":
            raise ValueError(f"mixer {self.mixer} does not support a class token: pooling must be gap")
        return self


class PatchEncoderConfig(EncoderConfig):
    """An encoder on the patches of an image or of a feature map."""

    patch: int = Field(gt=0, examples=["16"])
    """Side of a patch in pixels of the image."""

    @property
    def patch_channels(self) -> int:
        """Channels of what the patches are cut from."""
        return 3

    def map_size(self, image_size: int) -> int:
        """Side in pixels of what the patches are cut from."""
        return image_size

    def patch_grid(self, image_size: int) -> int:
        """Patches along one side."""
        return self.map_size(image_size) // self.patch


def check_patches(model: PatchEncoderConfig, variant: str, image_size: int) -> None:
    """Raise UserError if an image has no patches, or the windows do not divide their grid."""
    grid = model.patch_grid(image_size)
    if grid < 1:
        raise UserError(f"{variant} has no patch in an image of {image_size} pixels", field="patch")
    if model.mixer == "window" and grid % model.window:
        sides = [str(side) for side in range(1, grid + 1) if grid % side == 0]
        raise UserError(
            f"window {model.window} of {variant} does not divide the grid of {grid} patches",
            field="window",
            allowed=", ".join(sides),
        )


def prefix_tokens(model: EncoderConfig) -> int:
    """Tokens before those of the patches: the class token, if there is one."""
    return int(model.pooling == "cls")


def token_count(model: PatchEncoderConfig, image_size: int) -> int:
    """Tokens in the blocks."""
    return model.patch_grid(image_size) ** 2 + prefix_tokens(model)


def encoder_params(model: PatchEncoderConfig, image_size: int, classes: int) -> int:
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


def encoder_flops(model: PatchEncoderConfig, image_size: int, classes: int) -> int:
    """Patch embedding, blocks and the head; 0 classes: no head."""
    head = 2 * model.width * model.pre_logits + 2 * (model.pre_logits or model.width) * classes
    mlp = 4 * token_count(model, image_size) * model.width * model.mlp_dim
    return embed_flops(model, image_size) + model.depth * (_mixer_flops(model, image_size) + mlp) + head


def encoder_values(model: PatchEncoderConfig, image_size: int) -> int:
    """Rough number of values that the blocks store for the backward pass."""
    return model.depth * block_values(token_count(model, image_size), model.width, model.mlp_dim)


def embed_flops(model: PatchEncoderConfig, image_size: int) -> int:
    """The embedding of every patch."""
    return 2 * model.patch_grid(image_size) ** 2 * _patch_inputs(model) * model.width


def block_params(width: int, mlp_dim: int) -> int:
    """One block with full attention."""
    return 4 * (width + 1) * width + _mlp_and_norm_params(width, mlp_dim)


def block_flops(tokens: int, width: int, mlp_dim: int) -> int:
    """One block with full attention."""
    return attention_flops(tokens, tokens, width) + 4 * tokens * width * mlp_dim


def block_values(tokens: int, width: int, mlp_dim: int) -> int:
    """Rough number of values that a block stores for the backward pass: fused attention stores no T x T matrix."""
    return tokens * (12 * width + 2 * mlp_dim)


def attention_flops(tokens: int, attended: int, width: int) -> int:
    """Four projections, and two products of each token with the tokens that it attends to."""
    return 8 * tokens * width**2 + 4 * tokens * attended * width


def _mlp_and_norm_params(width: int, mlp_dim: int) -> int:
    return (width + 1) * mlp_dim + (mlp_dim + 1) * width + 4 * width


def _patch_inputs(model: PatchEncoderConfig) -> int:
    return model.patch_channels * model.patch**2


def _mixer_flops(model: PatchEncoderConfig, image_size: int) -> int:
    """One token mixer."""
    tokens, width, grid = token_count(model, image_size), model.width, model.patch_grid(image_size)
    if model.mixer == "pooling":
        return 0
    if model.mixer == "mlp":
        return 4 * tokens * width * (width // 2)
    return attention_flops(tokens, {"full": tokens, "window": model.window**2, "axial": grid}[model.mixer], width)
