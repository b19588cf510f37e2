"""What watches over a training from the side: a notice that this process is to end, and a watch for no progress.

The watch runs in a thread of C (faulthandler), so that it also sees a worker that hangs inside C code; a second,
in Python, ends the process once the stacks are written.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Self

STALLED_EXIT = 75  # exit code of a process that was ended because nothing moved
GRACE_SECONDS = 5.0  # between writing the stacks and ending: other workers write theirs

_notice = threading.Event()


def catch_termination() -> None:
    """From now on SIGTERM is a notice (a second one ends the process). Only in a process's main thread."""
    signal.signal(signal.SIGTERM, _on_notice)


def _on_notice(number: int, frame: FrameType | None) -> None:
    if _notice.is_set():
        os._exit(128 + number)
    give_notice()


def give_notice() -> None:
    """Tell this process that it will end: a training in it saves where its workers meet next, and stops."""
    _notice.set()


def has_notice() -> bool:
    """Whether this process was told that it will end."""
    return _notice.is_set()


class StallGuard:
    """Within `with`: after `seconds` without a `beat` all threads' stacks go to `path`, `on_stall` is called, it exits."""

    def __init__(self, seconds: float | None, path: Path, on_stall: Callable[[], None]) -> None:
        self._seconds, self._path, self._on_stall = seconds, path, on_stall
        self._last = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w")
            self.beat()
            threading.Thread(target=self._watch, args=(self._seconds,), name="stall-guard", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._path.unlink()

    def beat(self) -> None:
        """A sign of progress. Cheap enough for every step: the timer is set again once a second at most."""
        now = time.monotonic()
        if self._seconds is not None and now - self._last > min(1.0, self._seconds / 10):
            self._last = now
            faulthandler.dump_traceback_later(self._seconds, file=self._file)

    def _watch(self, seconds: float) -> None:
        while not self._over.wait(min(1.0, seconds / 10)):
            if time.monotonic() - self._last > seconds + GRACE_SECONDS:
                self._on_stall()
                os._exit(STALLED_EXIT)
