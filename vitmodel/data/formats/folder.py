"""Folders of class folders, one file for each image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import FolderFormat
from vitmodel.data.formats.common import SPLIT_NAMES, read_files
from vitmodel.data.sources import SampleList, Source

IMAGE_FILES = (".jpg", ".jpeg", ".png", ".webp")


def open_folder(root: Path, config: FolderFormat, staging: Path) -> Source:
    """A folder of class folders, or of splits with class folders. Classes are numbered in the order of their names."""
    if not root.is_dir():
        raise UserError("no such folder", file=str(root))
    folders = _folders(root)
    split_folders = {SPLIT_NAMES[name]: root / name for name in folders if name in SPLIT_NAMES}
    if split_folders and len(split_folders) != len(folders):
        others = sorted(set(folders) - set(SPLIT_NAMES))
        raise UserError(f"the folder holds both splits and class folders, such as {others[0]!r}", file=str(root))
    split_folders = split_folders or {"train": root}
    if "train" not in split_folders:
        raise UserError("no train split", file=str(root))
    classes = _folders(split_folders["train"])
    if len(classes) < 2:
        raise UserError("fewer than two class folders", file=str(split_folders["train"]))
    splits = {split: _samples(folder, classes, split == "train") for split, folder in split_folders.items()}
    return Source(splits=splits, read=read_files, classes=len(classes), class_names=tuple(classes))


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _samples(root: Path, classes: list[str], must_have_all: bool) -> SampleList:
    labels: list[int] = []
    items: list[str] = []
    keys: list[str] = []
    number_of = {name: number for number, name in enumerate(classes)}
    for name in _folders(root):
        if name not in number_of:
            raise UserError(f"class {name!r} is not a class of the train split", file=str(root))
        files = _images(root / name)
        if not files and must_have_all:
            raise UserError("a class folder without images", file=str(root / name))
        items += [str(root / name / file) for file in files]
        keys += [f"{name}/{file}" for file in files]
        labels += [number_of[name]] * len(files)
    return SampleList(labels=np.array(labels, dtype=np.int64), items=items, keys=keys)


def _images(folder: Path) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_file() or not entry.name.lower().endswith(IMAGE_FILES):
                raise UserError("a class folder may hold image files only", file=entry.path, allowed=", ".join(IMAGE_FILES))
            names.append(entry.name)
    return sorted(names)
