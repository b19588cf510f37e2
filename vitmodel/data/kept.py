"""Decoded images that a process keeps in memory, so that the many runs of a study decode a small dataset once."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from vitmodel.data.badsamples import Record
from vitmodel.data.decode import Images

AUTO_BYTES = int(os.environ.get("VITSCALE_CACHE_BYTES", str(2 * 2**30)))

Fill = Callable[[Images, int], dict[int, Record]]

_kept: dict[tuple[object, ...], tuple[Images, dict[int, Record]]] = {}


def automatic_bytes() -> int:
    """What a process may keep where nobody said: `VITSCALE_CACHE_BYTES` or 2 GiB, never over a quarter of the memory."""
    return min(AUTO_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4)


def kept(key: tuple[object, ...], size: int, side: int, room_bytes: int, fill: Fill) -> tuple[Images, dict[int, Record]]:
    """The first `size` images under this key, and the bad samples among them; smaller subsets are views of larger ones.

    `fill(images, first)` decodes what is not there yet and returns what is bad. What else is kept goes, oldest first,
    where together they need more than `room_bytes`.
    """
    images, records = _kept.pop(key, (np.empty((0, side, side, 3), dtype=np.uint8), {}))
    if len(images) < size:
        while _kept and sum(others.nbytes for others, _ in _kept.values()) + size * side * side * 3 > room_bytes:
            _kept.pop(next(iter(_kept)))
        had, images = images, np.empty((size, side, side, 3), dtype=np.uint8)
        images[: len(had)] = had
        records = records | fill(images, len(had))
    if not any(record["away"] for record in records.values()):  # else the next run asks the store again
        _kept[key] = (images, records)
    return images[:size], {sample: record for sample, record in records.items() if sample < size}
