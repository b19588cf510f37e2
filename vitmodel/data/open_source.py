"""Opens the source of a packing configuration. READERS lists how each format is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import Format, LabelSets, PackConfig
from vitmodel.data.formats.cifar import open_cifar
from vitmodel.data.formats.flowers import open_flowers
from vitmodel.data.formats.folder import open_folder
from vitmodel.data.formats.idx import open_idx
from vitmodel.data.formats.lists import open_lists
from vitmodel.data.formats.parquet import open_parquet
from vitmodel.data.formats.tars import open_tars
from vitmodel.data.generated import DigitsConfig, FractalConfig, GeneratedConfig
from vitmodel.data.sources import SPLITS, SampleList, Source, cut_dev, hold_out
from vitmodel.data.synthesis import digits, fractals


class FormatReader(NamedTuple):
    """How a format is opened: `open(root, keys, staging)`, where `staging` is a folder for temporary copies. `patterns`: names
    of files or folders by which the format is detected."""

    open: Callable[[Path, Any, Path], Source]
    patterns: tuple[str, ...] = ()


READERS: dict[str, FormatReader] = {  # detection tries them in this order
    "parquet": FormatReader(open_parquet, ("*.parquet",)),
    "idx": FormatReader(open_idx, ("*idx3-ubyte*",)),
    "cifar": FormatReader(open_cifar, ("cifar-10*-binary*", "data_batch_*.bin")),
    "flowers": FormatReader(open_flowers, ("setid.mat",)),
    "tars": FormatReader(open_tars, ("*.tar",)),
    "folder": FormatReader(open_folder),
    "lists": FormatReader(open_lists),
}


def open_source(config: PackConfig | GeneratedConfig, staging: Path) -> Source:
    """The source of a configuration, divided into splits as it states. Raises UserError for missing or invalid files."""
    if isinstance(config, FractalConfig):
        return fractals(config)
    if isinstance(config, DigitsConfig):
        return digits(config)
    source = hold_out(_open(config.files, Path(config.path), staging), {str(k): v for k, v in config.hold_out.items()})
    if config.label_sets is not None:
        source = _with_label_sets(source, config.label_sets, Path(config.path))
    if config.dev is not None:
        source = cut_dev(source, config.dev, config.seed)
    names = config.class_names or source.class_names
    if config.class_names and len(config.class_names) < source.classes:
        raise UserError(f"{source.classes} classes, but only {len(config.class_names)} class names", file=config.path)
    return replace(
        source,
        splits={split: source.splits[split] for split in SPLITS if split in source.splits},
        classes=len(names) or source.classes,
        class_names=names,
        source=config.source or config.path,
        licence=config.licence,
    )


def _open(files: Format, root: Path, staging: Path) -> Source:
    if not root.exists():
        raise UserError("no such file or folder", file=str(root))
    return READERS[files.format].open(root, files, staging)


def detect_format(root: Path) -> str:
    """The format of a file or folder, from the names of files. Raises UserError if no format matches."""
    if not root.exists():
        raise UserError("no such file or folder", file=str(root))
    if root.name.startswith("cifar-10") and root.is_file():
        return "cifar"
    for name, reader in READERS.items():
        if any(_matches(root, pattern) for pattern in reader.patterns):
            return name
    if root.is_dir() and any(path.is_dir() for path in root.iterdir()):
        return "folder"
    raise UserError("the format cannot be detected: give --format", file=str(root), allowed=", ".join(READERS))


def _matches(root: Path, pattern: str) -> bool:
    """True if the path itself, or a file in it or in one of its folders, has a name of this pattern."""
    return root.match(pattern) or (root.is_dir() and any(any(root.glob(p)) for p in (pattern, f"*/{pattern}")))


def _with_label_sets(source: Source, config: LabelSets, root: Path) -> Source:
    """Add all correct classes of one split's images, given in the order of their file names."""
    path, samples = root / config.file, source.splits.get(config.split)
    try:
        sets = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"the label sets cannot be read: {error}", file=str(path)) from None
    if samples is None or not isinstance(sets, list) or len(sets) != len(samples.labels):
        count = len(sets) if isinstance(sets, list) else 0
        images = 0 if samples is None else len(samples.labels)
        raise UserError(f"{count} label sets for the {images} images of {config.split}", file=str(path))
    if not all(isinstance(s, list) and all(isinstance(c, int) and 0 <= c < source.classes for c in s) for s in sets):
        raise UserError(f"each label set must be a list of classes from 0 to {source.classes - 1}", file=str(path))
    return replace(source, splits={**source.splits, str(config.split): _sorted_sets(samples, sets)})


def _sorted_sets(samples: SampleList, sets: list[list[int]]) -> SampleList:
    by_name = sorted(range(len(sets)), key=lambda number: samples.key(number).rpartition("/")[2])
    label_sets: list[tuple[int, ...]] = [()] * len(sets)
    for position, number in enumerate(by_name):
        label_sets[number] = tuple(sets[position])
    return replace(samples, label_sets=label_sets)
