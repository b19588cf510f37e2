"""Parquet files in the Hugging Face image layout: an image column of {bytes, path} and a column of class numbers.

Packing reads images in a shuffled order, which would decode every row group many times. So the image bytes of each file are
copied once into a plain file in the staging folder, and read from there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import ParquetFormat
from vitmodel.data.formats.common import SPLIT_NAMES, FileRange, read_ranges, split_of
from vitmodel.data.order import Ints
from vitmodel.data.sources import SampleList, Source, count_classes
from vitmodel.files import atomic_path


def open_parquet(root: Path, config: ParquetFormat, staging: Path) -> Source:
    """All parquet files below a folder. The split is the prefix of a file's name, or of its folder's name."""
    paths = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if not paths:
        raise UserError("no parquet files in this folder", file=str(root))
    labels: dict[str, list[Ints]] = {}
    items: dict[str, list[FileRange]] = {}
    names: tuple[str, ...] = ()
    for path in paths:
        split = split_of(path, root)
        names = _check_schema(path, config) or names
        file_labels, file_items = _staged(path, config, staging)
        labels.setdefault(split, []).append(file_labels)
        items.setdefault(split, []).extend(file_items)
    splits = {split: SampleList(labels=np.concatenate(labels[split]), items=items[split]) for split in labels}
    if "train" not in splits:
        raise UserError("no train files", file=str(root), allowed=", ".join(SPLIT_NAMES))
    return Source(splits=splits, read=read_ranges, classes=len(names) or count_classes(splits), class_names=names)


def _check_schema(path: Path, config: ParquetFormat) -> tuple[str, ...]:
    """The class names, if the metadata has them. Raises UserError for columns of another type."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"not a readable parquet file: {error}", file=str(path)) from None
    for column in (config.image, config.label):
        if column not in schema.names:
            raise UserError(f"no column {column!r}", file=str(path), allowed=", ".join(schema.names))
    image = schema.field(config.image).type
    if not pa.types.is_struct(image) or image.get_field_index("bytes") < 0:
        raise UserError(f"column {config.image!r} is {image}, not an image", file=str(path), allowed="struct<bytes, path>")
    if not pa.types.is_integer(schema.field(config.label).type):
        raise UserError(f"column {config.label!r} does not hold class numbers", file=str(path), allowed="integers")
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[config.label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()


def _staged(path: Path, config: ParquetFormat, staging: Path) -> tuple[Ints, list[FileRange]]:
    """Labels of a file's rows, and where their image bytes are in the staging folder."""
    status = path.stat()
    key = hashlib.sha256(f"{path.absolute()} {status.st_size} {status.st_mtime_ns} {config}".encode()).hexdigest()[:16]
    data, table = staging / f"{key}.bin", staging / f"{key}.npy"
    if not table.exists():
        with atomic_path(data) as partial:
            rows = _copy(path, config, partial)
        with atomic_path(table) as partial, partial.open("wb") as file:  # last: marks the copy as complete
            np.save(file, rows)
    rows = np.load(table)
    ends = np.cumsum(rows[:, 0])
    items = [
        (str(data), end - length, length, f"{path}, row {number}")
        for number, (end, length) in enumerate(zip(ends.tolist(), rows[:, 0].tolist(), strict=True))
    ]
    return rows[:, 1], items


def _copy(path: Path, config: ParquetFormat, data: Path) -> Ints:
    """(bytes, label) of every row."""
    rows: list[tuple[int, int]] = []
    with data.open("wb") as out, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=64, columns=[config.image, config.label]):
            for image, label in zip(*(batch.column(name).to_pylist() for name in (config.image, config.label)), strict=True):
                encoded = _bytes_of(image, path, len(rows))
                if not isinstance(label, int) or label < 0:
                    raise UserError(f"row {len(rows)} has no valid class: {label!r}", file=str(path))
                out.write(encoded)
                rows.append((len(encoded), label))
    if not rows:
        raise UserError("no rows", file=str(path))
    return np.array(rows, dtype=np.int64)


def _bytes_of(image: Any, path: Path, row: int) -> bytes:
    if not image or not image["bytes"]:
        raise UserError(f"row {row} has no image bytes", file=str(path))
    return bytes(image["bytes"])
