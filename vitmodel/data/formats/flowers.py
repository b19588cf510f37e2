"""Oxford Flowers-102: a folder of JPEGs, with labels and splits in MATLAB files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.descriptions import FlowersFormat
from vitmodel.data.formats.common import read_files
from vitmodel.data.order import Ints
from vitmodel.data.sources import SampleList, Source


def open_flowers(root: Path, config: FlowersFormat, staging: Path) -> Source:
    """Labels 1 to 102 in the order of the images' numbers, and the numbers of each split."""
    labels = _matrix(root / "imagelabels.mat", "labels") - 1
    splits = {}
    for split, sets in (("train", config.train), ("test", ("tstid",))):
        numbers = np.concatenate([_matrix(root / "setid.mat", name) for name in sets])
        if numbers.min() < 1 or numbers.max() > len(labels):
            raise UserError(f"{split} names image {numbers.max()}, but there are {len(labels)} labels", file=str(root))
        keys = [f"jpg/image_{number:05d}.jpg" for number in numbers.tolist()]
        splits[split] = SampleList(labels=labels[numbers - 1], items=[str(root / key) for key in keys], keys=keys)
    return Source(splits=splits, read=read_files, classes=int(labels.max()) + 1)


def _matrix(path: Path, name: str) -> Ints:
    """A vector of a MATLAB 5 file, a format of plain numbers."""
    from scipy.io import loadmat

    try:
        return loadmat(path, variable_names=[name])[name].ravel().astype(np.int64)
    except (OSError, KeyError, ValueError, NotImplementedError) as error:
        raise UserError(f"no matrix {name!r}: {error}", file=str(path)) from None
