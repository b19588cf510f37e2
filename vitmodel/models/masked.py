"""Encoders with an objective without labels: masked patch prediction (Dosovitskiy et al. 2021, appendix B.1.2) and the
masked autoencoder (He et al. 2022).

Each takes images in fp32 and an order of their patches (data/masks.py) and returns the loss of every image. Only the
encoder's weights are saved: `encoder_weights`. Targets: masked_targets.py. Shapes: B batch, T patches, N selected patches,
D width, P values of a patch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmodel.config.families.encoder import EncoderConfig
from vitmodel.config.objectives import Mae, MaskedPatch
from vitmodel.flops.objectives import COLOURS, corruption, decoder_of, visible_patches
from vitmodel.models.masked_targets import colour_classes, normalised_patches, sine_positions
from vitmodel.models.vit import Block, ViT, init_blocks, run_blocks

ENCODER = "encoder."


def encoder_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights among those of a whole module, with the names that they have in a classifier."""
    return {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}


def take(x_BTD: Tensor, index_BN: Tensor) -> Tensor:
    """The rows of each sample with these indices, in their order: (B, N, D)."""
    return x_BTD.gather(1, index_BN[:, :, None].expand(-1, -1, x_BTD.shape[2]))


def put(x_BTD: Tensor, index_BN: Tensor, rows_BND: Tensor) -> Tensor:
    """A copy in which the rows with these (distinct) indices are replaced."""
    return x_BTD.scatter(1, index_BN[:, :, None].expand(-1, -1, x_BTD.shape[2]), rows_BND.to(x_BTD.dtype))


class MaskedPatchPredictor(nn.Module):
    """Predicts the mean colour of each corrupted patch from its own representation."""

    def __init__(self, encoder: ViT, objective: MaskedPatch, image_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.side = image_size // encoder.grid[0]
        self.counts = corruption(objective, encoder.grid[0] * encoder.grid[1])
        width = encoder.pos_embed.shape[2]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.colours = nn.Linear(width, COLOURS)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.zeros_(self.colours.weight)
        nn.init.zeros_(self.colours.bias)

    def forward(self, images: Tensor, order_BT: Tensor) -> Tensor:
        """Cross-entropy over 512 colours, the mean over each image's corrupted patches: (B,)."""
        corrupted_BN = order_BT[:, : sum(self.counts)]
        patches_BTD = self.encoder.patch_embed(images.to(self.mask_token.dtype))
        x_BTD = self.encoder.encode(self.encoder.embed(self._corrupt(patches_BTD, order_BT)))[:, self.encoder.prefix :]
        logits = self.colours(take(x_BTD, corrupted_BN)).float()
        targets_BN = colour_classes(images, self.side).gather(1, corrupted_BN)
        return F.cross_entropy(logits.transpose(1, 2), targets_BN, reduction="none").mean(dim=1)

    def _corrupt(self, patches_BTD: Tensor, order_BT: Tensor) -> Tensor:
        """Replace the first patches of the order by [mask], and the next by the embedding of another patch.

        The other patch is from the end of the order, and therefore any other one with the same probability.
        """
        masked, other, _ = self.counts
        x_BTD = put(patches_BTD, order_BT[:, :masked], self.mask_token.expand(len(patches_BTD), masked, -1))
        if not other:
            return x_BTD
        others_BND = take(patches_BTD, order_BT[:, -other:])
        return put(x_BTD, order_BT[:, masked : masked + other], others_BND)

    @property
    def activation_checkpointing(self) -> bool:
        return self.encoder.activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, value: bool) -> None:
        self.encoder.activation_checkpointing = value


class MaskedAutoencoder(nn.Module):
    """Encodes only the visible patches; a light decoder predicts the pixels of the others."""

    def __init__(self, encoder: ViT, objective: Mae, image_size: int) -> None:
        super().__init__()
        decoder = decoder_of(objective)
        self.encoder = encoder
        self.side = image_size // encoder.grid[0]
        self.visible = visible_patches(objective, encoder.grid[0] * encoder.grid[1])
        width = encoder.pos_embed.shape[2]
        config = EncoderConfig(width=decoder.width, depth=decoder.depth, mlp_dim=4 * decoder.width, heads=decoder.heads)
        self.enter = nn.Linear(width, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder_blocks = nn.ModuleList(Block(config, encoder.grid, i, 0.0, 0.0) for i in range(decoder.depth))
        self.norm = nn.LayerNorm(decoder.width, eps=config.layer_norm_eps)
        self.pixels = nn.Linear(decoder.width, 3 * self.side**2)
        self.positions_TD: Tensor
        self.register_buffer("positions_TD", sine_positions(decoder.width, encoder.grid), persistent=False)
        self._init_weights()

    def forward(self, images: Tensor, order_BT: Tensor) -> Tensor:
        """Mean squared error over each image's masked patches: (B,). The first patches of the order are visible."""
        x_BTD = self.encoder.embed(self.encoder.patch_embed(images.to(self.mask_token.dtype)))
        prefix = self.encoder.prefix
        visible_BN = order_BT[:, : self.visible] + prefix
        x_BND = torch.cat([x_BTD[:, :prefix], take(x_BTD, visible_BN)], dim=1)
        predicted_BNP = self._decode(self.encoder.encode(x_BND), order_BT).float()
        targets_BNP = take(normalised_patches(images, self.side), order_BT[:, self.visible :])
        return (predicted_BNP - targets_BNP).square().mean(dim=(1, 2))

    def _decode(self, x_BND: Tensor, order_BT: Tensor) -> Tensor:
        """Pixels of the masked patches. The sequence is in the order of the mask: attention does not depend on it."""
        (B, T), prefix, x_BND = order_BT.shape, self.encoder.prefix, self.enter(x_BND)
        positions_BTD = self.positions_TD.to(x_BND.dtype)[order_BT]
        visible = x_BND[:, prefix:] + positions_BTD[:, : self.visible]
        masked = self.mask_token.expand(B, T - self.visible, -1) + positions_BTD[:, self.visible :]
        x_BTD = torch.cat([x_BND[:, :prefix], visible, masked], dim=1)
        x_BTD = run_blocks(self.decoder_blocks, x_BTD, self.activation_checkpointing and self.training)
        return self.pixels(self.norm(x_BTD[:, prefix + self.visible :]))

    def _init_weights(self) -> None:
        """Blocks as in the encoder, the mask token as its positions."""
        init_blocks(self.decoder_blocks)
        for layer in (self.enter, self.pixels):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    @property
    def activation_checkpointing(self) -> bool:
        return self.encoder.activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, value: bool) -> None:
        self.encoder.activation_checkpointing = value
