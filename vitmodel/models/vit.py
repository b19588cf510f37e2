"""Vision Transformer (Dosovitskiy et al. 2021): equations 1 to 4 of the paper, pre-LayerNorm, fused attention.

The same encoder is used on patches of pixels (here) and of a ResNet's feature map (hybrid.py). Parameter names are timm's.
Shapes: B batch, T tokens, D width, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitmodel.config.families.encoder import EncoderConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.models.classifier import Classifier
from vitmodel.models.mixers import Grid, make_mixer


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


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, drops a sample's residual branch with this probability."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch_BTD: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return branch_BTD
        keep = 1 - self.rate
        return branch_BTD * branch_BTD.new_empty(len(branch_BTD), 1, 1).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    """One encoder layer (paper, equations 2 and 3), with the token mixer of its configuration."""

    def __init__(self, config: EncoderConfig, grid: Grid, number: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attn = make_mixer(config, grid, number)
        self.drop = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config.width, config.mlp_dim, config.gelu, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTD: Tensor, first: int | None = None) -> Tensor:
        """All tokens; with `first`, which needs full attention, only the first tokens, which still attend to all."""
        mixed_BTD = self.attn(self.norm1(x_BTD)) if first is None else self.attn(self.norm1(x_BTD), first=first)
        x_BTD = x_BTD[:, :first] + self.drop_path(self.drop(mixed_BTD))
        return x_BTD + self.drop_path(self.mlp(self.norm2(x_BTD)))


def run_blocks(blocks: nn.ModuleList, x_BTD: Tensor, checkpointed: bool, first: int | None = None) -> Tensor:
    """Apply the blocks; with `first`, the last one computes only the first tokens.

    With checkpointing, each block stores its input only and is recomputed in the backward pass.
    """
    for number, block in enumerate(blocks, 1):
        tokens = first if number == len(blocks) else None
        x_BTD = checkpoint(block, x_BTD, tokens, use_reentrant=False) if checkpointed else block(x_BTD, tokens)
    return x_BTD


def init_blocks(blocks: nn.ModuleList) -> None:
    """Initialise as the official code: Xavier uniform, nearly zero biases in the MLP."""
    for name, module in blocks.named_modules():
        if isinstance(module, nn.Linear):
            if name.endswith("attn.qkv"):  # three square matrices, not one flat one
                bound = (6.0 / (2 * module.in_features)) ** 0.5
                nn.init.uniform_(module.weight, -bound, bound)
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.normal_(module.bias, std=1e-6 if "mlp" in name else 0.0)


class PatchEmbed(nn.Module):
    """Image to a sequence of linearly embedded patches, row by row (paper, equation 1)."""

    def __init__(self, width: int, patch: int, channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)

    def init_weights(self) -> None:
        """LeCun normal, flax's default for convolutions, and zero biases."""
        nn.init.trunc_normal_(self.proj.weight, std=self.proj.weight[0].numel() ** -0.5)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)


class ViT(Classifier):
    """Images (B, 3, S, S) in [-1, 1] to logits (B, C); with 0 classes to features.

    `patch_embed` makes the grid of tokens. Stochastic depth grows linearly from 0 at the first block to its rate at the last.
    """

    def __init__(
        self,
        config: EncoderConfig,
        patch_embed: PatchEmbed,
        grid: Grid,
        classes: int,
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        self.grid, self.prefix = grid, 1 if config.pooling == "cls" else 0
        rates = [stochastic_depth * number / max(1, config.depth - 1) for number in range(config.depth)]
        self.patch_embed = patch_embed
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if self.prefix else None
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + self.prefix, config.width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(config, grid, i, dropout, rate) for i, rate in enumerate(rates))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.pre_logits = nn.Linear(config.width, config.pre_logits) if config.pre_logits else None
        self.head = nn.Linear(config.pre_logits or config.width, classes) if classes else nn.Identity()
        self.activation_checkpointing = False

    def embed(self, patches_BTD: Tensor) -> Tensor:
        """The encoder's input: the class token and the embedded patches, with positions added."""
        if self.cls_token is not None:
            prefix = self.cls_token.expand(len(patches_BTD), -1, -1).to(patches_BTD.dtype)
            patches_BTD = torch.cat([prefix, patches_BTD], dim=1)
        return self.drop(patches_BTD + self.pos_embed)

    def encode(self, x_BTD: Tensor, first: int | None = None) -> Tensor:
        """All blocks and the last norm, for all tokens or the `first`. With mixer full, any subset of tokens is valid."""
        return self.norm(run_blocks(self.blocks, x_BTD, self.activation_checkpointing and self.training, first))

    def features(self, images: Tensor) -> Tensor:
        """The class token, or the mean of all tokens, after the last norm (and the pre-logits layer): (B, D).

        In training, the last block of a model with class token computes only that token. In evaluation it computes all,
        as in other implementations: for analysis, and for counting FLOPs.
        """
        only_class = 1 if self.training and self.cls_token is not None else None
        x_BTD = self.encode(self.embed(self.patch_embed(images)), only_class)
        x_BD = x_BTD[:, 0] if self.cls_token is not None else x_BTD.mean(dim=1)
        return x_BD if self.pre_logits is None else torch.tanh(self.pre_logits(x_BD))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def init_weights(self) -> None:
        """As the official code: `init_blocks`, N(0, 0.02) positions, zero head."""
        init_blocks(self.blocks)
        self.patch_embed.init_weights()
        nn.init.normal_(self.pos_embed, std=0.02)
        if self.pre_logits is not None:
            nn.init.trunc_normal_(self.pre_logits.weight, std=self.pre_logits.in_features**-0.5)
            nn.init.zeros_(self.pre_logits.bias)
        if isinstance(self.head, nn.Linear):
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)


def make(model: ViTConfig, sides: tuple[int, int], classes: int, *, dropout: float, stochastic_depth: float) -> ViT:
    """A ViT for images of these (height, width)."""
    grid = model.patch_grid(sides[0]), model.patch_grid(sides[1])
    embed = PatchEmbed(model.width, model.patch)
    return ViT(model, embed, grid, classes, dropout=dropout, stochastic_depth=stochastic_depth)
