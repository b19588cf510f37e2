"""CIFAR-10 and CIFAR-100 in the binary version (Krizhevsky 2009): records of one or two label bytes and 3,072 pixels.

The archive is never unpacked. The Python version, which is pickled, is never read.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import CifarFormat
from vitmodel.data.images import encode_png
from vitmodel.data.sources import EncodedImage, SampleList, Source, count_classes

PIXELS = 3 * 32 * 32
FILES = {  # file: (split, label bytes, images)
    **{f"data_batch_{number}.bin": ("train", 1, 10_000) for number in range(1, 6)},
    "test_batch.bin": ("test", 1, 10_000),
    "train.bin": ("train", 2, 50_000),
    "test.bin": ("test", 2, 10_000),
}
NAMES = {"batches.meta.txt": "fine", "fine_label_names.txt": "fine", "coarse_label_names.txt": "coarse"}
MAX_FILE_BYTES = 2**28


def open_cifar(root: Path, config: CifarFormat, staging: Path) -> Source:
    """The archive itself, or a folder that holds it or its files."""
    _contents.cache_clear()  # the files may have changed since the last call
    path = _find(root)
    files = _contents(path)
    batches = [name for name in FILES if name in files]
    if len({FILES[name][1] for name in batches}) != 1 or {FILES[name][0] for name in batches} != {"train", "test"}:
        raise UserError(f"files of CIFAR-10 or CIFAR-100 are missing; found {sorted(files)}", file=str(path))
    if config.labels == "coarse" and FILES[batches[0]][1] == 1:
        raise UserError("only CIFAR-100 has coarse labels", file=str(path), allowed="fine")
    column = 1 if config.labels == "fine" and FILES[batches[0]][1] == 2 else 0
    splits = {}
    for split in ("train", "test"):
        chosen = [name for name in batches if FILES[name][0] == split]
        rows = [_records(path, name) for name in chosen]
        splits[split] = SampleList(
            labels=np.concatenate([records[:, column] for records in rows]).astype(np.int64),
            items=[(str(path), name, row) for name, records in zip(chosen, rows, strict=True) for row in range(len(records))],
        )
    classes = count_classes(splits)
    return Source(splits=splits, read=_read, classes=classes, class_names=_names(files, config, classes))


def _read(items: Sequence[tuple[str, str, int]]) -> Iterator[EncodedImage]:
    for path, name, row in items:
        pixels = _records(Path(path), name)[row, -PIXELS:].reshape(3, 32, 32).transpose(1, 2, 0)
        yield EncodedImage(encode_png(np.ascontiguousarray(pixels)), f"{path}: {name}, record {row}")


def _find(root: Path) -> Path:
    if root.is_file():
        return root
    archives = sorted(root.glob("cifar-10*-binary.tar.gz"))
    if len(archives) > 1:
        raise UserError(
            "several archives in this folder; name one", file=str(root), allowed=", ".join(p.name for p in archives)
        )
    if archives:
        return archives[0]
    if batch := next((path for path in sorted(root.rglob("*.bin")) if path.name in FILES), None):
        return batch.parent
    raise UserError(
        "no CIFAR files in this folder", file=str(root), allowed="cifar-10-binary.tar.gz, cifar-100-binary.tar.gz, *.bin"
    )


@lru_cache(maxsize=1)
def _contents(path: Path) -> dict[str, bytes]:
    """The batches and names, in memory: 180 MB."""
    wanted = {*FILES, *NAMES}
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir() if file.name in wanted}
    contents = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    name = PurePosixPath(member.name).name
                    if (
                        name in wanted
                        and member.isreg()
                        and member.size <= MAX_FILE_BYTES
                        and (file := tar.extractfile(member))
                    ):
                        contents[name] = file.read()
            while stream.read(2**20):
                pass  # to the end, which holds the checksum of the whole
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"not a readable archive: {error}", file=str(path)) from None
    return contents


def _records(path: Path, name: str) -> NDArray[np.uint8]:
    """(images, label bytes + pixels) of one file."""
    data = _contents(path)[name]
    _, label_bytes, count = FILES[name]
    width = label_bytes + PIXELS
    if len(data) % width or not data or len(data) > count * width:
        raise UserError(
            f"{name} has {len(data)} bytes: the record of {width} bytes at byte {len(data) // width * width} is truncated",
            file=str(path),
            allowed=f"{count * width} bytes",
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, width)


def _names(files: dict[str, bytes], config: CifarFormat, classes: int) -> tuple[str, ...]:
    for name, kind in NAMES.items():
        if name in files and kind == config.labels:
            names = tuple(line.strip() for line in files[name].decode("ascii", "replace").splitlines() if line.strip())
            return names if len(names) == classes else ()
    return ()
