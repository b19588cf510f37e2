"""Atomic writes: a file or folder appears complete or not at all. Standard library only.

Every module that writes a file another process may read uses this one.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary path in the same folder to write to. It replaces `path`, flushed to disk, when the body ends without an
    error, and is removed otherwise. The folder is created. Raises OSError.

    `flush=False` is for copies that can be made again: a power failure may lose them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        if flush:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises OSError."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically: readers see the old or the new content. Raises OSError."""
    write_bytes(path, json.dumps(data, indent=1).encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where the file does not exist. Raises ValueError for broken JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def partial_folder(root: Path) -> Iterator[Path]:
    """A hidden folder in which `root` is built, locked by one process at a time; other processes wait.

    The holder renames it to `root` when it is complete. Otherwise it stays for the next attempt, or is removed when empty.
    """
    partial, lock_path = root.with_name(f".{root.name}.partial"), root.with_name(f".{root.name}.lock")
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(lock_path)
    try:
        partial.mkdir(exist_ok=True)
        yield partial
    finally:
        if partial.exists() and not any(partial.iterdir()):
            partial.rmdir()
        lock_path.unlink(missing_ok=True)
        os.close(lock)


def _lock(path: Path) -> int:
    """An open, locked file descriptor of `path`. Waits while another process holds it, which may remove the file at its end."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)
