"""From a configuration to its source: the one place that knows every format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import (
    CifarFormat,
    FlowersFormat,
    Format,
    IdxFormat,
    LabelSets,
    ListsFormat,
    PackConfig,
    ParquetFormat,
    TarsFormat,
)
from vitmodel.data.formats.cifar import open_cifar
from vitmodel.data.formats.files import open_folder
from vitmodel.data.formats.idx import open_idx
from vitmodel.data.formats.lists import open_flowers, open_lists
from vitmodel.data.formats.parquet import open_parquet
from vitmodel.data.formats.tars import open_tars
from vitmodel.data.generated import DigitsConfig, FractalConfig, GeneratedConfig
from vitmodel.data.sources import SPLITS, Part, Source, cut_dev, hold_out
from vitmodel.data.synthesis import digits, fractals


def open_source(config: PackConfig | GeneratedConfig, staging: Path) -> Source:
    """The source behind a configuration, split as it says. Raises UserError for files that are not what they should be."""
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
        raise UserError(f"{source.classes} classes, but {len(config.class_names)} names for them", file=config.path)
    return replace(
        source,
        parts={split: source.parts[split] for split in SPLITS if split in source.parts},
        classes=len(names) or source.classes,
        class_names=names,
        source=config.source or config.path,
        licence=config.licence,
    )


def _open(files: Format, root: Path, staging: Path) -> Source:
    if not root.exists():
        raise UserError("no such file or folder", file=str(root))
    if isinstance(files, CifarFormat):
        return open_cifar(root, files)
    if isinstance(files, ParquetFormat):
        return open_parquet(root, files, staging)
    if isinstance(files, ListsFormat | FlowersFormat):
        return open_lists(root, files) if isinstance(files, ListsFormat) else open_flowers(root, files)
    if isinstance(files, TarsFormat):
        return open_tars(root, files)
    return open_idx(root) if isinstance(files, IdxFormat) else open_folder(root)


def detect_format(root: Path) -> str:
    """The format of what lies at a path, by the files' names. Raises UserError where that does not say."""
    if not root.exists():
        raise UserError("no such file or folder", file=str(root))
    if root.name.startswith("cifar-10") and root.is_file():
        return "cifar"
    signs = {"*.parquet": "parquet", "*idx3-ubyte*": "idx", "cifar-10*-binary*": "cifar", "data_batch_*.bin": "cifar"}
    for pattern, name in {**signs, "setid.mat": "flowers", "*.tar": "tars"}.items():
        if root.match(pattern) or (root.is_dir() and next(root.glob(pattern), next(root.glob(f"*/{pattern}"), None))):
            return name
    if root.is_dir() and any(path.is_dir() for path in root.iterdir()):
        return "folder"
    raise UserError("cannot tell the format: give --format", file=str(root))


def _with_label_sets(source: Source, config: LabelSets, root: Path) -> Source:
    """All right answers of one split's images, given in the order of their file names."""
    path, part = root / config.file, source.parts.get(config.split)
    try:
        sets = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"the label sets cannot be read: {error}", file=str(path)) from None
    if part is None or not isinstance(sets, list) or len(sets) != len(part.labels):
        count = len(sets) if isinstance(sets, list) else 0
        wanted = 0 if part is None else len(part.labels)
        raise UserError(f"{count} label sets for the {wanted} images of {config.split}", file=str(path))
    if not all(isinstance(s, list) and all(isinstance(c, int) and 0 <= c < source.classes for c in s) for s in sets):
        raise UserError(f"each label set is a list of classes from 0 to {source.classes - 1}", file=str(path))
    return replace(source, parts={**source.parts, str(config.split): _sorted_sets(part, sets)})


def _sorted_sets(part: Part, sets: list[list[int]]) -> Part:
    by_name = sorted(range(len(sets)), key=lambda number: part.key(number).rpartition("/")[2])
    label_sets: list[tuple[int, ...]] = [()] * len(sets)
    for place, number in enumerate(by_name):
        label_sets[number] = tuple(sets[place])
    return replace(part, label_sets=label_sets)
