"""`${env:NAME}`: read where it is used, and never written. Takes secrets out of whatever leaves the process.

A study names a variable, not its value. The value is looked up by the driver or worker that needs it; what is written or
sent (plans, bundles, failures, logs, MLflow, webhooks, reports) passes through `redact`, which turns values back into names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from vitmodel.config.base import UserError

HIDDEN = "***"
SHORTEST = 4  # characters: a shorter value says nothing, and hiding it would spoil every text
SHORTEST_GUESSED = 8  # of a variable that no study names: SOME_KEY=true is no secret
_NAMED = re.compile(r"\$\{env:(\w+)\}")
_SECRET_WORDS = r"token|secret|passw(?:or)?d|pwd|api_?key|access_?key|private_?key|credentials?|authorization|webhook|signature"
_SECRET_KEY = re.compile(rf"(?:^|[_.-])(?:{_SECRET_WORDS})$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(rf"(?:^|_)(?:{_SECRET_WORDS}|key)(?:_id)?$", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
_PAIR = re.compile(
    rf"((?:^|[\s?&;,'\"_-])(?:{_SECRET_WORDS})[\"']?\s*[=:]\s*[\"']?(?:bearer\s+)?)([^\s&;,'\"]+)", re.IGNORECASE
)


def expand_environment(text: str) -> str:
    """`${env:NAME}` replaced by its value. Raises UserError where it is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(f"environment variable {match[1]} is not set", field=text)
        return os.environ[match[1]]

    return _NAMED.sub(value, text)


def names_in(text: str) -> tuple[str, ...]:
    """The variables that a text names, in order."""
    return tuple(dict.fromkeys(_NAMED.findall(text)))


def has_literal_user_info(address: str) -> bool:
    """Whether an address holds a user's name or password that is not `${env:NAME}`."""
    found = _USER_INFO.search(address)
    return found is not None and not _NAMED.search(found[0])


def as_named(text: str, names: Iterable[str]) -> str:
    """The values of these variables as `${env:NAME}` again, so that `expand_environment` gives the same text back."""
    values = {value: name for name in names if len(value := os.environ.get(name, "")) >= SHORTEST}
    for value in sorted(values, key=len, reverse=True):  # a value may hold another
        text = text.replace(value, f"${{env:{values[value]}}}")
    return text


def redact(value: Any, names: Iterable[str] = ()) -> Any:
    """Texts, dictionaries and lists without secrets: values of these variables and of all whose name says that they are
    secret, passwords in addresses, and what stands under a secret's key."""
    guessed = (name for name, text in os.environ.items() if len(text) >= SHORTEST_GUESSED and _SECRET_VARIABLE.search(name))
    return _redacted(value, (*names, *guessed))


def _redacted(value: Any, hide: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return _PAIR.sub(_hidden_pair, _USER_INFO.sub(_hidden_user, as_named(value, hide)))
    if isinstance(value, dict):
        return {key: _under(key, item, hide) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redacted(item, hide) for item in value)
    return value


def _under(key: Any, item: Any, hide: tuple[str, ...]) -> Any:
    if isinstance(item, str) and _SECRET_KEY.search(str(key)) and not _NAMED.fullmatch(item):
        return HIDDEN
    return _redacted(item, hide)


def _hidden_user(match: re.Match[str]) -> str:
    return match[0] if _NAMED.search(match[0]) else f"{HIDDEN}@"


def _hidden_pair(match: re.Match[str]) -> str:
    return match[0] if _NAMED.search(match[2]) else match[1] + HIDDEN
