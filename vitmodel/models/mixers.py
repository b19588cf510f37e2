"""Token mixers of an encoder block: full, windowed or axial attention, pooling, or an MLP over tokens.

Each maps (B, T, D) to (B, T, D); `make_mixer` chooses by the configuration. Sources: full: Vaswani et al. 2017. window:
local attention (ViT paper, section 2), with every second block's windows shifted by half a window, as Liu et al. 2021.
axial: Ho et al. 2019; even blocks attend along rows, odd ones along columns, so two blocks are one axial block of the
ViT paper's appendix D.6. pooling: Yu et al. 2022 (MetaFormer). mlp: Tolstikhin et al. 2021 (MLP-Mixer).

Shapes: B batch, T tokens, D width, H heads, E = D / H, R rows, C columns, W windows, S tokens of a window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmodel.config.families.encoder import EncoderConfig

Grid = tuple[int, int]  # rows, columns


class Attention(nn.Module):
    """Multi-head self-attention, queries, keys and values from one packed projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None, first: int | None = None) -> Tensor:
        """The mask is true where a token may attend: broadcastable to (B, H, T, T). With `first`: only of the first tokens."""
        B, T, D = x_BTD.shape
        q_BHTE, k_BHTE, v_BHTE = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y_BHTE = F.scaled_dot_product_attention(q_BHTE[:, :, :first], k_BHTE, v_BHTE, attn_mask=mask)
        return self.proj(y_BHTE.transpose(1, 2).flatten(2))


class WindowAttention(Attention):
    """Attention within square windows of tokens, which can be shifted; shifted windows do not wrap around the borders."""

    def __init__(self, width: int, heads: int, grid: Grid, window: int, shift: int) -> None:
        super().__init__(width, heads)
        self.grid, self.window, self.shift = grid, window, shift

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None, first: int | None = None) -> Tensor:
        assert mask is None
        assert first is None
        (rows, columns), (B, T, D) = self.grid, x_BTD.shape
        x_BRCD = x_BTD.view(B, rows, columns, D)
        if self.shift:
            x_BRCD = x_BRCD.roll((-self.shift, -self.shift), dims=(1, 2))
            mask = self._borders(x_BTD.device).repeat(B, 1, 1, 1)
        y_BRCD = self._merge(super().forward(self._cut(x_BRCD), mask), B)
        if self.shift:
            y_BRCD = y_BRCD.roll((self.shift, self.shift), dims=(1, 2))
        return y_BRCD.reshape(B, T, D)

    def _cut(self, x_BRCD: Tensor) -> Tensor:
        """Windows as a batch: (B * W, S, D)."""
        (B, R, C, D), side = x_BRCD.shape, self.window
        parts = x_BRCD.reshape(B, R // side, side, C // side, side, D).transpose(2, 3)
        return parts.reshape(-1, side * side, D)

    def _merge(self, x_WSD: Tensor, batch: int) -> Tensor:
        (rows, columns), side = self.grid, self.window
        parts = x_WSD.view(batch, rows // side, columns // side, side, side, -1).transpose(2, 3)
        return parts.reshape(batch, rows, columns, -1)

    def _borders(self, device: torch.device) -> Tensor:
        """The mask after the roll, (W, 1, S, S): no attention between tokens from opposite borders, which share a window."""
        zones = []
        for side in self.grid:
            position = torch.arange(side, device=device)
            zones.append((position >= side - self.window).int() + (position >= side - self.shift).int())
        zone_WS = self._cut((3 * zones[0][:, None] + zones[1][None, :])[None, :, :, None]).squeeze(-1)
        return zone_WS[:, None, :, None] == zone_WS[:, None, None, :]


class AxialAttention(Attention):
    """Attention along the rows, or along the columns, of the grid."""

    def __init__(self, width: int, heads: int, grid: Grid, along_rows: bool) -> None:
        super().__init__(width, heads)
        self.grid, self.along_rows = grid, along_rows

    def forward(self, x_BTD: Tensor, mask: Tensor | None = None, first: int | None = None) -> Tensor:
        assert mask is None
        assert first is None
        (rows, columns), (B, T, D) = self.grid, x_BTD.shape
        if self.along_rows:
            return super().forward(x_BTD.reshape(B * rows, columns, D)).view(B, T, D)
        x_BCRD = x_BTD.view(B, rows, columns, D).transpose(1, 2)
        y_BCRD = super().forward(x_BCRD.reshape(B * columns, rows, D)).view(B, columns, rows, D)
        return y_BCRD.transpose(1, 2).reshape(B, T, D)


class Pooling(nn.Module):
    """Mean of the 3x3 neighbours minus the token itself, which the residual connection adds again. No parameters."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        x_BDRC = x_BTD.transpose(1, 2).reshape(B, D, *self.grid)
        pooled = F.avg_pool2d(x_BDRC, 3, stride=1, padding=1, count_include_pad=False)
        return (pooled - x_BDRC).view(B, D, T).transpose(1, 2)


class TokenMlp(nn.Module):
    """Two dense layers over the tokens, shared by all channels; hidden size half the width (MLP-Mixer, Table 1)."""

    def __init__(self, width: int, tokens: int, gelu: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(tokens, width // 2)
        self.act = nn.GELU("tanh" if gelu == "tanh" else "none")
        self.fc2 = nn.Linear(width // 2, tokens)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x_BTD.transpose(1, 2)))).transpose(1, 2)


def make_mixer(config: EncoderConfig, grid: Grid, block: int) -> nn.Module:
    """The mixer of the given block, counted from 0."""
    if config.mixer == "pooling":
        return Pooling(grid)
    if config.mixer == "mlp":
        return TokenMlp(config.width, grid[0] * grid[1], config.gelu)
    if config.mixer == "axial":
        return AxialAttention(config.width, config.heads, grid, along_rows=block % 2 == 0)
    if config.mixer == "window":
        is_one_window = grid == (config.window, config.window)
        shift = config.window // 2 if block % 2 and not is_one_window else 0
        return WindowAttention(config.width, config.heads, grid, config.window, shift)
    return Attention(config.width, config.heads)
