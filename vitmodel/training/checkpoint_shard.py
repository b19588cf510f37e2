"""One worker's shard of a checkpoint: a safetensors file, written and hashed in one pass that lets other threads run.

safetensors' own writer holds the interpreter lock while it writes, and a checksum would read the file again. Shards are
read with safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitmodel.files import atomic_path

CHUNK_BYTES = 8 * 2**20
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str | int]:
    """Write contiguous CPU tensors and flush them to disk; returns the file's sha256 and bytes. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with atomic_path(path) as partial, partial.open("wb", buffering=0) as file:
        for chunk in _chunks(tensors):
            digest.update(chunk)
            view = chunk
            while view:  # a raw write may write less than it is given
                view = view[file.write(view) :]
            size += len(chunk)
    return {"sha256": digest.hexdigest(), "bytes": size}


def is_intact(path: Path, facts: Mapping[str, str | int]) -> bool:
    """Whether a file has the size and the checksum that `write_tensors` returned."""
    if not path.is_file() or path.stat().st_size != facts["bytes"]:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"]


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    header, offset = {}, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        data = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]
