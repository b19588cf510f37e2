"""The metrics of a run's attempts as one curve: each attempt goes on from a checkpoint that an earlier one wrote.

An attempt notes what it went on from. The curve is read backwards from the attempt that counts: its entries, then up to the
step of its checkpoint those of the attempt that wrote it, and so on. What two attempts logged side by side is never mixed.
Pure, but for reading the files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one attempt logged, and the attempt and step of the checkpoint that it went on from (-1: from none)."""

    entries: list[Entry]
    origin: int
    origin_step: float

    @property
    def is_under_way(self) -> bool:
        """Whether it has got so far as to know where it goes on from."""
        return bool(self.entries) or self.origin_step < math.inf


def origin_line(attempt: int | None, step: int, now: float) -> Entry:
    """What an attempt notes once it knows the checkpoint that it goes on from (None: from none)."""
    return {"from_attempt": -1 if attempt is None else attempt, "from_step": step, "time": now}


def json_lines(path: Path) -> Iterator[Entry]:
    """The lines of a file as far as they are whole."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the last line of a killed writer
            return


def read_part(path: Path, number: int) -> Part:
    """One attempt's metrics. One that noted no origin went on from the attempt before it."""
    lines = list(json_lines(path))
    entries = [line for line in lines if "step" in line]
    noted = next((line for line in lines if "from_step" in line), None)
    if noted:
        return Part(entries=entries, origin=noted["from_attempt"], origin_step=noted["from_step"])
    return Part(entries=entries, origin=number - 1, origin_step=entries[0]["step"] - 1 if entries else math.inf)


def joined(parts: list[Part], last: int | None = None) -> list[Entry]:
    """The curve that ends with attempt `last`, by default the last one that is under way."""
    begun = [number for number, part in enumerate(parts) if part.is_under_way]
    number, limit = (begun[-1] if begun else -1) if last is None else last, math.inf
    curve: list[list[Entry]] = []
    while number >= 0:
        curve.append([entry for entry in parts[number].entries if entry["step"] <= limit])
        number, limit = parts[number].origin, min(limit, parts[number].origin_step)
    return [entry for part in reversed(curve) for entry in part]
