"""The preemption flag of this process: SIGTERM, or a caller, sets it; a training in the process saves and stops."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

_preempted = threading.Event()


def handle_sigterm() -> None:
    """Handle SIGTERM as a preemption notice from now on; a second one ends the process. Call in the main thread only."""
    signal.signal(signal.SIGTERM, _on_sigterm)


def set_preempted() -> None:
    """Mark this process as preempted: a training in it saves a checkpoint when its workers synchronise next, and stops."""
    _preempted.set()


def is_preempted() -> bool:
    """Whether this process has received a preemption notice."""
    return _preempted.is_set()


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    if is_preempted():
        os._exit(128 + number)
    set_preempted()
