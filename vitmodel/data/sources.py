"""What can be packed: a source lists all its samples and labels at once, and reads the images of any of them on demand.

`items` describe where images are and are sent to other processes and machines; `read` is a picklable function that turns
items into encoded images. So no worker lists a source again, whatever its size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from vitmodel.config.base import UserError
from vitmodel.data.order import Ints, interleaved

SPLITS = ("train", "val", "test")


class EncodedImage(NamedTuple):
    """One encoded image and its origin, for messages (empty for a generated image)."""

    data: bytes
    origin: str


ReadImages = Callable[[Sequence[Any]], Iterator[EncodedImage]]


@dataclass(frozen=True, kw_only=True)
class SampleList:
    """Samples of one split: labels, items, and for each sample a key that does not change when other samples are added
    (default: its number). `label_sets`: all correct classes of each sample, where there are several."""

    labels: Ints
    items: Sequence[Any]
    keys: Sequence[str] | None = None
    label_sets: Sequence[tuple[int, ...]] | None = None

    def key(self, number: int) -> str:
        return self.keys[number] if self.keys is not None else str(number)

    def take(self, numbers: Ints) -> SampleList:
        """The samples with these numbers."""
        chosen = numbers.tolist()
        return SampleList(
            labels=self.labels[numbers],
            items=[self.items[i] for i in chosen],
            keys=[self.key(i) for i in chosen],
            label_sets=None if self.label_sets is None else [self.label_sets[i] for i in chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """All splits, and the function that reads their images."""

    splits: dict[str, SampleList]
    read: ReadImages
    classes: int
    class_names: tuple[str, ...] = ()
    image_size: int | None = None  # of generated images, which need no check
    source: str = ""
    licence: str = ""


def count_classes(splits: dict[str, SampleList]) -> int:
    """One more than the largest label."""
    return 1 + max(int(samples.labels.max()) for samples in splits.values())


def hold_out(source: Source, fractions: dict[str, float]) -> Source:
    """Cut val and test out of a source with a single split, by a hash of each sample's key: a sample keeps its split when
    others are added. The counts are therefore close to the fractions, not equal to them."""
    if list(source.splits) != ["train"] or not fractions:
        return source
    samples = source.splits["train"]
    position = np.array([_uniform(samples.key(number)) for number in range(len(samples.labels))])
    numbers, low = {}, 0.0
    for split, fraction in fractions.items():
        numbers[split] = np.flatnonzero((position >= low) & (position < low + fraction))
        low += fraction
    numbers["train"] = np.flatnonzero(position >= low)
    for split, chosen in numbers.items():
        if not len(chosen):
            raise UserError(f"the source has too few samples: none are left for {split}", field="split")
    return replace(source, splits={split: samples.take(numbers[split]) for split in SPLITS if split in numbers})


def cut_dev(source: Source, fraction: float, seed: int) -> Source:
    """The train split alone, divided for tuning: the end of its seeded, class-interleaved order becomes val, the rest train."""
    samples = source.splits["train"]
    order = interleaved(samples.labels, seed)
    count = len(order) - max(1, round(fraction * len(order)))
    train, val = samples.take(np.sort(order[:count])), samples.take(np.sort(order[count:]))
    return replace(source, splits={"train": train, "val": val})


def _uniform(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2.0**64
