"""The metrics of a run's attempts as one curve: each attempt resumes from a checkpoint that an earlier attempt wrote.

Every attempt records what it resumed from. The curve is read backwards from the attempt that counts: its entries, then the
entries of the attempt whose checkpoint it resumed from, up to the step of that checkpoint, and so on. Entries of two
attempts that ran at the same time are never mixed. Pure, except for reading the files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Entry = dict[str, Any]  # one line of a metrics file: metric names to numbers, with `step` and `time`


@dataclass(frozen=True, kw_only=True)
class AttemptCurve:
    """What one attempt logged, and the attempt and step of the checkpoint that it resumed from (-1: from none)."""

    entries: list[Entry]
    origin: int
    origin_step: float

    @property
    def has_started(self) -> bool:
        """Whether the origin of the attempt is recorded: it has started or resumed training."""
        return bool(self.entries) or self.origin_step < math.inf


def origin_line(attempt: int | None, step: int, now: float) -> Entry:
    """The line that an attempt writes when it starts to train: the checkpoint that it resumes from, None without one."""
    return {"from_attempt": -1 if attempt is None else attempt, "from_step": step, "time": now}


def json_lines(path: Path) -> Iterator[Entry]:
    """The lines of a file up to the first incomplete one."""
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # the last line of a killed writer
            return


def read_attempt(path: Path, number: int) -> AttemptCurve:
    """The metrics of attempt `number`. Without a recorded origin it resumed from the attempt before it."""
    lines = list(json_lines(path))
    entries = [line for line in lines if "step" in line]
    origin = next((line for line in lines if "from_step" in line), None)
    if origin:
        return AttemptCurve(entries=entries, origin=origin["from_attempt"], origin_step=origin["from_step"])
    return AttemptCurve(entries=entries, origin=number - 1, origin_step=entries[0]["step"] - 1 if entries else math.inf)


def join_attempts(attempts: list[AttemptCurve], last: int | None = None) -> list[Entry]:
    """The curve that ends with attempt `last`, by default the last one that has started."""
    started = [number for number, attempt in enumerate(attempts) if attempt.has_started]
    number, limit = (started[-1] if started else -1) if last is None else last, math.inf
    curve: list[list[Entry]] = []
    while number >= 0:
        curve.append([entry for entry in attempts[number].entries if entry["step"] <= limit])
        number, limit = attempts[number].origin, min(limit, attempts[number].origin_step)
    return [entry for part in reversed(curve) for entry in part]
