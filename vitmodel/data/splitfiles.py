"""The bytes of one split's samples by number, from a folder or a URL.

Files are read with pread: a file that shrinks meanwhile is a short read and an error, never a dead process, and pages
that were read are the system's to keep. Member lists are mapped, so that memory does not grow with the dataset.
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
from vitmodel.data.nodecache import NodeCache, NoRoomError
from vitmodel.data.order import Ints, interleaved
from vitmodel.data.remote import Patience, RemoteError, is_url, join, read_range, read_whole, size_of

OPEN_FILES = 256  # shards kept open by a process for one split
HEADER_BYTES = 512  # of a tar member


class Place(NamedTuple):
    """Where a sample's image lies: shard number, byte in its file, bytes, and its class."""

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
        patience: Patience | None = None,
        subset: tuple[int, int] | None = None,
    ) -> None:
        """`subset` (size, seed): a seeded, class-interleaved choice of so many samples, numbered in the split's order."""
        if split not in index.splits:
            raise UserError(f"no split {split!r}", file=str(root), allowed=", ".join(index.splits))
        self.shards = index.splits[split].shards
        self.shard_sizes = tuple(shard.samples for shard in self.shards)
        self.root = str(root) if is_url(root) else str(Path(root).resolve())
        self.key: tuple[str | int, ...] = (index.identity, self.root, split)
        self._remote, self._cache, self._patience = is_url(root), cache or NodeCache(), patience or Patience()
        self._first = np.concatenate(([0], np.cumsum(self.shard_sizes)))
        self._lost: dict[int, OSError] = {}  # shards given up on after all patience: not asked for once a sample
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
        """The classes of all samples: 4 bytes each, read when first asked for."""
        return np.concatenate([self._members(number)["label"] for number in range(len(self.shards))]).astype(np.int32)

    @cached_property
    def label_sets(self) -> NDArray[np.int32] | None:
        """All right answers of each sample (samples, most), filled up with -1; None where a class is the whole truth."""
        if not any(shard.label_sets for shard in self.shards):
            return None
        none = np.full((0, 1), -1, dtype=np.int32)
        tables = [self._array(shard.label_sets) if shard.label_sets else none for shard in self.shards]
        sets = np.full((int(self._first[-1]), max(table.shape[1] for table in tables)), -1, dtype=np.int32)
        for first, table in zip(self._first.tolist(), tables, strict=False):
            sets[first : first + len(table), : table.shape[1]] = table
        return sets if self._chosen is None else sets[self._chosen]

    def _array(self, name: str) -> NDArray[Any]:
        """One of the dataset's arrays, mapped where it is local."""
        path = join(self.root, name)
        if self._remote:
            return np.load(io.BytesIO(read_whole(path, self._patience)), allow_pickle=False)
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def shard_of(self, samples: Ints) -> Ints:
        """The numbers of the shards that samples lie in."""
        return np.searchsorted(self._first, self._numbers(samples), side="right") - 1

    def _numbers(self, samples: Ints) -> Ints:
        return samples if self._chosen is None else self._chosen[samples]

    def places(self, samples: Ints) -> list[Place]:
        """Where these samples lie."""
        shards = self.shard_of(samples)
        rows = self._numbers(samples) - self._first[shards]
        found: list[Place] = [Place(0, 0, 0, 0)] * len(samples)
        for shard in set(shards.tolist()):  # a batch's samples lie in few shards
            here = np.flatnonzero(shards == shard)
            for at, member in zip(here.tolist(), self._members(shard)[rows[here]].tolist(), strict=True):
                found[at] = Place(shard, *member)
        return found

    def url(self, shard: int) -> str:
        """The path or URL of a shard."""
        return join(self.root, self.shards[shard].name)

    def read(self, place: Place) -> bytes:
        """A sample's encoded image. Raises OSError where it cannot be had whole, after all patience."""
        if place.shard in self._lost:
            raise self._lost[place.shard]
        try:
            return self._read(place)
        except RemoteError as error:
            self._lost[place.shard] = error
            raise

    def _read(self, place: Place) -> bytes:
        file = self._open(place.shard)
        if file is None:
            return read_range(self.url(place.shard), place.offset, place.length, self._patience)
        data = os.pread(file.fileno(), place.length, place.offset)
        if len(data) != place.length:
            raise OSError(f"{len(data)} bytes are there, not {place.length}: the shard is cut short")
        return data

    def name_of(self, place: Place) -> str:
        """The member's name, from the tar's header before its data; `?` where that is damaged, too."""
        try:
            header = self.read(place._replace(offset=place.offset - HEADER_BYTES, length=HEADER_BYTES))
            return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").name
        except (OSError, tarfile.TarError):
            return "?"

    def fetch(self, shards: Iterable[int], pool: ThreadPoolExecutor) -> None:
        """Begin to copy these shards to this node; who needs one before it is there waits for it."""
        if self._remote:
            for shard in shards:
                pool.submit(self._open, shard)

    def _open_shard(self, number: int) -> io.FileIO | None:
        """A shard's file; None where it is remote and this node has no room for it: then members are read one by one."""
        shard, url = self.shards[number], self.url(number)
        if self._remote:
            try:
                return self._cache.open(url, shard.bytes, shard.sha256, self._patience)
            except NoRoomError:
                _check_size(url, shard, size_of(url, self._patience))
                return None
        file = io.FileIO(url)
        _check_size(url, shard, os.fstat(file.fileno()).st_size)
        return file

    def _load_members(self, number: int) -> NDArray[np.void]:
        """A shard's member list, mapped where it is local. Raises UserError where it does not fit its shard."""
        shard = self.shards[number]
        members = self._array(shard.members)
        ends = members["offset"] + members["bytes"]
        if len(members) != shard.samples or ends.max() > shard.bytes:
            raise UserError(f"stale index: the member list does not fit {shard.name}", file=join(self.root, shard.members))
        return members


def _check_size(url: str, shard: Shard, size: int | None) -> None:
    if size is not None and size != shard.bytes:
        raise RemoteError(f"{url}: {size} bytes, the index says {shard.bytes}: the shard was changed after indexing")
