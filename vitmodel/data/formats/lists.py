"""Images named by annotation files: text lists (Oxford Pets, VTAB-1k), and the .mat files of Flowers-102."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import FlowersFormat, ListsFormat
from vitmodel.data.formats.files import read_files
from vitmodel.data.sources import Part, Source


def open_lists(root: Path, config: ListsFormat) -> Source:
    """Every line of a list is an image and its class."""
    parts = {split: _listed(root, names, config) for split, names in config.lists.items()}
    classes = 1 + max(int(part.labels.max()) for part in parts.values())
    return Source(parts={str(split): part for split, part in parts.items()}, read=read_files, classes=classes)


def _listed(root: Path, names: tuple[str, ...], config: ListsFormat) -> Part:
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
                raise UserError(f"class {label} or path {key!r} is not possible", file=str(root / name), line=number)
            labels.append(label)
            keys.append(key)
    if not labels:
        raise UserError("no images listed", file=str(root / names[0]))
    if len(set(keys)) != len(keys):
        raise UserError("an image is listed twice", file=str(root / names[0]))
    return Part(labels=np.array(labels, dtype=np.int64), items=[str(root / key) for key in keys], keys=keys)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the list cannot be read: {error}", file=str(path)) from None


def open_flowers(root: Path, config: FlowersFormat) -> Source:
    """Flowers-102: labels 1 to 102 in the order of the images' numbers, and the numbers of each set."""
    labels = _matrix(root / "imagelabels.mat", "labels") - 1
    parts = {}
    for split, sets in (("train", config.train), ("test", ("tstid",))):
        numbers = np.concatenate([_matrix(root / "setid.mat", name) for name in sets])
        if numbers.min() < 1 or numbers.max() > len(labels):
            raise UserError(f"{split} names image {numbers.max()}, but there are {len(labels)} labels", file=str(root))
        keys = [f"jpg/image_{number:05d}.jpg" for number in numbers.tolist()]
        parts[split] = Part(labels=labels[numbers - 1], items=[str(root / key) for key in keys], keys=keys)
    return Source(parts=parts, read=read_files, classes=int(labels.max()) + 1)


def _matrix(path: Path, name: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """A vector of a MATLAB 5 file, a format of plain numbers."""
    from scipy.io import loadmat

    try:
        return loadmat(path, variable_names=[name])[name].ravel().astype(np.int64)
    except (OSError, KeyError, ValueError, NotImplementedError) as error:
        raise UserError(f"no matrix {name!r}: {error}", file=str(path)) from None
