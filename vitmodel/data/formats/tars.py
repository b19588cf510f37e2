"""WebDataset tars as a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import TarsFormat
from vitmodel.data.formats.common import FileRange, read_ranges, split_of
from vitmodel.data.sources import SampleList, Source, count_classes
from vitmodel.data.tar_index import TarSample, samples_of


def find_tars(root: Path) -> dict[str, list[Path]]:
    """The tars of each split, sorted: `train-00000.tar` or `train/00000.tar`; all are train where no name gives a split."""
    if not root.is_dir():
        raise UserError("no such folder", file=str(root))
    if compressed := next(root.rglob("*.tar.*"), None):
        raise UserError("images in a compressed tar cannot be read by offset: decompress it to .tar", file=str(compressed))
    tars: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.tar")):
        tars.setdefault(split_of(path, root), []).append(path)
    if not tars:
        raise UserError("no .tar files in this folder", file=str(root))
    return tars


def open_tars(root: Path, config: TarsFormat, staging: Path) -> Source:
    """Every sample of every tar below a folder."""
    splits = {}
    for split, paths in find_tars(root).items():
        samples = [(path, sample) for path in paths for sample in samples_of(path, config.ignore)]
        if not samples:
            raise UserError(f"no samples in the tars of {split}", file=str(root))
        sets = [sample.labels or () for _, sample in samples]
        splits[split] = SampleList(
            labels=np.array([sample.label for _, sample in samples], dtype=np.int64),
            items=[_range(path, sample) for path, sample in samples],
            keys=[f"{path.name}/{sample.key}" for path, sample in samples],
            label_sets=sets if any(sets) else None,
        )
    return Source(splits=splits, read=read_ranges, classes=count_classes(splits))


def _range(path: Path, sample: TarSample) -> FileRange:
    return str(path), sample.offset, sample.bytes, f"{path}: {sample.key}.{sample.extension} at byte {sample.offset}"
