"""Who sees which sample when: a pure function of (seed, epoch, n, lanes, window), whatever the number of workers.

The n samples are cut into `lanes` contiguous parts. Each lane is an endless stream: epoch after epoch it walks its
shards in a new order and, within windows of `window` samples, the samples in a new order. Global batch t takes the
same number of samples from every lane; worker r serves the lanes l with l mod workers = r. So the batch at step t is
one set for any number of workers, a step number is all that a resume needs, and memory is O(window), not O(n).

Randomness is a hash of what it is for (never a library's generator, whose stream may change between versions).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_SHARDS, _SAMPLES = 1, 2  # what a hash is for


def hash_uint64(*parts: int | Hashes | Ints) -> Hashes:
    """Well-mixed 64-bit hashes of integers, broadcast over arrays (splitmix64: Steele, Lea, Flood 2014)."""
    state: Hashes = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def permutation(size: int, *key: int) -> Ints:
    """A permutation of range(size) that is a function of the key."""
    return np.argsort(hash_uint64(*key, np.arange(size)), kind="stable")


def interleaved(labels: Ints, seed: int) -> Ints:
    """Sample numbers so ordered that every prefix is class-balanced (within 1 for balanced sources) and random within."""
    ticket = hash_uint64(seed, np.arange(len(labels)))
    by_class = np.lexsort((ticket, labels))
    counts = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.float64)  # each class spreads its members evenly over [0, 1)
    rank[by_class] = (np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)) / np.repeat(counts, counts)
    return np.lexsort((ticket, rank))


class Batch(NamedTuple):
    """Samples of one step: index in the split, and the epoch each belongs to (equal lengths)."""

    samples: Ints
    epochs: Ints


@dataclass(frozen=True, kw_only=True, eq=False)  # hashed by identity: it keys the caches below
class Order:
    """The order of the first `n` samples of a split with the given shard sizes."""

    seed: int
    n: int
    lanes: int
    window: int
    shard_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < self.n <= sum(self.shard_sizes):
            raise ValueError(f"n = {self.n} lies outside 1..{sum(self.shard_sizes)}")
        if not 0 < self.lanes <= self.n:
            raise ValueError(f"{self.lanes} lanes need at least as many samples, not {self.n}")

    def batch(self, step: int, batch_size: int, worker: int = 0, workers: int = 1) -> Batch:
        """This worker's part of global batch `step` (from 0): batch_size / workers samples, lane by lane."""
        if batch_size % self.lanes or self.lanes % workers:
            raise ValueError(f"batch {batch_size}, lanes {self.lanes}, workers {workers}: each must divide the one before")
        share = batch_size // self.lanes
        parts = [self._stream(lane, step * share, share) for lane in range(worker, self.lanes, workers)]
        return Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _stream(self, lane: int, start: int, count: int) -> Batch:
        """`count` samples of a lane's endless stream from position `start`."""
        low, high = self._bounds(lane)
        places = np.arange(start, start + count)
        epochs, places = np.divmod(places, high - low)
        windows = places // self.window
        samples = np.empty(count, dtype=np.int64)
        first = 0
        while first < count:
            last = first + 1
            while last < count and epochs[last] == epochs[first] and windows[last] == windows[first]:
                last += 1
            order = _window_order(self, lane, int(epochs[first]), int(windows[first]))
            samples[first:last] = order[places[first:last] - windows[first] * self.window]
            first = last
        return Batch(samples, epochs)

    def _bounds(self, lane: int) -> tuple[int, int]:
        return lane * self.n // self.lanes, (lane + 1) * self.n // self.lanes


@lru_cache(maxsize=4096)
def _lane_walk(order: Order, lane: int, epoch: int) -> tuple[Ints, Ints]:
    """(first sample, end position) of the lane's pieces of shards in this epoch's order."""
    low, high = order._bounds(lane)
    edges = np.cumsum((0, *order.shard_sizes))
    starts = np.clip(edges[:-1], low, high)
    sizes = np.clip(edges[1:], low, high) - starts
    kept = np.flatnonzero(sizes)
    walk = kept[permutation(len(kept), order.seed, epoch, lane, _SHARDS)]
    return starts[walk], np.cumsum(sizes[walk])


@lru_cache(maxsize=4096)
def _window_order(order: Order, lane: int, epoch: int, window: int) -> Ints:
    """The samples of one window, shuffled."""
    starts, ends = _lane_walk(order, lane, epoch)
    places = np.arange(window * order.window, min((window + 1) * order.window, int(ends[-1])))
    piece = np.searchsorted(ends, places, side="right")
    samples = starts[piece] + places - np.concatenate(([0], ends))[piece]
    return samples[permutation(len(samples), order.seed, epoch, lane, window, _SAMPLES)]
