"""Limits of reading other than speed, for `python bench/data.py --limits`: `LIMIT ROOT` prints the figures of one limit.

first: seconds from opening the dataset to the first batch, resuming at 90% of an epoch, and the memory of a worker that
continues to read; with an index of 10 million samples. growth: memory gained while photographs are read and cropped.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vitmodel.data.augment import normalise_and_augment
from vitmodel.data.crops import Crops
from vitmodel.data.index import Shard, Split, read_index, render_index
from vitmodel.data.reader import Dataset, ReadOptions

BATCH, MANY = 128, 10_000_000


def widen(packed: Path, root: Path) -> None:
    """A dataset of MANY samples: many links to the first shard of another dataset."""
    root.mkdir()
    index = read_index(packed)
    shard = index.splits["train"].shards[0]
    shards = tuple(_link(packed, root, shard, number) for number in range(-(-MANY // shard.samples)))
    histogram = tuple(count * len(shards) for count in index.splits["train"].histogram)
    split = Split(shards=shards, histogram=histogram)
    (root / "index.json").write_text(render_index(index.model_copy(update={"splits": {"train": split}})))


def _link(packed: Path, root: Path, shard: Shard, number: int) -> Shard:
    new = shard.model_copy(update={"name": f"train-{number:05d}.tar", "members": f"train-{number:05d}.npy"})
    (root / new.name).hardlink_to(packed / shard.name)
    (root / new.members).hardlink_to(packed / shard.members)
    return new


def batches(root: Path, side: int, part: float) -> Iterator[Any]:
    """Batches from this fraction of the first epoch on, as in the training loop."""
    cpu = torch.device("cpu")
    dataset = Dataset(root, "train", side, reading=ReadOptions(cache="off"), crops=Crops(seed=0, flip=True))
    order = dataset.order(seed=0, lanes=64, window=256)
    steps = itertools.count(int(part * dataset.size / BATCH))
    for loaded in dataset.batches(order.batch(step, BATCH) for step in steps):
        yield normalise_and_augment(loaded.images, loaded.batch, 0, "none", not loaded.cropped, device=cpu)


def first(root: Path) -> dict[str, float]:
    """Seconds to the first batch at 90% of an epoch; peak MB, including imports and 200 more batches."""
    started = time.perf_counter()
    source = batches(root, 32, 0.9)
    next(source)
    seconds = time.perf_counter() - started
    for _ in range(200):
        next(source)
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"first batch, s": seconds, "memory, MB": int(peak.split()[1]) / 1024}  # getrusage would include the parent's


def growth(root: Path) -> dict[str, float]:
    """MB gained by the process from the 10th to the 60th batch of photographs."""
    source = batches(root, 224, 0)
    for _ in range(10):
        next(source)
    before = _resident_mb()
    for _ in range(50):
        next(source)
    return {"growth, MB": _resident_mb() - before}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"first": first, "growth": growth}[sys.argv[1]](Path(sys.argv[2]))))
