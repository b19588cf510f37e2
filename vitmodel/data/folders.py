"""Folders and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name first, then rename it: nobody ever sees a part of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.rename(path)


@contextmanager
def partial_folder(root: Path) -> Iterator[Path]:
    """The hidden folder in which `root` grows, held by one process at a time; another one waits.

    The holder renames it to `root` when it is done; else it stays for the next attempt, or goes if nothing is in it.
    """
    partial, lock_path = root.with_name(f".{root.name}.partial"), root.with_name(f".{root.name}.lock")
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = _locked(lock_path)
    try:
        partial.mkdir(exist_ok=True)
        yield partial
    finally:
        if partial.exists() and not any(partial.iterdir()):
            partial.rmdir()
        lock_path.unlink(missing_ok=True)
        os.close(lock)


def _locked(path: Path) -> int:
    """An open file that is locked and still has its name: its last holder may have removed it while we waited."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except FileNotFoundError:
            pass
        os.close(lock)
