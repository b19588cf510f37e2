"""IDX files, the format of MNIST and its family (LeCun et al. 1998): a header of big-endian counts, then bytes."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import IdxFormat
from vitmodel.data.images import encode_png
from vitmodel.data.sources import EncodedImage, SampleList, Source, count_classes

UNSIGNED_BYTES = 0x08  # the third byte of the magic number: type of the data; the fourth: dimensions


def open_idx(root: Path, config: IdxFormat, staging: Path) -> Source:
    """The image files of a folder, each with its label file: train*, and t10k* or test*."""
    splits = {}
    _cached.cache_clear()  # the files may have changed since the last call
    images = sorted([*root.glob("*images*idx3*"), *root.glob("*images*.idx")])
    if not images:
        raise UserError(
            "no IDX files in this folder",
            file=str(root),
            allowed="train-images-idx3-ubyte(.gz), train-labels-idx1-ubyte(.gz), t10k-...",
        )
    for path in images:
        split = "train" if "train" in path.name else "test"
        labels_path = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if split in splits:
            raise UserError(f"a second file of {split} images", file=str(path))
        count, labels = read_idx(path, 3).shape[0], read_idx(labels_path, 1)
        if len(labels) != count:
            raise UserError(f"{len(labels)} labels for {count} images", file=str(labels_path))
        splits[split] = SampleList(labels=labels.astype(np.int64), items=[(str(path), number) for number in range(count)])
    if "train" not in splits:
        raise UserError("no train images", file=str(root))
    return Source(splits=splits, read=_read, classes=count_classes(splits))


def _read(items: Sequence[tuple[str, int]]) -> Iterator[EncodedImage]:
    for path, number in items:
        yield EncodedImage(encode_png(_cached(path)[number]), f"{path}, image {number}")


@lru_cache(maxsize=2)
def _cached(path: str) -> NDArray[np.uint8]:
    return read_idx(Path(path), 3)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array of unsigned bytes. Raises UserError for another magic number, or a length that differs from the header."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot be read: {error}", file=str(path)) from None
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes((0, 0, UNSIGNED_BYTES, dimensions)):
        raise UserError(
            f"magic number {data[:4].hex()} at byte 0 is not that of IDX bytes in {dimensions} dimensions", file=str(path)
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise UserError(f"{len(data) - header} bytes of data, {' x '.join(map(str, shape))} in the header", file=str(path))
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)
