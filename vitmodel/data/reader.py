"""Samples of a packed dataset by number: read, decoded, cropped where the recipe asks for it, kept in memory when they fit.

What comes out is decided by the dataset's bytes, the resolution and the crops alone: not by the cache, the number of
threads or workers, or where the dataset lies.

Shapes: images are uint8 (B, S, S, 3) arrays.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from vitmodel.data.badsamples import BadSamples, Record
from vitmodel.data.crops import Crops, Draws, box_of, draw
from vitmodel.data.decode import SMALL_PIXELS, DecodeError, Images, decode_box, read_header
from vitmodel.data.index import load_index
from vitmodel.data.kept import automatic_bytes, kept
from vitmodel.data.nodecache import NodeCache
from vitmodel.data.order import Batch, Ints, Order
from vitmodel.data.remote import Patience, RemoteError, is_url
from vitmodel.data.splitfiles import Place, SplitFiles

FETCHES = 8  # shards that are copied to this node at the same time
FETCH_AHEAD = 16  # batches whose shards are asked for before they are needed
MAX_THREADS = 8


class Loaded(NamedTuple):
    """A batch as it is read, before what happens on the device. `batch` names the samples that are really in it."""

    images: Images
    labels: Ints
    batch: Batch
    cropped: bool = False  # crop and flip are done: augment neither again


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a dataset is read. Nothing here changes what is read, but for samples that cannot be."""

    cache: Literal["auto", "off"] | int = "auto"  # bytes of decoded images that a process may keep
    skip_up_to: float = 0.0  # part of the samples that may be bad; 0: the first one ends the run
    known_bad: Path | None = None  # what earlier attempts of the run have met
    threads: int | None = None  # that decode; None: one a CPU
    node_cache: NodeCache = field(default_factory=NodeCache)
    patience: Patience = field(default_factory=Patience)


class _BadSampleError(Exception):
    def __init__(self, record: Record) -> None:
        self.record = record
        super().__init__(record["reason"])


class Dataset:
    """The first `size` samples of one split, at one resolution; with `subset_seed`, as many of a seeded choice.

    With `crops`, images that are not stored at the resolution are cropped and flipped as they are decoded; those that are
    come whole, to be augmented in batches on the device. Which of the two is a matter of the dataset alone.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        resolution: int,
        size: int | None = None,
        *,
        subset_seed: int | None = None,
        reading: Reading | None = None,
        crops: Crops | None = None,
    ) -> None:
        self.reading = reading = reading or Reading()
        index = load_index(root)
        subset = (size, subset_seed) if size is not None and subset_seed is not None else None
        self.files = SplitFiles(root, index, split, cache=reading.node_cache, patience=reading.patience, subset=subset)
        self.size = size or sum(self.files.shard_sizes)
        self.resolution = resolution
        self.crops = crops if index.image_size != resolution else None
        self.bad = BadSamples(split, self.size, reading.skip_up_to, reading.known_bad)
        self._fetches = FETCH_AHEAD if is_url(root) else 0
        small = index.image_size is not None and index.image_size <= SMALL_PIXELS  # threads would wait for the interpreter
        self._threads = reading.threads or (1 if small else min(MAX_THREADS, len(os.sched_getaffinity(0))))
        self._kept: Images | None = None
        self._unkept: dict[int, Record] = {}  # the bad ones among what is kept
        room = automatic_bytes() if reading.cache == "auto" else 0 if reading.cache == "off" else reading.cache
        if self.crops is None and self.size * resolution**2 * 3 <= room:
            self._kept, self._unkept = self._keep(room)

    @cached_property
    def labels(self) -> Ints:
        """The class of every sample."""
        return self.files.labels[: self.size].astype(np.int64)

    @cached_property
    def label_sets(self) -> Ints | None:
        """All right answers of every sample, filled up with -1, where the dataset has them."""
        sets = self.files.label_sets
        return None if sets is None else sets[: self.size].astype(np.int64)

    def order(self, *, seed: int, lanes: int, window: int) -> Order:
        """The training order over these samples."""
        return Order(seed=seed, n=self.size, lanes=lanes, window=window, shard_sizes=self.files.shard_sizes)

    def read(self, samples: Ints) -> Images:
        """Decoded images (B, S, S, 3), in the order asked for."""
        return self.load(Batch(samples, np.zeros(len(samples), dtype=np.int64))).images

    def load(self, batch: Batch) -> Loaded:
        """Read one batch. Raises UserError naming file, member and byte of a bad sample, where the policy skips it not."""
        if self._kept is not None and not self._unkept:
            return Loaded(self._kept[batch.samples], self.labels[batch.samples], batch)
        images = np.empty((len(batch.samples), self.resolution, self.resolution, 3), dtype=np.uint8)
        samples, labels = batch.samples.copy(), np.empty(len(batch.samples), dtype=np.int64)
        draws = draw(self.crops, batch) if self.crops else None
        for row, place in enumerate(self.files.places(batch.samples)):
            try:
                self._put(images[row], int(samples[row]), place, draws, row)
                labels[row] = place.label
            except _BadSampleError as error:
                self.bad.add(error.record)
                samples[row], labels[row] = self._replace(images[row], int(samples[row]), int(batch.epochs[row]))
        return Loaded(images, labels, Batch(samples, batch.epochs), self.crops is not None)

    def batches(self, batches: Iterable[Batch]) -> Iterator[Loaded]:
        """Read these batches in order, the next ones already under way in threads."""
        if self._kept is not None:
            yield from map(self.load, batches)
            return
        decoding, fetching = ThreadPoolExecutor(self._threads), ThreadPoolExecutor(FETCHES)
        try:
            source = self._fetched(iter(batches), fetching)
            waiting: deque[Future[Loaded]] = deque()
            for batch in islice(source, self._threads + 1):
                waiting.append(decoding.submit(self.load, batch))
            while waiting:
                loaded = waiting.popleft().result()
                waiting.extend(decoding.submit(self.load, batch) for batch in islice(source, 1))
                yield loaded
        finally:
            decoding.shutdown(wait=False, cancel_futures=True)
            fetching.shutdown(wait=False, cancel_futures=True)

    def _fetched(self, source: Iterator[Batch], pool: ThreadPoolExecutor) -> Iterator[Batch]:
        """The batches, with the shards of the next ones on their way to this node."""
        ahead: deque[Batch] = deque()
        asked: set[int] = set()
        for batch in source:
            if self._fetches:
                shards = set(self.files.shard_of(batch.samples).tolist()) - asked
                asked |= shards
                self.files.fetch(sorted(shards), pool)
            ahead.append(batch)
            if len(ahead) > self._fetches:
                yield ahead.popleft()
        yield from ahead

    def _put(self, out: Images, sample: int, place: Place, draws: Draws | None, row: int) -> None:
        """One image into `out`."""
        if self._kept is not None:
            if sample in self._unkept:
                raise _BadSampleError(self._unkept[sample])
            out[...] = self._kept[sample]
            return
        try:
            data = self.files.read(place)
            header = read_header(data)
            box = box_of(draws.boxes[row], header) if draws else None
            pixels = decode_box(data, header, box, self.resolution)
        except (OSError, DecodeError) as error:
            raise _BadSampleError(self._record(sample, place, error)) from error
        if draws and draws.mirrored[row]:
            cv2.flip(pixels, 1, dst=out)
        else:
            out[...] = pixels

    def _replace(self, out: Images, bad: int, epoch: int) -> tuple[int, int]:
        """Put the next good sample instead; returns its number and class."""
        for step in range(1, self.size):
            sample = (bad + step) % self.size
            one = Batch(np.array([sample]), np.array([epoch]))
            try:
                (place,) = self.files.places(one.samples)
                self._put(out, sample, place, draw(self.crops, one) if self.crops else None, 0)
            except _BadSampleError as error:
                self.bad.add(error.record)
            else:
                return sample, place.label
        raise AssertionError("the policy's cap lies below the number of samples")

    def _record(self, sample: int, place: Place, error: Exception) -> Record:
        where = {"url": self.files.url(place.shard), "member": self.files.name_of(place), "offset": place.offset}
        return {
            "split": self.bad.split,
            "sample": sample,
            **where,
            "reason": str(error),
            "away": isinstance(error, RemoteError),
        }

    def _keep(self, room: int) -> tuple[Images, dict[int, Record]]:
        """All images, decoded once a process, and the bad ones among them."""
        images, records = kept((*self.files.key, self.resolution), self.size, self.resolution, room, self._decode)
        for sample in sorted(records)[: 0 if self.bad.limit else 1]:
            self.bad.add(records[sample])
        return images, records

    def _decode(self, images: Images, first: int) -> dict[int, Record]:
        """Decode samples from `first` on into `images`; returns the bad ones."""
        records: dict[int, Record] = {}

        def part(samples: Ints) -> None:
            for sample, place in zip(samples.tolist(), self.files.places(samples), strict=True):
                try:
                    self._put(images[sample], sample, place, None, 0)
                except _BadSampleError as error:
                    records[sample] = error.record

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(part, (np.arange(at, min(at + 1024, len(images))) for at in range(first, len(images), 1024))))
        return records
