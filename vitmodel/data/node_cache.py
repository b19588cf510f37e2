"""A node's copies of remote shards, shared by all its processes. A copy is verified when it is downloaded; the least recently
used copies are evicted.

Files are named by their checksum, so that one copy serves every URL and dataset. The cache never exceeds its limit.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vitmodel.data.remote import RemoteError, RetryPolicy, read_range
from vitmodel.files import atomic_path

CHUNK_BYTES = 2**24  # one request; what a lost connection costs
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CacheFullError(Exception):
    """The cache cannot hold this file: its disk is full, or the file is larger than the limit."""


def default_folder() -> Path:
    """`VITSCALE_NODE_CACHE`, or vitscale/shards in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VITSCALE_NODE_CACHE") or Path(base) / "vitscale" / "shards")


def default_limit() -> int:
    """`VITSCALE_NODE_CACHE_BYTES`, or 100 GiB."""
    return int(os.environ.get("VITSCALE_NODE_CACHE_BYTES", str(100 * 2**30)))


@dataclass(frozen=True, kw_only=True)
class NodeCache:
    """A folder of copies of remote files."""

    folder: Path = field(default_factory=default_folder)
    limit_bytes: int = field(default_factory=default_limit)

    def open(self, url: str, size: int, sha256: str, retry_policy: RetryPolicy) -> io.FileIO:
        """The node's copy of a file, downloaded if there is none yet. It stays readable if it is evicted later.

        Raises CacheFullError, or RemoteError if the file cannot be downloaded or does not have this checksum.
        """
        path = self.folder / sha256
        if (copy := _open_copy(path, size)) is not None:
            return copy
        if size > self.limit_bytes:
            raise CacheFullError(f"{size} bytes do not fit into the cache; its limit is {self.limit_bytes}")
        try:
            with self._lock(sha256[:2]):  # one process downloads, the others wait and open its copy
                return _open_copy(path, size) or self._download(url, path, size, sha256, retry_policy)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise CacheFullError(f"{self.folder}: {error.strerror}") from error
            raise

    def _download(self, url: str, path: Path, size: int, sha256: str, retry_policy: RetryPolicy) -> io.FileIO:
        self._evict_for(size)
        try:
            return _download(url, path, size, sha256, retry_policy)
        except OSError as error:  # other programs fill the disk, too: free all that this cache holds
            if error.errno not in DISK_FULL:
                raise
        self._evict_for(self.limit_bytes)
        return _download(url, path, size, sha256, retry_policy)

    def _evict_for(self, size: int) -> None:
        """Evict the least recently used copies until `size` more bytes fit below the limit."""
        with self._lock("evict"):
            copies = []
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):
                    if path.is_file() and not path.name.startswith("."):
                        status = path.stat()
                        copies.append((status.st_mtime_ns, status.st_size, path))
            total = sum(bytes_ for _, bytes_, _ in copies)
            for _, bytes_, path in sorted(copies):
                if total + size <= self.limit_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= bytes_

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released when the file is closed, also if the process is killed
            yield


def _open_copy(path: Path, size: int) -> io.FileIO | None:
    """The copy, marked as used now; None if there is none of this size."""
    try:
        file = io.FileIO(path)
    except FileNotFoundError:
        return None
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        return None
    os.utime(file.fileno())
    return file


def _download(url: str, path: Path, size: int, sha256: str, retry_policy: RetryPolicy) -> io.FileIO:
    """Download a file to `path` and open it."""
    digest = hashlib.sha256()
    with atomic_path(path, flush=False) as partial:
        with partial.open("wb") as file:
            for start in range(0, size, CHUNK_BYTES):
                length = min(CHUNK_BYTES, size - start)
                data = read_range(url, start, length, retry_policy, last=start + length == size)
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != sha256:
            raise RemoteError(f"{url}: the checksum differs from the index: the file was changed, or damaged in transfer")
        return io.FileIO(partial)
