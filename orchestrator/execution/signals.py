"""A driver that is told to end, by Ctrl-C, by `kill` or at the end of a batch job, lets every run save first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(stop: Callable[[str], None]) -> Iterator[None]:
    """Within: the first of these signals calls `stop` with its reason; a second one does what it would have done."""
    if threading.current_thread() is not threading.main_thread():  # no place for handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def asked(number: int, frame: FrameType | None) -> None:
        restore()
        stop(f"{signal.Signals(number).name} (every run saves first; another one ends the driver at once)")

    for number in SIGNALS:
        signal.signal(number, asked)
    try:
        yield
    finally:
        restore()
