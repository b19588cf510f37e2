"""The result of one check: its level, what was found, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARN = "warn"  # a study runs, but slower, less safe or perhaps not to its end
    FAIL = "fail"  # a study would not run


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding. `fix` states what to do; empty where nothing is wrong."""

    level: Level
    text: str
    fix: str = ""


def reason(error: Exception) -> str:
    """Why an address did not answer, without the error's number or type: `Connection refused`, `timed out`."""
    cause = getattr(error, "reason", error)  # of a URLError
    return getattr(cause, "strerror", None) or str(cause)


def ok(text: str) -> Finding:
    return Finding(level=Level.OK, text=text)


def warn(text: str, fix: str) -> Finding:
    return Finding(level=Level.WARN, text=text, fix=fix)


def fail(text: str, fix: str) -> Finding:
    return Finding(level=Level.FAIL, text=text, fix=fix)
