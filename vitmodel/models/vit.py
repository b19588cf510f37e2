"""Vision Transformer (Dosovitskiy et al. 2021): equations 1 to 4 of the paper, pre-LayerNorm, fused attention.

Parameter names follow timm's, so that weights travel by name. Shapes: B batch, T tokens, D width, H heads,
E = D / H, P patches per side, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitmodel.config import ViTConfig

LAYER_NORM_EPS = 1e-6  # the official code's; torch's default is 1e-5


class Attention(nn.Module):
    """Multi-head self-attention, queries, keys and values from one packed projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        q_BHTE, k_BHTE, v_BHTE = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE)
        return self.proj(y_BHTE.transpose(1, 2).reshape(B, T, D))


class Mlp(nn.Module):
    """Two dense layers with a GELU between them; dropout after each (paper, appendix B.1)."""

    def __init__(self, width: int, hidden: int, gelu: str, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU("tanh" if gelu == "tanh" else "none")
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x_BTD)))))


class Block(nn.Module):
    """One encoder layer (paper, equations 2 and 3)."""

    def __init__(self, config: ViTConfig, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(config.width, config.heads)
        self.drop = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(config.width, config.mlp_dim, config.gelu, dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.drop(self.attn(self.norm1(x_BTD)))
        return x_BTD + self.mlp(self.norm2(x_BTD))


class PatchEmbed(nn.Module):
    """Image to a sequence of linearly embedded patches, row by row (paper, equation 1)."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] to logits (B, C)."""

    def __init__(self, config: ViTConfig, image_size: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        prefix = 1 if config.pooling == "cls" else 0
        tokens = (image_size // config.patch) ** 2 + prefix
        self.patch_embed = PatchEmbed(config.width, config.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if prefix else None
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, config.width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(config.width, classes)
        self.activation_checkpointing = False

    def features(self, images: Tensor) -> Tensor:
        """The class token, or the mean of all tokens, after the last norm: (B, D)."""
        x_BTD = self.patch_embed(images)
        if self.cls_token is not None:
            x_BTD = torch.cat([self.cls_token.expand(len(images), -1, -1).to(x_BTD.dtype), x_BTD], dim=1)
        x_BTD = self.drop(x_BTD + self.pos_embed)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x_BTD = checkpoint(block, x_BTD, use_reentrant=False)
            else:
                x_BTD = block(x_BTD)
        x_BTD = self.norm(x_BTD)
        return x_BTD[:, 0] if self.cls_token is not None else x_BTD.mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def init_weights(self) -> None:
        """The official code's: Xavier uniform, nearly zero biases in the MLP, N(0, 0.02) positions, zero head."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and module is not self.head:
                if name.endswith("attn.qkv"):  # three square matrices, not one flat one
                    bound = (6.0 / (2 * module.in_features)) ** 0.5
                    nn.init.uniform_(module.weight, -bound, bound)
                else:
                    nn.init.xavier_uniform_(module.weight)
                nn.init.normal_(module.bias, std=1e-6 if "mlp" in name else 0.0)
        fan_in = self.patch_embed.proj.weight[0].numel()
        nn.init.trunc_normal_(self.patch_embed.proj.weight, std=fan_in**-0.5)  # flax's default, LeCun normal
        assert self.patch_embed.proj.bias is not None
        nn.init.zeros_(self.patch_embed.proj.bias)
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
