"""Samples that cannot be read: the run fails at the first one, or skips up to a limit.

A skipped sample is counted, recorded, and replaced by the next readable sample of the dataset. The replacement is the same on
every worker and after every resume.
"""

from __future__ import annotations

import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vitmodel.config.base import UserError

BAD_FILE = "bad_samples.jsonl"


class StoreUnavailableError(UserError):
    """More samples than may be skipped could not be read because their store did not answer. A later attempt may succeed."""


class BadSample(BaseModel):
    """A sample that could not be read. `store_unavailable`: its store did not answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # read from the files of earlier attempts

    split: str
    sample: int
    url: str
    member: str
    offset: int
    reason: str
    store_unavailable: bool = False


class BadSamples:
    """The bad samples of one split that a run has found, on any worker and in any attempt."""

    def __init__(self, split: str, size: int, skip_up_to: float, known: Path | None = None) -> None:
        """`known`: a file of bad samples that earlier attempts recorded. A truncated line is ignored."""
        self.split, self.size, self.limit = split, size, int(skip_up_to * size)
        self._bad: dict[int, BadSample] = {}
        self._new: list[BadSample] = []
        self._lock = threading.Lock()
        if known is not None and known.exists():
            lines = known.read_text().splitlines()
            self.merge([BadSample.model_validate_json(line) for line in lines if line.endswith("}")])

    def __len__(self) -> int:
        return len(self._bad)

    def add(self, bad: BadSample) -> None:
        """Count a bad sample. Raises UserError naming it if there are now more than the limit."""
        with self._lock:
            if bad.sample not in self._bad:
                self._bad[bad.sample] = bad
                self._new.append(bad)
        self.check()

    def take_new(self) -> list[BadSample]:
        """The samples added since the last call."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def merge(self, bad_samples: list[BadSample]) -> None:
        """Add the bad samples that other workers or earlier attempts have found, without checking the limit."""
        with self._lock:
            self._bad |= {bad.sample: bad for bad in bad_samples if bad.split == self.split}

    def check(self) -> None:
        """Raise UserError if there are more bad samples than the limit."""
        if len(self._bad) <= self.limit:
            return
        last = self._bad[max(self._bad)]
        count = f"; {len(self._bad)} of {self.size} samples are bad, {self.limit} may be skipped" if self.limit else ""
        where = f"sample {last.sample} at byte {last.offset} (member {last.member})"
        unavailable = any(bad.store_unavailable for bad in self._bad.values())
        kind = StoreUnavailableError if unavailable else UserError
        raise kind(f"{where} cannot be read as an image: {last.reason}{count}", file=last.url)


def append(path: Path, bad_samples: list[BadSample]) -> None:
    """Append bad samples to a file, one JSON object per line."""
    if bad_samples:
        with path.open("a") as file:
            file.write("".join(bad.model_dump_json() + "\n" for bad in bad_samples))
