"""Reads files of tensors without executing code in them: npz with allow_pickle=False, torch files with weights_only=True."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitmodel.config.base import UserError
from vitmodel.weights.header import weights_in
from vitmodel.weights.recognise import POSITIONS, SCANNED, is_wide_norm, lacks_class_position, published_name


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a .npz, .safetensors, .pt, .pth or .bin file, in fp32. Raises UserError if it holds anything else."""
    file = weights_in(path)
    readers = {".npz": _read_npz, ".safetensors": load_file, ".pt": _read_torch, ".pth": _read_torch, ".bin": _read_torch}
    if not file.suffix and not file.exists():
        raise UserError("no such file or folder", file=str(path))
    if file.suffix not in readers:
        raise UserError("unknown file type", file=str(path), allowed=", ".join(readers))
    if not file.is_file():
        raise UserError("no such file", file=str(file))
    try:
        tensors = readers[file.suffix](file)
    except Exception as error:  # each format has its own errors, and torch's unpickler raises any kind
        raise UserError(f"the file must contain tensors only: {str(error).splitlines()[0]}", file=str(path)) from None
    others = [str(name) for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if others:
        raise UserError(f"the file must contain tensors only: {others[0]} is not a tensor", file=str(path))
    return {name: tensor.float() for name, tensor in tensors.items()}


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def _read_torch(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):  # the checkpoint of a training script, such as DeiT's
        if isinstance(content.get(wrapper), dict):
            return dict(content[wrapper])
    return content


def published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the names and shapes of the published files: see recognise.py. Values are unchanged."""
    renamed: dict[str, Tensor] = {}
    for file_name, tensor in tensors.items():
        if match := SCANNED.match(file_name):
            for layer, part in enumerate(tensor):
                renamed[published_name(f"{match[1]}_{layer}/{match[2]}")] = part
            continue
        name = published_name(file_name)
        renamed[name] = tensor.flatten() if is_wide_norm(name) else tensor
        if name == POSITIONS[1] and lacks_class_position(tensors):
            renamed[name] = torch.cat([torch.zeros_like(tensor[:, :1]), tensor], dim=1)
    return renamed
