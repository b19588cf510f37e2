"""Images that are files of their own: reading them, and folders of class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.sources import Encoded, Part, Source

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp")


def read_files(items: Sequence[str]) -> Iterator[Encoded]:
    """Whole files, as they are."""
    for name in items:
        try:
            yield Encoded(Path(name).read_bytes(), name)
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", file=name) from None


def open_folder(root: Path) -> Source:
    """A folder of class folders, or of splits with class folders. Class numbers are those of the sorted names."""
    if not root.is_dir():
        raise UserError("no such folder", file=str(root))
    folders = _folders(root)
    splits = {SPLIT_NAMES[name]: root / name for name in folders if name in SPLIT_NAMES}
    if splits and len(splits) != len(folders):
        others = sorted(set(folders) - set(SPLIT_NAMES))
        raise UserError(f"splits and class folders side by side, such as {others[0]!r}", file=str(root))
    splits = splits or {"train": root}
    if "train" not in splits:
        raise UserError("no train split", file=str(root))
    classes = _folders(splits["train"])
    if len(classes) < 2:
        raise UserError("fewer than two class folders", file=str(splits["train"]))
    parts = {split: _part(folder, classes, split == "train") for split, folder in splits.items()}
    return Source(parts=parts, read=read_files, classes=len(classes), class_names=tuple(classes))


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _part(root: Path, classes: list[str], must_have_all: bool) -> Part:
    labels: list[int] = []
    items: list[str] = []
    keys: list[str] = []
    number_of = {name: number for number, name in enumerate(classes)}
    for name in _folders(root):
        if name not in number_of:
            raise UserError(f"class {name!r} is not among those of the train split", file=str(root))
        files = _images(root / name)
        if not files and must_have_all:
            raise UserError("a class folder without images", file=str(root / name))
        items += [str(root / name / file) for file in files]
        keys += [f"{name}/{file}" for file in files]
        labels += [number_of[name]] * len(files)
    return Part(labels=np.array(labels, dtype=np.int64), items=items, keys=keys)


def _images(folder: Path) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_file() or not entry.name.lower().endswith(IMAGE_FILES):
                raise UserError("no image file in a class folder", file=entry.path, allowed=", ".join(IMAGE_FILES))
            names.append(entry.name)
    return sorted(names)
