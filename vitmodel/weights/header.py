"""The header of a file of weights (names, shapes, metadata) and the hash of its content.

Reads no tensors and needs no torch, so that a study that starts from a file can be planned anywhere. Nothing is unpickled;
torch's own files have no header that can be read without, and are refused.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

from vitmodel.config.base import UserError
from vitmodel.weights.recognise import HF_EPS, HF_GELUS, Shapes

WEIGHTS_FILE = "model.safetensors"  # a run's final weights, in its folder
HF_WEIGHTS, HF_CONFIG = "model.safetensors", "config.json"  # in a Hugging Face folder
MAX_HEADER_BYTES = 100 * 2**20  # the limit of safetensors


def read_header(path: Path) -> tuple[Shapes, dict[str, str]]:
    """Shapes by name and the metadata of a .safetensors or .npz file, or of a Hugging Face folder. Raises UserError."""
    file = weights_in(path)
    readers = {".safetensors": _safetensors_header, ".npz": _npz_header}
    if not file.exists():
        raise UserError("no such file or folder", file=str(path))
    if file.suffix not in readers:
        raise UserError(
            "files of this type have no readable header: convert it with `vitscale weights import`",
            file=str(path),
            allowed=f"{', '.join(readers)}, a Hugging Face folder",
        )
    try:
        return readers[file.suffix](file)
    except (OSError, ValueError, KeyError, TypeError, struct.error, zipfile.BadZipFile) as error:
        raise UserError(f"the file must contain tensors only: {str(error).splitlines()[0]}", file=str(path)) from None


def weights_in(path: Path) -> Path:
    """The file with the tensors: the path itself, or the safetensors file in a Hugging Face folder."""
    return path / HF_WEIGHTS if path.is_dir() else path


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of a Hugging Face folder's tensors and config.json. It is part of a run's identity."""
    digest = hashlib.sha256()
    file = weights_in(path)
    for part in (file, *([path / HF_CONFIG] if path.is_dir() and (path / HF_CONFIG).is_file() else [])):
        with part.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256-{digest.hexdigest()}"


def hf_choices(path: Path) -> dict[str, Any]:
    """GELU, epsilon and heads from the config.json in a folder, or next to a model.safetensors; empty without one."""
    file = (path if path.is_dir() else path.parent) / HF_CONFIG
    if not file.is_file() or (path.is_file() and path.name != HF_WEIGHTS):
        return {}
    config = json.loads(file.read_text())
    if config.get("hidden_act", "gelu") not in HF_GELUS:
        raise UserError(f"unknown hidden_act {config['hidden_act']!r}", file=str(file), allowed=", ".join(HF_GELUS))
    choices = {
        "gelu": HF_GELUS[config.get("hidden_act", "gelu")],
        "layer_norm_eps": float(config.get("layer_norm_eps", HF_EPS)),
    }
    return {**choices, "heads": config["num_attention_heads"]} if "num_attention_heads" in config else choices


def _safetensors_header(path: Path) -> tuple[Shapes, dict[str, str]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {length} bytes")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    return {name: tuple(entry["shape"]) for name, entry in header.items()}, metadata


def _npz_header(path: Path) -> tuple[Shapes, dict[str, str]]:
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shapes: Shapes = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                shape, _, dtype = readers[npy.read_magic(file)](file)
            if dtype.hasobject:
                raise ValueError(f"{member.removesuffix('.npy')} contains Python objects, which need allow_pickle=True")
            shapes[member.removesuffix(".npy")] = tuple(shape)
    return shapes, {}
