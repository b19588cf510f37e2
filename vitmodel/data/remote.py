"""Bytes behind a URL: `s3://`, `gs://`, `http(s)://` through fsspec, by range, with time limits and retries.

Reads whole ranges or raises RemoteError; never waits without end, never runs a shell (`pipe:` is refused).
Credentials come from the environment, as each provider's library finds them; none stands in a URL or a study.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vitmodel.config.base import UserError

T = TypeVar("T")

SCHEMES = ("s3", "gs", "gcs", "http", "https")
GONE_STATUSES = frozenset(range(400, 500)) - {408, 429}  # HTTP: asking again will not help


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a store is asked for one range: attempts, seconds for each, and a wait that doubles between them."""

    attempts: int = 6
    reply_seconds: float = 60.0
    first_wait_seconds: float = 0.2


class RemoteError(OSError):
    """What lies behind a URL could not be read; the message names the URL and the byte."""


def is_url(root: str | Path) -> bool:
    """Whether this is an address of a store, not a folder. Raises UserError for a kind of address that is not read."""
    scheme, separator, _ = str(root).partition("://")
    if str(root).startswith("pipe:") or (separator and scheme not in SCHEMES):
        raise UserError(
            "this kind of address is not read",
            file=str(root),
            allowed="a folder, " + ", ".join(f"{known}://" for known in SCHEMES),
        )
    if separator and re.search(r"://[^/]*@|[?#]", str(root)):
        raise UserError("no credentials or queries in an address", file=scheme + "://...", allowed="the environment's")
    return bool(separator)


def join(root: str | Path, name: str) -> str:
    """The address of a file below `root`, which is a folder or a URL."""
    return f"{str(root).rstrip('/')}/{name}" if is_url(root) else str(Path(root) / name)


def read_range(url: str, start: int, length: int, patience: Patience, *, last: bool = False) -> bytes:
    """Exactly `length` bytes from byte `start`; the file must end there if they are its `last`. Raises RemoteError."""
    asked = length + last  # a byte more than there should be

    def once() -> bytes:
        data = _reply(url, patience, start, start + asked)
        if len(data) > asked and len(data) >= start + length:  # a server that knows no ranges sends the whole file
            data = data[start : start + asked]
        if len(data) < length or len(data) > asked:
            raise RemoteError(f"{len(data)} bytes came, not {length}")
        return data

    data = _patiently(url, f"at byte {start}", once, patience)
    if len(data) > length:
        raise RemoteError(f"{url}: longer than the {start + length} bytes that the index says: it was changed after indexing")
    return data


def read_whole(url: str, patience: Patience) -> bytes:
    """All bytes of a small file. Raises FileNotFoundError where there is none, else RemoteError."""
    return _patiently(url, "", lambda: _reply(url, patience, None, None), patience)


def size_of(url: str, patience: Patience) -> int | None:
    """Bytes of a file, None where the server does not say. Raises RemoteError."""

    def once() -> int | None:
        size = _call(url, patience, "info")["size"]
        return None if size is None else int(size)

    return _patiently(url, "", once, patience)


def _reply(url: str, patience: Patience, start: int | None, end: int | None) -> bytes:
    return bytes(_call(url, patience, "cat_file", start=start, end=end))


def _call(url: str, patience: Patience, method: str, **arguments: Any) -> Any:
    """One request with a time limit, by whatever filesystem of fsspec serves this kind of URL."""
    import fsspec
    from fsspec.asyn import sync

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{error}: pip install 'vitscale[remote]'", file=url) from None
    call = getattr(files, f"_{method}", None)
    if not files.async_impl or call is None:  # all SCHEMES are asynchronous in the tested versions
        raise UserError("this filesystem of fsspec has no time limits", file=url)
    return sync(files.loop, call, path, timeout=patience.reply_seconds, **arguments)


def _patiently(url: str, where: str, once: Callable[[], T], patience: Patience) -> T:
    """The result of `once`, tried again with growing waits where another attempt may help."""
    for attempt in range(1, patience.attempts + 1):
        try:
            return once()
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:  # every provider's library has errors of its own; the last one is always raised
            gone = isinstance(error, PermissionError) or getattr(error, "status", None) in GONE_STATUSES
            if gone or attempt == patience.attempts:
                cause = str(error) or type(error).__name__
                raise RemoteError(f"{url}: {where}: {cause} (attempt {attempt})".replace(": :", ":")) from error
        time.sleep(patience.first_wait_seconds * 2 ** (attempt - 1))
    raise AssertionError("at least one attempt")
