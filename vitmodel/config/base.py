"""What every configuration is built on: the frozen base class, and the one error for what a user got wrong.

Imports no torch, so that a study can be planned on any laptop.
"""

from __future__ import annotations

import difflib

from pydantic import BaseModel, ConfigDict


class UserError(Exception):
    """What a user got wrong: the file, the line, the field and what is allowed there."""

    def __init__(self, message: str, *, file: str = "", line: int | None = None, field: str = "", allowed: str = "") -> None:
        self.message, self.file, self.line, self.field, self.allowed = message, file, line, field, allowed
        super().__init__(str(self))

    def __str__(self) -> str:
        where = self.file + (f", line {self.line}" if self.line else "")
        head = ": ".join(part for part in (where, self.field, self.message) if part)
        return f"{head} (allowed: {self.allowed})" if self.allowed else head


class Frozen(BaseModel):
    """Base of all configuration: immutable, unknown keys forbidden, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def suggest(word: str, known: list[str]) -> str:
    """`, did you mean X?` for a misspelt word, or the empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""
