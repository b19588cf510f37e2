"""Weights to and from files, and onto another task: a new head, another image size.

Files are safetensors in fp32, never pickles. Foreign layouts belong here too.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitmodel.config import UserError


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write fp32 weights in one atomic step."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().float().contiguous().cpu() for name, tensor in state.items()}, partial)
    partial.replace(path)


def load_for_transfer(module: nn.Module, path: Path) -> None:
    """Fill `module` with pretrained weights, all but the head, which stays as initialised (zero).

    Position embeddings of another grid are resized. Raises UserError naming every key or shape that does not fit.
    """
    state = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("head.")}
    own = module.state_dict()
    if "pos_embed" in state and "pos_embed" in own:
        prefix = int("cls_token" in own)
        state["pos_embed"] = resize_position_embedding(state["pos_embed"], own["pos_embed"].shape[1], prefix)
    expected = {name for name in own if not name.startswith("head.")}
    wrong = [f"missing {name}" for name in sorted(expected - set(state))]
    wrong += [f"unexpected {name}" for name in sorted(set(state) - expected)]
    wrong += [
        f"{name} is {tuple(state[name].shape)}, wanted {tuple(own[name].shape)}"
        for name in sorted(expected & set(state))
        if state[name].shape != own[name].shape
    ]
    if wrong:
        raise UserError("weights of another architecture: " + "; ".join(wrong), file=str(path))
    module.load_state_dict(state, strict=False)


def resize_position_embedding(pos_1TD: Tensor, tokens: int, prefix: int) -> Tensor:
    """Resample the square grid of a position embedding to `tokens` tokens, prefix tokens untouched.

    Bicubic with antialias in fp32; the identity where the grid stays the same (paper, section 3.2).
    """
    if pos_1TD.shape[1] == tokens:
        return pos_1TD
    old, new = (math.isqrt(count - prefix) for count in (pos_1TD.shape[1], tokens))
    if old**2 != pos_1TD.shape[1] - prefix or new**2 != tokens - prefix:
        raise UserError(f"position embedding of {pos_1TD.shape[1]} tokens is no square grid plus {prefix}", field="pos_embed")
    grid = pos_1TD[:, prefix:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([pos_1TD[:, :prefix].float(), grid.flatten(2).transpose(1, 2)], dim=1)
