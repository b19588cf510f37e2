"""What one check found: how bad it is, what was seen, and how it is mended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"  # works, but slower, less safe or not to its end
    FAIL = "fail"  # a study would not run


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the check-up."""

    level: Level
    text: str
    mend: str = ""


def ok(text: str) -> Finding:
    return Finding(level=Level.OK, text=text)


def warn(text: str, mend: str) -> Finding:
    return Finding(level=Level.WARN, text=text, mend=mend)


def fail(text: str, mend: str) -> Finding:
    return Finding(level=Level.FAIL, text=text, mend=mend)
