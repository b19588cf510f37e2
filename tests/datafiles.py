"""Writes small files in the formats of datasets."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def image(number: int, kind: str = "JPEG", size: tuple[int, int] = (24, 16)) -> bytes:
    """An encoded image, a different one for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, format=kind)
    return buffer.getvalue()


def class_folders(root: Path, each: int, classes: tuple[str, ...] = ("ant", "bee", "cat"), start: int = 0) -> Path:
    for place, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number:03d}.jpg").write_bytes(image(start + 1000 * place + number))
    return root


def idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def idx_folder(root: Path, train: int = 40, test: int = 10, suffix: str = "") -> Path:
    root.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        idx(root / f"{prefix}-images-idx3-ubyte{suffix}", pixels(count, 8))
        idx(root / f"{prefix}-labels-idx1-ubyte{suffix}", (np.arange(count) % 4).astype(np.uint8))
    return root


def pixels(count: int, side: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(count).integers(0, 255, (count, side, side), dtype=np.uint8)


def cifar_records(count: int, label_bytes: int) -> bytes:
    rows = np.random.default_rng(count).integers(0, 255, (count, label_bytes + 3072), dtype=np.uint8)
    for column in range(label_bytes):
        rows[:, column] = np.arange(count) % (2 + 2 * column)
    return rows.tobytes()


def cifar_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar-batches-bin/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def parquet(path: Path, count: int, names: list[str] | None = None, label: str = "label", start: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": image(start + number), "path": f"{number}.jpg"} for number in range(count)]
    labels = [number % 3 for number in range(count)]
    table = pa.table({"image": rows, label: pa.array(labels, type=pa.int64())})
    if names:
        features = {"image": {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=4)
    return path


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def samples(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    """Members of a shard: an image and its class for each sample."""
    numbered = range(start, start + count)
    return [m for n in numbered for m in ((f"./s{n:04d}.jpg", image(n)), (f"./s{n:04d}.cls", str(n % 3).encode()))]


def png_header(width: int, height: int) -> bytes:
    """A PNG with this size in its header and almost no data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
