"""A watchdog for stalls: ends a process that makes no progress, after writing the stacks of all its threads.

The stacks are written by faulthandler's C thread, so that a worker that hangs inside C code is detected too. A second
thread, in Python, ends the process after that.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

STALLED_EXIT = 75  # exit code of a process that the watchdog ended
GRACE_SECONDS = 5.0  # between writing the stacks and ending, so that other workers can write theirs


class StallWatchdog:
    """Within `with`: `seconds` after the last `reset`, writes all stacks to `path`, calls `on_stall`, and ends the process."""

    def __init__(self, seconds: float | None, path: Path, on_stall: Callable[[], None]) -> None:
        self._seconds, self._path, self._on_stall = seconds, path, on_stall
        self._last_reset = 0.0
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w")
            self.reset()
            threading.Thread(target=self._watch, args=(self._seconds,), name="stall-watchdog", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        if self._seconds is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._path.unlink()

    def reset(self) -> None:
        """Report progress. Cheap enough for every step: the timer restarts at most once a second."""
        now = time.monotonic()
        if self._seconds is not None and now - self._last_reset > min(1.0, self._seconds / 10):
            self._last_reset = now
            faulthandler.dump_traceback_later(self._seconds, file=self._file)

    def _watch(self, seconds: float) -> None:
        while not self._is_over.wait(min(1.0, seconds / 10)):
            if time.monotonic() - self._last_reset > seconds + GRACE_SECONDS:
                self._on_stall()
                os._exit(STALLED_EXIT)
