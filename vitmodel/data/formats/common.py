"""What several formats share: names of splits, and readers of images that are files, or byte ranges of files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitmodel.config.base import UserError
from vitmodel.data.sources import EncodedImage

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

FileRange = tuple[str, int, int, str]  # file, offset, bytes, origin for messages


def read_files(items: Sequence[str]) -> Iterator[EncodedImage]:
    """Whole files."""
    for name in items:
        try:
            yield EncodedImage(Path(name).read_bytes(), name)
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", file=name) from None


def read_ranges(items: Sequence[FileRange]) -> Iterator[EncodedImage]:
    """Byte ranges of files."""
    for path, offset, count, origin in items:
        with open(path, "rb") as file:
            file.seek(offset)
            yield EncodedImage(file.read(count), origin)


def split_of(path: Path, root: Path) -> str:
    """The split that a file's name, or else its folder within `root`, begins with; train if neither names a split."""
    folders = path.relative_to(root).parts[:-1] if root.is_dir() else ()
    for name in (path.name, *reversed(folders)):
        prefix = re.match(r"[a-z]*", name.lower())
        if prefix and prefix[0] in SPLIT_NAMES:
            return SPLIT_NAMES[prefix[0]]
    return "train"
