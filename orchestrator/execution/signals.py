"""Signals that end a driver (Ctrl-C, `kill`, the end of a batch job): every run saves a checkpoint first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """While the body runs, the first of these signals calls `stop` with its reason; a second one has its usual effect."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        restore()
        stop(f"{signal.Signals(number).name} (every run saves a checkpoint first; a second signal ends the driver at once)")

    for number in SIGNALS:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
