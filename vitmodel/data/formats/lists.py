"""Images named by text lists (Oxford Pets, VTAB-1k)."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import ListsFormat
from vitmodel.data.formats.common import read_files
from vitmodel.data.sources import SampleList, Source, count_classes


def open_lists(root: Path, config: ListsFormat, staging: Path) -> Source:
    """Every line of a list names an image and its class."""
    splits = {str(split): _listed(root, names, config) for split, names in config.lists.items()}
    return Source(splits=splits, read=read_files, classes=count_classes(splits))


def _listed(root: Path, names: tuple[str, ...], config: ListsFormat) -> SampleList:
    labels: list[int] = []
    keys: list[str] = []
    for name in names:
        for number, line in enumerate(_text(root / name).splitlines(), start=1):
            columns = line.split()
            if not columns or line.startswith("#"):
                continue
            try:
                label, key = int(columns[config.label]) - config.first_label, config.image.format(*columns)
            except (IndexError, ValueError):
                raise UserError(f"no image and class in {line[:80]!r}", file=str(root / name), line=number) from None
            if label < 0 or PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
                raise UserError(f"invalid class {label} or path {key!r}", file=str(root / name), line=number)
            labels.append(label)
            keys.append(key)
    if not labels:
        raise UserError("no images listed", file=str(root / names[0]))
    if len(set(keys)) != len(keys):
        raise UserError("an image is listed twice", file=str(root / names[0]))
    return SampleList(labels=np.array(labels, dtype=np.int64), items=[str(root / key) for key in keys], keys=keys)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list cannot be read: {error}", file=str(path)) from None
