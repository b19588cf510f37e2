"""Reads the encoded images of one split by sample number, from a folder or a URL.

Files are read with pread: a file that is truncated while open gives a short read and an error, not a crash of the process, and
the system may drop pages that were read. Member lists are memory-mapped, so that memory does not grow with the dataset.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitmodel.config.base import UserError
from vitmodel.data.index import DatasetIndex, Shard
from vitmodel.data.node_cache import CacheFullError, NodeCache
from vitmodel.data.order import Ints, interleaved
from vitmodel.data.remote import RemoteError, RetryPolicy, is_url, join, read_range, read_whole, size_of

OPEN_FILES = 256  # shards that a process keeps open for one split
HEADER_BYTES = 512  # of a tar member


class SampleLocation(NamedTuple):
    """Where a sample's image is: shard number, byte offset in its file, length in bytes; and its class."""

    shard: int
    offset: int
    length: int
    label: int


class SplitFiles:
    """The tar files of one split, by sample number."""

    def __init__(
        self,
        root: Path | str,
        index: DatasetIndex,
        split: str,
        *,
        cache: NodeCache | None = None,
        retry_policy: RetryPolicy | None = None,
        subset: tuple[int, int] | None = None,
    ) -> None:
        """`subset` (size, seed): a seeded, class-interleaved choice of `size` samples, numbered in the split's order."""
        if split not in index.splits:
            raise UserError(f"no split {split!r}", file=str(root), allowed=", ".join(index.splits))
        self.shards = index.splits[split].shards
        self.shard_sizes = tuple(shard.samples for shard in self.shards)
        self.root = str(root) if is_url(root) else str(Path(root).resolve())
        self.key: tuple[str | int, ...] = (index.identity, self.root, split)
        self._remote, self._cache, self._retry_policy = is_url(root), cache or NodeCache(), retry_policy or RetryPolicy()
        self._first = np.concatenate(([0], np.cumsum(self.shard_sizes)))
        self._failed: dict[int, OSError] = {}  # shards whose retries are exhausted: not requested again for every sample
        self._open = lru_cache(maxsize=OPEN_FILES)(self._open_shard)
        self._members = lru_cache(maxsize=None)(self._load_members)
        self._chosen: Ints | None = None
        if subset is not None:
            self._chosen = np.sort(interleaved(self.labels.astype(np.int64), subset[1])[: subset[0]])
            self.labels = self.labels[self._chosen]
            self.shard_sizes = tuple(np.diff(np.searchsorted(self._chosen, self._first)).tolist())
            self.key = (index.identity, self.root, split, *subset)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """The classes of all samples, 4 bytes each; read on first use."""
        return np.concatenate([self._members(number)["label"] for number in range(len(self.shards))]).astype(np.int32)

    @cached_property
    def label_sets(self) -> NDArray[np.int32] | None:
        """All correct classes of each sample (samples, most classes), padded with -1; None for a dataset without label sets."""
        if not any(shard.label_sets for shard in self.shards):
            return None
        none = np.full((0, 1), -1, dtype=np.int32)
        tables = [self._array(shard.label_sets) if shard.label_sets else none for shard in self.shards]
        sets = np.full((int(self._first[-1]), max(table.shape[1] for table in tables)), -1, dtype=np.int32)
        for first, table in zip(self._first.tolist(), tables, strict=False):
            sets[first : first + len(table), : table.shape[1]] = table
        return sets if self._chosen is None else sets[self._chosen]

    def _array(self, name: str) -> NDArray[Any]:
        """One of the dataset's arrays, memory-mapped if it is local."""
        path = join(self.root, name)
        if self._remote:
            return np.load(io.BytesIO(read_whole(path, self._retry_policy)), allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def shard_of(self, samples: Ints) -> Ints:
        """The numbers of the shards that hold these samples."""
        return np.searchsorted(self._first, self._numbers(samples), side="right") - 1

    def _numbers(self, samples: Ints) -> Ints:
        return samples if self._chosen is None else self._chosen[samples]

    def locate(self, samples: Ints) -> list[SampleLocation]:
        """Where these samples are."""
        shards = self.shard_of(samples)
        rows = self._numbers(samples) - self._first[shards]
        locations: list[SampleLocation] = [SampleLocation(0, 0, 0, 0)] * len(samples)
        for shard in set(shards.tolist()):  # a batch's samples come from few shards
            here = np.flatnonzero(shards == shard)
            for at, member in zip(here.tolist(), self._members(shard)[rows[here]].tolist(), strict=True):
                locations[at] = SampleLocation(shard, *member)
        return locations

    def url(self, shard: int) -> str:
        """The path or URL of a shard."""
        return join(self.root, self.shards[shard].name)

    def read(self, location: SampleLocation) -> bytes:
        """A sample's encoded image. Raises OSError if it cannot be read whole after all retries."""
        if location.shard in self._failed:
            raise self._failed[location.shard]
        try:
            return self._read(location)
        except RemoteError as error:
            self._failed[location.shard] = error
            raise

    def _read(self, location: SampleLocation) -> bytes:
        file = self._open(location.shard)
        if file is None:
            return read_range(self.url(location.shard), location.offset, location.length, self._retry_policy)
        data = os.pread(file.fileno(), location.length, location.offset)
        if len(data) != location.length:
            raise OSError(f"read {len(data)} bytes, expected {location.length}: the shard is truncated")
        return data

    def name_of(self, location: SampleLocation) -> str:
        """The member's name, from the tar header in front of its data; `?` if the header is damaged, too."""
        try:
            header = self.read(location._replace(offset=location.offset - HEADER_BYTES, length=HEADER_BYTES))
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
        except (OSError, tarfile.TarError):
            return "?"

    def fetch(self, shards: Iterable[int], pool: ThreadPoolExecutor) -> None:
        """Start to copy these shards to this node. A reader that needs one earlier waits for it."""
        if self._remote:
            for shard in shards:
                pool.submit(self._open, shard)

    def _open_shard(self, number: int) -> io.FileIO | None:
        """A shard's file; None if it is remote and does not fit in the node cache: then each member is read by range."""
        shard, url = self.shards[number], self.url(number)
        if self._remote:
            try:
                return self._cache.open(url, shard.bytes, shard.sha256, self._retry_policy)
            except CacheFullError:
                _check_size(url, shard, size_of(url, self._retry_policy))
                return None
        file = io.FileIO(url)
        _check_size(url, shard, os.fstat(file.fileno()).st_size)
        return file

    def _load_members(self, number: int) -> NDArray[np.void]:
        """A shard's member list, memory-mapped if it is local. Raises UserError if it does not match its shard."""
        shard = self.shards[number]
        members = self._array(shard.members)
        ends = members["offset"] + members["bytes"]
        if len(members) != shard.samples or ends.max() > shard.bytes:
            raise UserError(
                f"stale index: the member list does not match {shard.name}; pack the dataset again",
                file=join(self.root, shard.members),
            )
        return members


def _check_size(url: str, shard: Shard, size: int | None) -> None:
    if size is not None and size != shard.bytes:
        raise RemoteError(f"{url}: {size} bytes, {shard.bytes} in the index: the shard was changed after indexing")
