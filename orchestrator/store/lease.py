"""The lease of a study: one live driver at a time."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitmodel.files import read_json, write_json

HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0  # a lease not renewed for this long belongs to a dead driver


class LeaseHeldError(Exception):
    """Another live driver holds the study."""


class Lease:
    """The right to drive a study: one live driver at a time."""

    def __init__(self, folder: Path, on_lost: Callable[[], None] = lambda: None) -> None:
        """`on_lost` is called, in a thread, where another driver has taken the lease over, this one having been silent."""
        self.path = folder / "lease.json"
        self.token = uuid.uuid4().hex
        self._on_lost = on_lost
        self._writing = threading.Lock()
        self._released = threading.Event()

    def take(self) -> None:
        """Take the lease, over a dead driver's if need be. Raises LeaseHeldError."""
        held = read_json(self.path)
        if held and is_alive(held):
            raise LeaseHeldError(f"driver {held['pid']} on {held['host']} is at it (lease {self.path})")
        self.renew()
        time.sleep(0.05)  # of two that took it at once, the later writer stays
        if read_json(self.path)["token"] != self.token:
            raise LeaseHeldError("another driver started at the same moment")
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError), self._writing:  # a disk that is full or away for a moment: the next beat tries again
                if self._released.is_set():
                    return
                held = read_json(self.path)
                if held and held["token"] != self.token:
                    self._on_lost()
                    return
                self.renew()

    def renew(self) -> None:
        """Heartbeat."""
        write_json(self.path, {"token": self.token, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})

    def release(self) -> None:
        """End the heartbeat and give the lease back."""
        self._released.set()
        with self._writing:  # no beat under way comes after it
            held = read_json(self.path)
            if held and held["token"] == self.token:
                self.path.unlink(missing_ok=True)


def is_alive(held: dict[str, Any]) -> bool:
    """Whether the driver of a lease lives: its heart beats and, on this host, its process is there."""
    if held["host"] != socket.gethostname():
        return time.time() - float(held["time"]) < LEASE_SECONDS
    try:
        os.kill(int(held["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return time.time() - float(held["time"]) < LEASE_SECONDS
