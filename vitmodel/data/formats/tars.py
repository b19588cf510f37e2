"""WebDataset tars as a source, and bytes read from a place within any file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import TarsFormat
from vitmodel.data.formats.files import SPLIT_NAMES
from vitmodel.data.sources import Encoded, Part, Source
from vitmodel.data.tarscan import TarSample, samples_of

Place = tuple[str, int, int, str]  # file, offset, bytes, name for messages


def read_places(items: Sequence[Place]) -> Iterator[Encoded]:
    """The bytes at each place."""
    for path, offset, count, where in items:
        with open(path, "rb") as file:
            file.seek(offset)
            yield Encoded(file.read(count), where)


def find_tars(root: Path) -> dict[str, list[Path]]:
    """The tars of each split, sorted: `train-00000.tar` or `train/00000.tar`; all are train where none says otherwise."""
    if not root.is_dir():
        raise UserError("no such folder", file=str(root))
    if compressed := next(root.rglob("*.tar.*"), None):
        raise UserError("a compressed tar has no byte offsets: unpack it to .tar first", file=str(compressed))
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.tar")):
        found.setdefault(split_of(path, root), []).append(path)
    if not found:
        raise UserError("no .tar files here", file=str(root))
    return found


def split_of(path: Path, root: Path) -> str:
    """The split that a file's name, or else its folder within `root`, begins with; train where neither does."""
    folders = path.relative_to(root).parts[:-1] if root.is_dir() else ()
    for name in (path.name, *reversed(folders)):
        word = re.match(r"[a-z]*", name.lower())
        if word and word[0] in SPLIT_NAMES:
            return SPLIT_NAMES[word[0]]
    return "train"


def open_tars(root: Path, config: TarsFormat) -> Source:
    """Every sample of every tar below a folder."""
    parts = {}
    for split, paths in find_tars(root).items():
        found = [(path, sample) for path in paths for sample in samples_of(path, config.ignore)]
        if not found:
            raise UserError(f"no samples in the tars of {split}", file=str(root))
        sets = [sample.labels or () for _, sample in found]
        parts[split] = Part(
            labels=np.array([sample.label for _, sample in found], dtype=np.int64),
            items=[_place(path, sample) for path, sample in found],
            keys=[f"{path.name}/{sample.key}" for path, sample in found],
            label_sets=sets if any(sets) else None,
        )
    classes = 1 + max(int(part.labels.max()) for part in parts.values())
    return Source(parts=parts, read=read_places, classes=classes)


def _place(path: Path, sample: TarSample) -> Place:
    return str(path), sample.offset, sample.bytes, f"{path}: {sample.key}.{sample.extension} at byte {sample.offset}"
