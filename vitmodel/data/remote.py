"""Reads files behind a URL: `s3://`, `gs://`, `http(s)://` through fsspec, by byte range, with timeouts and retries.

A read returns the whole range or raises RemoteError; it never waits without a limit and never runs a shell (`pipe:` is
refused). Credentials come from the environment, as each provider's library finds them; a URL or a study never holds one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vitmodel.config.base import UserError

T = TypeVar("T")

SCHEMES = ("s3", "gs", "gcs", "http", "https")
PERMANENT_STATUSES = frozenset(range(400, 500)) - {408, 429}  # HTTP: a retry gets the same reply


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a request is tried: attempts, a timeout for each, and a wait between them that doubles every time."""

    attempts: int = 6
    timeout_seconds: float = 60.0
    first_wait_seconds: float = 0.2


class RemoteError(OSError):
    """A file behind a URL could not be read. The message names the URL and the byte."""


def is_url(root: str | Path) -> bool:
    """True for the URL of a store, False for a folder. Raises UserError for an unsupported kind of address."""
    scheme, separator, _ = str(root).partition("://")
    if str(root).startswith("pipe:") or (separator and scheme not in SCHEMES):
        raise UserError(
            "unsupported kind of address",
            file=str(root),
            allowed="a folder, " + ", ".join(f"{known}://" for known in SCHEMES),
        )
    if separator and re.search(r"://[^/]*@|[?#]", str(root)):
        raise UserError(
            "a URL must not hold credentials or a query",
            file=scheme + "://...",
            allowed="credentials in the environment",
        )
    return bool(separator)


def join(root: str | Path, name: str) -> str:
    """The path or URL of a file below `root`, which is a folder or a URL."""
    return f"{str(root).rstrip('/')}/{name}" if is_url(root) else str(Path(root) / name)


def read_range(url: str, start: int, length: int, retry_policy: RetryPolicy, *, last: bool = False) -> bytes:
    """Exactly `length` bytes from byte `start`. With `last`, the file must end after them. Raises RemoteError."""
    requested = length + last  # one byte more shows whether the file is longer than it should be

    def attempt() -> bytes:
        data = _read(url, retry_policy, start, start + requested)
        if len(data) > requested and len(data) >= start + length:  # the server ignores ranges and sends the whole file
            data = data[start : start + requested]
        if len(data) < length or len(data) > requested:
            raise RemoteError(f"received {len(data)} bytes, expected {length}")
        return data

    data = _retry(url, f"at byte {start}", attempt, retry_policy)
    if len(data) > length:
        raise RemoteError(f"{url}: longer than the {start + length} bytes in the index: the file was changed after indexing")
    return data


def read_whole(url: str, retry_policy: RetryPolicy) -> bytes:
    """All bytes of a small file. Raises FileNotFoundError if it does not exist, RemoteError for any other failure."""
    return _retry(url, "", lambda: _read(url, retry_policy, None, None), retry_policy)


def size_of(url: str, retry_policy: RetryPolicy) -> int | None:
    """Bytes of a file, None if the server does not report it. Raises RemoteError."""

    def attempt() -> int | None:
        size = _call(url, retry_policy, "info")["size"]
        return None if size is None else int(size)

    return _retry(url, "", attempt, retry_policy)


def _read(url: str, retry_policy: RetryPolicy, start: int | None, end: int | None) -> bytes:
    return bytes(_call(url, retry_policy, "cat_file", start=start, end=end))


def _call(url: str, retry_policy: RetryPolicy, method: str, **arguments: Any) -> Any:
    """One request with a timeout, through the fsspec filesystem for this kind of URL."""
    import fsspec
    from fsspec.asyn import sync

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(f"{error}: pip install 'vitscale[remote]'", file=url) from None
    call = getattr(files, f"_{method}", None)
    if not files.async_impl or call is None:  # all SCHEMES are asynchronous in the tested versions
        raise UserError("this fsspec filesystem does not support timeouts", file=url)
    return sync(files.loop, call, path, timeout=retry_policy.timeout_seconds, **arguments)


def _retry(url: str, where: str, attempt: Callable[[], T], retry_policy: RetryPolicy) -> T:
    """The result of `attempt`, retried with growing waits unless the failure is permanent. Raises RemoteError."""
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential  # planning imports this module

    retrying = Retrying(
        stop=stop_after_attempt(retry_policy.attempts),
        wait=wait_exponential(multiplier=retry_policy.first_wait_seconds),
        retry=retry_if_exception(_may_succeed_later),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:  # every provider's library has its own errors
        cause = str(error) or type(error).__name__
        count = retrying.statistics["attempt_number"]
        raise RemoteError(f"{url}: {where}: {cause} (attempt {count})".replace(": :", ":")) from error


def _may_succeed_later(error: BaseException) -> bool:
    permanent = FileNotFoundError | PermissionError | UserError
    is_temporary = isinstance(error, Exception) and not isinstance(error, permanent)
    return is_temporary and getattr(error, "status", None) not in PERMANENT_STATUSES
