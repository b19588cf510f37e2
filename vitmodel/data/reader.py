"""Samples of a packed dataset by number: read, decoded by our own allow-list, kept in memory when they fit.

Shapes: images are uint8 (B, S, S, 3) arrays.
"""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitmodel.config import UserError
from vitmodel.data.index import load_index
from vitmodel.data.order import Batch, Ints, Order

ALLOWED_FORMATS = ("PNG", "JPEG", "WEBP")  # never a decoder that can run code
MAX_PIXELS = 2**26
CACHE_BYTES = int(os.environ.get("VITSCALE_CACHE_BYTES", str(2 * 2**30)))  # decoded images a process may keep
READ_AHEAD = 4  # batches, and threads that decode them

Images = NDArray[np.uint8]


class Loaded(NamedTuple):
    """A batch as it is read, before augmentation."""

    images: Images
    labels: Ints
    batch: Batch


class SplitFiles:
    """The tar files of one split, opened by sample number."""

    def __init__(self, root: Path, split: str) -> None:
        index = load_index(root)
        if split not in index.splits:
            raise UserError(f"no split {split!r}", file=str(root), allowed=", ".join(index.splits))
        shards = index.splits[split].shards
        self.key = (index.identity, str(root.resolve()), split)
        self.shard_sizes = tuple(shard.samples for shard in shards)
        self._first = np.concatenate(([0], np.cumsum(self.shard_sizes)))
        self._members = np.concatenate([np.load(root / shard.members) for shard in shards])
        self._paths = tuple(root / shard.name for shard in shards)
        self.labels: Ints = self._members["label"].astype(np.int64)

    def decode(self, sample: int, resolution: int) -> Images:
        """One image (S, S, 3), resampled where it has another size. Raises UserError naming file and offset of a bad one."""
        shard = int(np.searchsorted(self._first, sample, side="right")) - 1
        offset, length, _ = self._members[sample].tolist()
        path = self._paths[shard]
        try:
            with Image.open(io.BytesIO(_mapped(path)[offset : offset + length]), formats=ALLOWED_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
                pixels = image.convert("RGB")
        except (OSError, ValueError) as error:
            raise UserError(f"sample {sample} at byte {offset} is no readable image: {error}", file=str(path)) from error
        if pixels.size != (resolution, resolution):
            pixels = pixels.resize((resolution, resolution), Image.Resampling.BILINEAR, reducing_gap=2.0)
        return np.asarray(pixels)


class Dataset:
    """The first `size` samples of one split, at one resolution."""

    def __init__(self, root: Path, split: str, resolution: int, size: int | None = None) -> None:
        self.files = SplitFiles(root, split)
        self.size = size or sum(self.files.shard_sizes)
        self.resolution = resolution
        self.labels = self.files.labels[: self.size]
        fits = self.size * resolution**2 * 3 <= CACHE_BYTES
        self._cache = _decoded(self.files, resolution, self.size) if fits else None

    def order(self, *, seed: int, lanes: int, window: int) -> Order:
        """The training order over these samples."""
        return Order(seed=seed, n=self.size, lanes=lanes, window=window, shard_sizes=self.files.shard_sizes)

    def read(self, samples: Ints) -> Images:
        """Decoded images (B, S, S, 3), in the order asked for."""
        if self._cache is not None:
            return self._cache[samples]
        return np.stack([self.files.decode(int(sample), self.resolution) for sample in samples])

    def batches(self, batches: Iterable[Batch]) -> Iterator[Loaded]:
        """Read these batches in order, the next ones already under way in threads."""
        source = iter(batches)
        if self._cache is not None:
            yield from map(self._load, source)
            return
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            waiting = [pool.submit(self._load, batch) for batch in islice(source, READ_AHEAD)]
            while waiting:
                loaded = waiting.pop(0).result()
                waiting += [pool.submit(self._load, batch) for batch in islice(source, 1)]
                yield loaded

    def _load(self, batch: Batch) -> Loaded:
        return Loaded(self.read(batch.samples), self.labels[batch.samples], batch)


@lru_cache(maxsize=64)
def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


_kept: dict[tuple[object, ...], Images] = {}  # one process works through many runs on the same data


def _decoded(files: SplitFiles, resolution: int, size: int) -> Images:
    """The first `size` images of a split, decoded once a process; smaller subsets are views of larger ones."""
    key = (*files.key, resolution)
    if len(_kept.get(key, ())) < size:
        _kept.pop(key, None)
        while _kept and sum(images.nbytes for images in _kept.values()) + size * resolution**2 * 3 > CACHE_BYTES:
            _kept.pop(next(iter(_kept)))
        _kept[key] = np.stack([files.decode(sample, resolution) for sample in range(size)])
    return _kept[key][:size]
