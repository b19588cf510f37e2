"""The frozen base class of every configuration, and the error type for mistakes of the user.

Imports no torch, so that a study can be planned on any laptop.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

NEUTRAL = "neutral"


class UserError(Exception):
    """A mistake of the user: file, line, field, what is allowed there, and an example of a correct value."""

    def __init__(
        self, message: str, *, file: str = "", line: int | None = None, field: str = "", allowed: str = "", example: str = ""
    ) -> None:
        self.message, self.file, self.line, self.field = message, file, line, field
        self.allowed, self.example = allowed, example
        super().__init__(str(self))

    def __str__(self) -> str:
        where = self.file + (f", line {self.line}" if self.line else "")
        head = ": ".join(part for part in (where, self.field, self.message) if part)
        hints = {"allowed": self.allowed, "example": self.example}
        tail = "; ".join(f"{name}: {text}" for name, text in hints.items() if text)
        return f"{head} ({tail})" if tail else head

    @property
    def errors(self) -> tuple[UserError, ...]:
        """The single mistakes: this one, or all of a `CombinedUserError`."""
        return (self,)


class CombinedUserError(UserError):
    """Several mistakes, reported together: one line each. The attributes are those of the first."""

    def __init__(self, errors: Iterable[UserError]) -> None:
        self._errors = tuple(errors)
        first = self._errors[0]
        place = {"file": first.file, "line": first.line, "field": first.field}
        super().__init__(first.message, **place, allowed=first.allowed, example=first.example)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return "\n".join(map(str, self._errors))

    def __reduce__(self) -> tuple[type[CombinedUserError], tuple[tuple[UserError, ...]]]:
        return CombinedUserError, (self._errors,)

    @property
    def errors(self) -> tuple[UserError, ...]:
        return self._errors


class Frozen(BaseModel):
    """Base of all configuration: immutable, unknown keys forbidden, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def since(version: str, *, neutral: Any) -> dict[str, Any]:
    """`json_schema_extra` of a field that was added after 0.1: at its neutral value, in plain JSON types, it does not change
    the id of a run (orchestrator/plan/fingerprint.py)."""
    return {"since": version, NEUTRAL: neutral}


def suggest(word: str, known: list[str]) -> str:
    """`, did you mean X?` for a misspelt word, or the empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""
