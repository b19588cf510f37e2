"""What can be packed: a source lists its samples and their labels at once, and reads any of them on demand.

`items` say where images lie and travel to other processes and machines; `read` is a function that can be pickled and
turns items into encoded images. So no worker lists a source again, whatever its size.
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


class Encoded(NamedTuple):
    """One encoded image, and where it came from, for messages; empty for what was made here."""

    data: bytes
    where: str


Read = Callable[[Sequence[Any]], Iterator[Encoded]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split: labels, items, and a name of each sample that does not change when others are added (default: its number).
    `label_sets`: all right answers of each sample, where there are several."""

    labels: Ints
    items: Sequence[Any]
    keys: Sequence[str] | None = None
    label_sets: Sequence[tuple[int, ...]] | None = None

    def key(self, number: int) -> str:
        return self.keys[number] if self.keys is not None else str(number)

    def take(self, numbers: Ints) -> Part:
        """The samples with these numbers."""
        chosen = numbers.tolist()
        return Part(
            labels=self.labels[numbers],
            items=[self.items[i] for i in chosen],
            keys=[self.key(i) for i in chosen],
            label_sets=None if self.label_sets is None else [self.label_sets[i] for i in chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """All splits, and the function that reads their images."""

    parts: dict[str, Part]
    read: Read
    classes: int
    class_names: tuple[str, ...] = ()
    image_size: int | None = None  # known for what was made here, whose images need no check
    source: str = ""
    licence: str = ""


def hold_out(source: Source, fractions: dict[str, float]) -> Source:
    """Cut val and test out of a source of a single split by a hash of each sample's key: a sample keeps its split when
    others are added. Counts are therefore near the fractions, not equal to them."""
    if list(source.parts) != ["train"] or not fractions:
        return source
    part = source.parts["train"]
    place = np.array([_uniform(part.key(number)) for number in range(len(part.labels))])
    parts, low = {}, 0.0
    for split, fraction in fractions.items():
        parts[split] = np.flatnonzero((place >= low) & (place < low + fraction))
        low += fraction
    parts["train"] = np.flatnonzero(place >= low)
    for split, numbers in parts.items():
        if not len(numbers):
            raise UserError(f"the source has too few samples to give any to {split}", field="split")
    return replace(source, parts={split: part.take(parts[split]) for split in SPLITS if split in parts})


def cut_dev(source: Source, fraction: float, seed: int) -> Source:
    """The train split alone, cut for tuning: its seeded, class-interleaved last part becomes val, the rest train."""
    part = source.parts["train"]
    order = interleaved(part.labels, seed)
    kept = len(order) - max(1, round(fraction * len(order)))
    return replace(source, parts={"train": part.take(np.sort(order[:kept])), "val": part.take(np.sort(order[kept:]))})


def _uniform(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2.0**64
