"""The training order of samples: a pure function of (seed, epoch, n, lanes, window) that does not depend on the workers.

The n samples are divided into `lanes` contiguous parts. Each lane is an endless stream: every epoch it reads its shards in a
new order and, within windows of `window` samples, the samples in a new order. Global batch t takes the same number of samples
from every lane; worker r serves the lanes l with l mod workers = r. So the batch at step t is the same set for any number of
workers, a resume needs the step number alone, and memory is O(window), not O(n).

Random numbers are hashes of their purpose. A library's generator is never used: its stream may change between versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_SHARDS, _SAMPLES = 1, 2  # purposes of hashes; those of samples' draws: draws.py


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
    """Sample numbers in an order whose every prefix is class-balanced (within 1 for balanced sources) and otherwise random."""
    ticket = hash_uint64(seed, np.arange(len(labels)))
    by_class = np.lexsort((ticket, labels))
    counts = np.bincount(labels)
    rank = np.empty(len(labels), dtype=np.float64)  # the members of each class are evenly spaced in [0, 1)
    rank[by_class] = (np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)) / np.repeat(counts, counts)
    return np.lexsort((ticket, rank))


class Batch(NamedTuple):
    """Samples of one step: number in the split, and epoch, of each (equal lengths)."""

    samples: Ints
    epochs: Ints


@dataclass(frozen=True, kw_only=True, eq=False)  # hashed by identity: the key of the caches below
class Order:
    """The order of the first `n` samples of a split with the given shard sizes."""

    seed: int
    n: int
    lanes: int
    window: int
    shard_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < self.n <= sum(self.shard_sizes):
            raise ValueError(f"n = {self.n} is outside 1..{sum(self.shard_sizes)}")
        if not 0 < self.lanes <= self.n:
            raise ValueError(f"{self.lanes} lanes require at least as many samples; there are {self.n}")

    def batch(self, step: int, batch_size: int, worker: int = 0, workers: int = 1) -> Batch:
        """This worker's part of global batch `step` (from 0): batch_size / workers samples, lane by lane."""
        if batch_size % self.lanes or self.lanes % workers:
            raise ValueError(f"batch {batch_size} must be divisible by lanes {self.lanes}, and lanes by workers {workers}")
        share = batch_size // self.lanes
        lows, highs = self._bounds(np.arange(worker, self.lanes, workers))
        epochs, places = np.divmod(step * share + np.arange(share), (highs - lows)[:, None])
        windows, within = np.divmod(places, self.window)
        edges = _changes(epochs, windows)
        if len(edges) == 1:  # nearly every step
            table = _table(self, worker, workers, int(epochs.flat[0]), int(windows.flat[0]))
            return Batch(np.take_along_axis(table, within, axis=1).ravel(), epochs.ravel())
        samples = np.empty_like(places)
        for epoch, window in {(int(epochs.flat[i]), int(windows.flat[i])) for i in edges}:
            here = (epochs == epoch) & (windows == window)
            table = _table(self, worker, workers, epoch, window)
            samples[here] = table[np.nonzero(here)[0], within[here]]
        return Batch(samples.ravel(), epochs.ravel())

    def _bounds(self, lanes: Ints) -> tuple[Ints, Ints]:
        """First sample of each of these lanes, and the sample after its last."""
        return lanes * self.n // self.lanes, (lanes + 1) * self.n // self.lanes


def _changes(epochs: Ints, windows: Ints) -> Ints:
    """Flat positions at which the epoch or the window changes, and 0."""
    differs = (np.diff(epochs.ravel()) != 0) | (np.diff(windows.ravel()) != 0)
    return np.concatenate(([0], np.flatnonzero(differs) + 1))


@lru_cache(maxsize=4)  # all lanes are in the same window, except in a few steps at its edges
def _table(order: Order, worker: int, workers: int, epoch: int, window: int) -> Ints:
    """The shuffled samples of one window, for each of a worker's lanes (lanes, window). Short lanes are padded with -1."""
    lanes = np.arange(worker, order.lanes, workers)
    table = np.full((len(lanes), min(order.window, -(-order.n // order.lanes))), -1)
    edges = _edges(order)
    for row, lane in zip(table, lanes.tolist(), strict=True):
        samples = _window(order, edges, lane, epoch, window)
        row[: len(samples)] = samples
    return table


@lru_cache(maxsize=4)
def _edges(order: Order) -> Ints:
    """The first sample of every shard, and the end of the last shard."""
    return np.cumsum((0, *order.shard_sizes))


def _window(order: Order, edges: Ints, lane: int, epoch: int, window: int) -> Ints:
    """The shuffled samples of one window of one lane: the window's part of the lane's shards, in the order of this epoch."""
    low, high = (int(bound[0]) for bound in order._bounds(np.array([lane])))
    first, last = int(np.searchsorted(edges, low, side="right")) - 1, int(np.searchsorted(edges, high, side="left"))
    starts = np.maximum(edges[first:last], low)
    sizes = np.minimum(edges[first + 1 : last + 1], high) - starts
    walk = permutation(last - first, order.seed, epoch, lane, _SHARDS)
    ends = np.cumsum(sizes[walk])
    places = np.arange(window * order.window, min((window + 1) * order.window, high - low))
    piece = np.searchsorted(ends, places, side="right")
    samples = starts[walk][piece] + places - (ends - sizes[walk])[piece]
    return samples[permutation(len(samples), order.seed, epoch, lane, window, _SAMPLES)]
