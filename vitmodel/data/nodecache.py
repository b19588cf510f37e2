"""A node's own copies of remote shards: checked when they come, shared by all processes, oldest use gone first.

Files are named by their checksum, so that one copy serves every URL and dataset. Holds no more than its cap.
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

from vitmodel.data.remote import Patience, RemoteError, read_range

CHUNK_BYTES = 2**24  # one request; what a lost connection costs
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoRoomError(Exception):
    """The cache cannot hold this file: its disk is full, or the file is larger than the cap."""


def default_folder() -> Path:
    """`VITSCALE_NODE_CACHE`, or vitscale's place in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("VITSCALE_NODE_CACHE") or Path(base) / "vitscale" / "shards")


def default_cap() -> int:
    """`VITSCALE_NODE_CACHE_BYTES`, or 100 GiB."""
    return int(os.environ.get("VITSCALE_NODE_CACHE_BYTES", str(100 * 2**30)))


@dataclass(frozen=True, kw_only=True)
class NodeCache:
    """A folder of copies."""

    folder: Path = field(default_factory=default_folder)
    cap_bytes: int = field(default_factory=default_cap)

    def open(self, url: str, size: int, sha256: str, patience: Patience) -> io.FileIO:
        """The node's copy of a file, fetched where there is none yet. It stays readable when it is evicted later.

        Raises NoRoomError, or RemoteError where the file is not what its checksum says or cannot be had.
        """
        path = self.folder / sha256
        if (copy := _opened(path, size)) is not None:
            return copy
        if size > self.cap_bytes:
            raise NoRoomError(f"{size} bytes, more than the cache's cap of {self.cap_bytes}")
        try:
            with self._lock(sha256[:2]):  # one process fetches, the others wait and find it there
                return _opened(path, size) or self._fetch(url, path, size, sha256, patience)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise NoRoomError(f"{self.folder}: {error.strerror}") from error
            raise

    def _fetch(self, url: str, path: Path, size: int, sha256: str, patience: Patience) -> io.FileIO:
        self._make_room(size)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            try:
                _download(url, partial, size, sha256, patience)
            except OSError as error:  # others fill the disk, too: what we can give back is our own
                if error.errno not in NO_ROOM:
                    raise
                self._make_room(self.cap_bytes)
                _download(url, partial, size, sha256, patience)
            copy = io.FileIO(partial)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        return copy

    def _make_room(self, size: int) -> None:
        """Evict what was used longest ago until `size` more bytes fit under the cap."""
        with self._lock("evict"):
            copies = []
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):
                    if path.is_file() and not path.name.startswith("."):
                        state = path.stat()
                        copies.append((state.st_mtime_ns, state.st_size, path))
            held = sum(bytes_ for _, bytes_, _ in copies)
            for _, bytes_, path in sorted(copies):
                if held + size <= self.cap_bytes:
                    return
                path.unlink(missing_ok=True)
                held -= bytes_

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        locks = self.folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / name).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # let go when the file closes, also by a process that is killed
            yield


def _opened(path: Path, size: int) -> io.FileIO | None:
    """The copy, marked as used now; None where there is none of the right size."""
    try:
        file = io.FileIO(path)
    except FileNotFoundError:
        return None
    if os.fstat(file.fileno()).st_size != size:
        file.close()
        return None
    os.utime(file.fileno())
    return file


def _download(url: str, partial: Path, size: int, sha256: str, patience: Patience) -> None:
    digest = hashlib.sha256()
    with partial.open("wb") as file:
        for start in range(0, size, CHUNK_BYTES):
            length = min(CHUNK_BYTES, size - start)
            data = read_range(url, start, length, patience, last=start + length == size)
            digest.update(data)
            file.write(data)
    if digest.hexdigest() != sha256:
        raise RemoteError(f"{url}: not the {size} bytes that the index knows: the checksum differs")
