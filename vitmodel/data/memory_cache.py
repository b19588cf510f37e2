"""Decoded images that a process caches in memory, so that all runs of a study decode a small dataset once."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from vitmodel.data.bad_samples import BadSample
from vitmodel.data.decode import Images

AUTO_BYTES = int(os.environ.get("VITSCALE_CACHE_BYTES", str(2 * 2**30)))

Fill = Callable[[Images, int], dict[int, BadSample]]

_cache: dict[tuple[object, ...], tuple[Images, dict[int, BadSample]]] = {}  # least recently used first


def default_cache_bytes() -> int:
    """The limit of a process where the study sets none: `VITSCALE_CACHE_BYTES` or 2 GiB, at most a quarter of the memory."""
    return min(AUTO_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)


def cached_images(
    key: tuple[object, ...], size: int, side: int, limit_bytes: int, fill: Fill
) -> tuple[Images, dict[int, BadSample]]:
    """The first `size` images under this key, and the bad samples among them. Smaller subsets are views of larger ones.

    `fill(images, first)` decodes the samples from `first` on and returns the bad ones. Other entries are evicted, least
    recently used first, where all together need more than `limit_bytes`.
    """
    images, bad = _cache.pop(key, (np.empty((0, side, side, 3), dtype=np.uint8), {}))
    if len(images) < size:
        while _cache and sum(others.nbytes for others, _ in _cache.values()) + size * side * side * 3 > limit_bytes:
            _cache.pop(next(iter(_cache)))
        decoded, images = images, np.empty((size, side, side, 3), dtype=np.uint8)
        images[: len(decoded)] = decoded
        bad = bad | fill(images, len(decoded))
    if not any(sample.store_unavailable for sample in bad.values()):  # otherwise the next run reads from the store again
        _cache[key] = (images, bad)
    return images[:size], {number: sample for number, sample in bad.items() if number < size}
