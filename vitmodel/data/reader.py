"""Reads samples of a packed dataset by number: decoded, cropped if the recipe crops, cached in memory if they fit.

The result depends on the dataset's bytes, the resolution and the crops alone: not on the cache, the number of threads or
workers, or the place of the dataset.

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

from vitmodel.data.bad_samples import BadSample, BadSamples
from vitmodel.data.crops import CropDraws, Crops, crop_box, draw_crops
from vitmodel.data.decode import SMALL_PIXELS, DecodeError, Images, decode_box, read_header
from vitmodel.data.index import load_index
from vitmodel.data.memory_cache import cached_images, default_cache_bytes
from vitmodel.data.node_cache import NodeCache
from vitmodel.data.order import Batch, Ints, Order
from vitmodel.data.remote import RemoteError, RetryPolicy, is_url
from vitmodel.data.split_files import SampleLocation, SplitFiles

CONCURRENT_FETCHES = 8  # shards that are copied to this node at the same time
FETCH_AHEAD = 16  # batches whose shards are requested before they are needed
MAX_THREADS = 8
CACHE_CHUNK = 1024  # samples that a thread decodes at once to fill the cache


class LoadedBatch(NamedTuple):
    """A batch as it was read, before augmentation on the device. `batch` names the samples that it really contains."""

    images: Images
    labels: Ints
    batch: Batch
    cropped: bool = False  # cropped and flipped already: augment neither again


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How a dataset is read. The options do not change what is read, except for samples that cannot be read."""

    cache: Literal["auto", "off"] | int = "auto"  # bytes of decoded images that a process may cache
    skip_up_to: float = 0.0  # fraction of the samples that may be bad; 0: the first one ends the run
    known_bad: Path | None = None  # file of the bad samples that earlier attempts of the run have recorded
    threads: int | None = None  # decoding threads; None: one for each CPU
    node_cache: NodeCache = field(default_factory=NodeCache)
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)


class _BadSampleError(Exception):
    def __init__(self, sample: BadSample) -> None:
        self.sample = sample
        super().__init__(sample.reason)


class Dataset:
    """The first `size` samples of one split, at one resolution; with `subset_seed`, a seeded choice of `size` samples.

    With `crops`, images that are stored at another size are cropped and flipped while they are decoded. Images stored at the
    resolution are read whole and augmented in batches on the device. The dataset alone decides which of the two applies.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        resolution: int,
        size: int | None = None,
        *,
        subset_seed: int | None = None,
        reading: ReadOptions | None = None,
        crops: Crops | None = None,
    ) -> None:
        self.reading = reading = reading or ReadOptions()
        index = load_index(root)
        subset = (size, subset_seed) if size is not None and subset_seed is not None else None
        self.files = SplitFiles(root, index, split, cache=reading.node_cache, retry_policy=reading.retry_policy, subset=subset)
        self.size = size or sum(self.files.shard_sizes)
        self.resolution = resolution
        self.crops = crops if index.image_size != resolution else None
        self.bad = BadSamples(split, self.size, reading.skip_up_to, reading.known_bad)
        self._fetch_ahead = FETCH_AHEAD if is_url(root) else 0
        small = index.image_size is not None and index.image_size <= SMALL_PIXELS  # threads would wait for the interpreter
        self._threads = reading.threads or (1 if small else min(MAX_THREADS, len(os.sched_getaffinity(0))))
        self._cached: Images | None = None
        self._bad_cached: dict[int, BadSample] = {}  # the bad samples of the cache
        limit = default_cache_bytes() if reading.cache == "auto" else 0 if reading.cache == "off" else reading.cache
        if self.crops is None and self.size * resolution**2 * 3 <= limit:
            self._cached, self._bad_cached = self._fill_cache(limit)

    @cached_property
    def labels(self) -> Ints:
        """The class of every sample."""
        return self.files.labels[: self.size].astype(np.int64)

    @cached_property
    def label_sets(self) -> Ints | None:
        """All correct classes of every sample, padded with -1; None for a dataset without label sets."""
        sets = self.files.label_sets
        return None if sets is None else sets[: self.size].astype(np.int64)

    def order(self, *, seed: int, lanes: int, window: int) -> Order:
        """The training order over these samples."""
        return Order(seed=seed, n=self.size, lanes=lanes, window=window, shard_sizes=self.files.shard_sizes)

    def read(self, samples: Ints) -> Images:
        """Decoded images (B, S, S, 3), in the order of `samples`."""
        return self.load(Batch(samples, np.zeros(len(samples), dtype=np.int64))).images

    def load(self, batch: Batch) -> LoadedBatch:
        """Read one batch. Raises UserError naming file, member and byte of a bad sample that may not be skipped."""
        if self._cached is not None and not self._bad_cached:
            return LoadedBatch(self._cached[batch.samples], self.labels[batch.samples], batch)
        images = np.empty((len(batch.samples), self.resolution, self.resolution, 3), dtype=np.uint8)
        samples, labels = batch.samples.copy(), np.empty(len(batch.samples), dtype=np.int64)
        draws = draw_crops(self.crops, batch) if self.crops else None
        for row, location in enumerate(self.files.locate(batch.samples)):
            try:
                self._put(images[row], int(samples[row]), location, draws, row)
                labels[row] = location.label
            except _BadSampleError as error:
                self.bad.add(error.sample)
                samples[row], labels[row] = self._replace(images[row], int(samples[row]), int(batch.epochs[row]))
        return LoadedBatch(images, labels, Batch(samples, batch.epochs), self.crops is not None)

    def batches(self, batches: Iterable[Batch]) -> Iterator[LoadedBatch]:
        """Read these batches in order; threads read the next ones ahead."""
        if self._cached is not None:
            yield from map(self.load, batches)
            return
        decoding, fetching = ThreadPoolExecutor(self._threads), ThreadPoolExecutor(CONCURRENT_FETCHES)
        try:
            source = self._fetched(iter(batches), fetching)
            pending: deque[Future[LoadedBatch]] = deque()
            for batch in islice(source, self._threads + 1):
                pending.append(decoding.submit(self.load, batch))
            while pending:
                loaded = pending.popleft().result()
                pending.extend(decoding.submit(self.load, batch) for batch in islice(source, 1))
                yield loaded
        finally:
            decoding.shutdown(wait=False, cancel_futures=True)
            fetching.shutdown(wait=False, cancel_futures=True)

    def _fetched(self, source: Iterator[Batch], pool: ThreadPoolExecutor) -> Iterator[Batch]:
        """The batches, in order. Copies the shards of the next ones to this node in the background."""
        ahead: deque[Batch] = deque()
        requested: set[int] = set()
        for batch in source:
            if self._fetch_ahead:
                shards = set(self.files.shard_of(batch.samples).tolist()) - requested
                requested |= shards
                self.files.fetch(sorted(shards), pool)
            ahead.append(batch)
            if len(ahead) > self._fetch_ahead:
                yield ahead.popleft()
        yield from ahead

    def _put(self, out: Images, sample: int, location: SampleLocation, draws: CropDraws | None, row: int) -> None:
        """Write one image to `out`."""
        if self._cached is not None:
            if sample in self._bad_cached:
                raise _BadSampleError(self._bad_cached[sample])
            out[...] = self._cached[sample]
            return
        try:
            data = self.files.read(location)
            header = read_header(data)
            box = crop_box(draws.boxes[row], header) if draws else None
            pixels = decode_box(data, header, box, self.resolution)
        except (OSError, DecodeError) as error:
            raise _BadSampleError(self._bad_sample(sample, location, error)) from error
        if draws and draws.mirrored[row]:
            cv2.flip(pixels, 1, dst=out)
        else:
            out[...] = pixels

    def _replace(self, out: Images, bad: int, epoch: int) -> tuple[int, int]:
        """Write the next readable sample to `out` instead. Returns its number and class."""
        for step in range(1, self.size):
            sample = (bad + step) % self.size
            one = Batch(np.array([sample]), np.array([epoch]))
            try:
                (location,) = self.files.locate(one.samples)
                self._put(out, sample, location, draw_crops(self.crops, one) if self.crops else None, 0)
            except _BadSampleError as error:
                self.bad.add(error.sample)
            else:
                return sample, location.label
        raise AssertionError("the limit of bad samples is below the number of samples")

    def _bad_sample(self, sample: int, location: SampleLocation, error: Exception) -> BadSample:
        return BadSample(
            split=self.bad.split,
            sample=sample,
            url=self.files.url(location.shard),
            member=self.files.name_of(location),
            offset=location.offset,
            reason=str(error),
            store_unavailable=isinstance(error, RemoteError),
        )

    def _fill_cache(self, limit: int) -> tuple[Images, dict[int, BadSample]]:
        """All images, decoded once in a process, and the bad samples among them."""
        images, bad = cached_images((*self.files.key, self.resolution), self.size, self.resolution, limit, self._decode)
        for sample in sorted(bad)[: 0 if self.bad.limit else 1]:
            self.bad.add(bad[sample])
        return images, bad

    def _decode(self, images: Images, first: int) -> dict[int, BadSample]:
        """Decode the samples from `first` on into `images`. Returns the bad ones."""
        bad: dict[int, BadSample] = {}

        def decode_chunk(start: int) -> None:
            samples = np.arange(start, min(start + CACHE_CHUNK, len(images)))
            for sample, location in zip(samples.tolist(), self.files.locate(samples), strict=True):
                try:
                    self._put(images[sample], sample, location, None, 0)
                except _BadSampleError as error:
                    bad[sample] = error.sample

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(decode_chunk, range(first, len(images), CACHE_CHUNK)))
        return bad
