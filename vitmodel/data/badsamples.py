"""What becomes of samples that cannot be read: the run fails at the first, or skips up to a cap of them.

A skipped sample is counted, named, and replaced by the next good one in the dataset's order, which is the same on every
worker and after every resume.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from vitmodel.config.base import UserError

BAD_FILE = "bad_samples.jsonl"

Record = dict[str, Any]  # split, sample, url, member, offset, reason, away: whether its store did not answer


class AwayError(UserError):
    """More samples than may be skipped could not be had, because their store did not answer: later it may."""


class BadSamples:
    """The bad samples of one split that a run has met, on any worker and in any attempt."""

    def __init__(self, split: str, size: int, skip_up_to: float, known: Path | None = None) -> None:
        self.split, self.size, self.limit = split, size, int(skip_up_to * size)
        self._records: dict[int, Record] = {}
        self._new: list[Record] = []
        self._lock = threading.Lock()
        if known is not None and known.exists():
            records = [json.loads(line) for line in known.read_text().splitlines() if line.endswith("}")]
            self._records = {record["sample"]: record for record in records if record["split"] == split}

    def __contains__(self, sample: int) -> bool:
        return sample in self._records

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        """Count a bad sample. Raises UserError naming it where that is one too many."""
        with self._lock:
            if record["sample"] not in self._records:
                self._records[record["sample"]] = record
                self._new.append(record)
        self.check()

    def take_new(self) -> list[Record]:
        """What has been added since this was last asked."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def merge(self, records: list[Record]) -> None:
        """Know what other workers have met."""
        with self._lock:
            self._records |= {record["sample"]: record for record in records if record["split"] == self.split}

    def check(self) -> None:
        """Raise UserError where there are more than the policy allows."""
        if len(self._records) <= self.limit:
            return
        last = max(self._records.values(), key=lambda record: record["sample"])
        many = f"; {len(self._records)} of {self.size} samples are bad, {self.limit} may be skipped" if self.limit else ""
        where = f"sample {last['sample']} at byte {last['offset']} (member {last['member']})"
        kind = AwayError if any(record.get("away") for record in self._records.values()) else UserError
        raise kind(f"{where} is no readable image: {last['reason']}{many}", file=last["url"])


def append(path: Path, records: list[Record]) -> None:
    """Name bad samples in a run's folder."""
    if records:
        with path.open("a") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
