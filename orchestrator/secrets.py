"""`${env:NAME}`: read where it is needed, never written. Removes secrets from everything that leaves the process.

A study contains the name of a variable, not its value. The driver or worker that needs the value reads it. What is written or
sent (plans, bundles, failures, logs, MLflow, webhooks, reports) passes through `redact`, which turns values back into names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from vitmodel.config.base import UserError

HIDDEN = "***"
SHORTEST = 4  # characters; replacing a shorter value would change unrelated text
SHORTEST_GUESSED = 8  # of a variable that no study names: SOME_KEY=true is not a secret
_NAMED = re.compile(r"\$\{env:(\w+)\}")
_SECRET_WORDS = r"token|secret|passw(?:or)?d|pwd|api_?key|access_?key|private_?key|credentials?|authorization|webhook|signature"
_SECRET_KEY = re.compile(rf"(?:^|[_.-])(?:{_SECRET_WORDS})$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(rf"(?:^|_)(?:{_SECRET_WORDS}|key)(?:_id)?$", re.IGNORECASE)
_NO_SECRETS = ("PWD", "OLDPWD")  # the working directory, whose name only looks like that of a password
_USER_INFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
_PAIR = re.compile(
    rf"((?:^|[\s?&;,'\"_-])(?:{_SECRET_WORDS})[\"']?\s*[=:]\s*[\"']?(?:bearer\s+)?)([^\s&;,'\"]+)", re.IGNORECASE
)


def expand_environment(text: str) -> str:
    """The text with the values of its variables. Raises UserError for a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise UserError(f"environment variable {match[1]} is not set", field=text)
        return os.environ[match[1]]

    return _NAMED.sub(value, text)


def names_in(text: str) -> tuple[str, ...]:
    """The variables in a text, in order."""
    return tuple(dict.fromkeys(_NAMED.findall(text)))


def has_literal_user_info(address: str) -> bool:
    """Whether an address contains a user name or password that is not `${env:NAME}`."""
    user_info = _USER_INFO.search(address)
    return user_info is not None and not _NAMED.search(user_info[0])


def as_named(text: str, names: Iterable[str]) -> str:
    """The text with `${env:NAME}` in place of the values of these variables: the inverse of `expand_environment`."""
    values = {value: name for name in names if len(value := os.environ.get(name, "")) >= SHORTEST}
    for value in sorted(values, key=len, reverse=True):  # a value may contain another
        text = text.replace(value, f"${{env:{values[value]}}}")
    return text


def redact(value: Any, names: Iterable[str] = ()) -> Any:
    """Text, dictionaries and lists without secrets.

    Secrets are the values of the variables `names` and of all variables whose name looks like that of a secret, passwords in
    addresses, and values under a key that looks like that of a secret.
    """
    guessed = (name for name, text in os.environ.items() if _looks_secret(name) and len(text) >= SHORTEST_GUESSED)
    return _redacted(value, (*names, *guessed))


def _looks_secret(variable: str) -> bool:
    return variable not in _NO_SECRETS and _SECRET_VARIABLE.search(variable) is not None


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
