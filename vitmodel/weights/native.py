"""Our own files of weights, and the transfer of weights to another task: a new head, another image size.

Files are safetensors in fp32; their metadata can contain the model's configuration. Files of other codebases:
interchange.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig
from vitmodel.files import atomic_path
from vitmodel.weights.recognise import square_grid

NOT_TRANSFERRED = ("head.",)
MAX_LISTED = 100  # differences of a kind that an error lists


def save_weights(state: dict[str, Tensor], path: Path, model: ModelConfig | None = None) -> None:
    """Write fp32 weights atomically, with the model's configuration in the metadata if it is given."""
    tensors = {name: tensor.detach().float().contiguous().cpu() for name, tensor in state.items()}
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"model": model.model_dump_json()} if model is not None else None)


def saved_model(path: Path) -> ModelConfig | None:
    """The configuration in the metadata of one of our files, if any. Raises UserError if it is not a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("model")
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot be read as safetensors: {error}", file=str(path)) from None
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    return adapter.validate_json(text) if text else None


def load_for_transfer(module: nn.Module, path: Path) -> None:
    """Load pretrained weights into `module`, except the head, which keeps its initialisation (zero).

    Position embeddings of another grid are resized; a pre-logits layer is dropped if the module has none (ViT paper,
    section 3.1). Raises UserError with every name and shape that does not match.
    """
    target = module.state_dict()
    dropped = NOT_TRANSFERRED if "pre_logits.weight" in target else (*NOT_TRANSFERRED, "pre_logits.")
    state = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(dropped)}
    if "pos_embed" in state and "pos_embed" in target:
        prefix, grid = int("cls_token" in target), getattr(module, "grid", None)
        state["pos_embed"] = resize_position_embedding(state["pos_embed"], target["pos_embed"].shape[1], prefix, grid=grid)
    expected = {name: tensor for name, tensor in target.items() if not name.startswith(NOT_TRANSFERRED)}
    check_fit(state, expected, path)
    module.load_state_dict(state, strict=False)


def check_fit(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """Raise UserError with every wrong shape, missing and unexpected name, one per line, if there are any."""
    wrong = {kind: lines for kind, lines in differences(state, expected).items() if lines}
    if not wrong:
        return
    counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in wrong.items())
    listed = []
    for kind, lines in wrong.items():
        more = len(lines) - MAX_LISTED
        listed += [*lines[:MAX_LISTED], *([f"and {more} more {kind}"] if more > 0 else [])]
    raise UserError(
        f"weights of another architecture ({counts}; {len(expected)} tensors expected)\n  " + "\n  ".join(listed),
        file=str(path),
    )


def differences(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, list[str]]:
    """Descriptions of the tensors with another shape, missing or unexpected."""
    return {
        "with a wrong shape": [
            f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
            for name in sorted(set(expected) & set(state))
            if state[name].shape != expected[name].shape
        ],
        "missing": [f"missing {name}" for name in sorted(set(expected) - set(state))],
        "unexpected": [f"unexpected {name}" for name in sorted(set(state) - set(expected))],
    }


def resize_position_embedding(
    pos_1TD: Tensor,
    tokens: int,
    prefix: int,
    *,
    grid: tuple[int, int] | None = None,
    old_grid: tuple[int, int] | None = None,
) -> Tensor:
    """Resample the grid of a position embedding to `tokens` tokens; the first `prefix` are not part of the grid and unchanged.

    Grids are (rows, columns), square by default. Bicubic with antialiasing in fp32; the identity for an equal grid (paper,
    section 3.2). Raises UserError if the tokens do not match the grid.
    """
    old = square_grid(pos_1TD.shape[1], prefix, old_grid)
    new = square_grid(tokens, prefix, grid)
    if old == new:
        return pos_1TD
    grid_1DRC = pos_1TD[:, prefix:].float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid_1DRC = F.interpolate(grid_1DRC, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([pos_1TD[:, :prefix].float(), grid_1DRC.flatten(2).transpose(1, 2)], dim=1)
