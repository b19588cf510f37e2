"""Files of tensors, read without running what they hold; and whose names they speak.

Nothing is ever unpickled: npz with allow_pickle=False, torch files with weights_only=True.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitmodel.config import UserError
from vitmodel.models.layouts import LAYOUTS, Layout

HF_WEIGHTS = "model.safetensors"  # in a Hugging Face folder

# Names of newer files to those of the published ones: linen's counters, big_vision's places, transformers 5 in memory.
RENAMES = [
    (r"^(opt/target/|params/|module\.)", ""),
    (r"^pos_embedding$", "Transformer/posembed_input/pos_embedding"),
    (r"MultiHeadDotProductAttention_0/", "MultiHeadDotProductAttention_1/"),
    (r"(encoderblock_\d+)/LayerNorm_1/", r"\1/LayerNorm_2/"),
    (r"MlpBlock_0/", "MlpBlock_3/"),
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"^(vit\.encoder\.layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(vit\.encoder\.layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a .npz, .safetensors, .pt, .pth or .bin file, in fp32. Raises UserError for what holds more than that."""
    file = path / HF_WEIGHTS if path.is_dir() else path
    readers = {".npz": _read_npz, ".safetensors": load_file, ".pt": _read_torch, ".pth": _read_torch, ".bin": _read_torch}
    if file.suffix not in readers:
        raise UserError("unknown kind of file", file=str(path), allowed=", ".join(readers))
    if not file.is_file():
        raise UserError("no such file", file=str(file))
    try:
        found = readers[file.suffix](file)
    except Exception as error:  # each format has its own errors, and torch's unpickler raises any
        raise UserError(f"not a file of tensors alone: {str(error).splitlines()[0]}", file=str(path)) from None
    strange = [str(name) for name, tensor in found.items() if not isinstance(tensor, Tensor)]
    if strange:
        raise UserError(f"not a file of tensors alone: {strange[0]} is none", file=str(path))
    return {name: tensor.float() for name, tensor in found.items()}


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def _read_torch(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def detect_layout(tensors: dict[str, Tensor], path: Path) -> Layout:
    """Which codebase wrote these names."""
    marks: dict[str, Layout] = {
        "embedding/kernel": "official",
        "resnet/root_block/standardized_conv2d/kernel": "official",
        "vit.embeddings.cls_token": "hf",
        "patch_embed.proj.weight": "timm",
        "stem.conv.weight": "timm",
    }
    for name, layout in marks.items():
        if name in tensors:
            return layout
    raise UserError(
        f"tensors of no known layout, such as {min(tensors, default='none')}", file=str(path), allowed=", ".join(LAYOUTS)
    )


def normalise(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Newer names to the published ones; GroupNorms of the published hybrids from (1, 1, 1, C) to (C)."""
    found = {}
    for their_name, tensor in tensors.items():
        name = their_name
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor.flatten() if re.search(r"(^|/)gn\w+/(scale|bias)$", name) else tensor
    return found
