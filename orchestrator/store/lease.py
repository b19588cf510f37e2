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

from orchestrator.store.records import LeaseRecord, as_json, read
from orchestrator.units import duration
from vitmodel.config.base import UserError
from vitmodel.files import write_json

LEASE_FILE = "lease.json"
HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0  # a lease without a heartbeat for this long belongs to a dead driver


class LeaseHeldError(Exception):
    """Another live driver holds the study."""


def lease_of(study: Path) -> LeaseRecord | None:
    """The lease on a study's folder. None without one; a damaged file counts as none."""
    try:
        return read(study / LEASE_FILE, LeaseRecord)
    except UserError:
        return None


class Lease:
    """The right to drive a study: one live driver at a time."""

    def __init__(self, folder: Path, on_lost: Callable[[], None] = lambda: None) -> None:
        """`on_lost` is called, in a thread, when another driver has taken the lease after this one missed its heartbeats."""
        self.path = folder / LEASE_FILE
        self.token = uuid.uuid4().hex
        self._folder, self._on_lost = folder, on_lost
        self._writing = threading.Lock()
        self._released = threading.Event()

    def take(self) -> None:
        """Take the lease, also from a dead driver. Raises LeaseHeldError."""
        lease = lease_of(self._folder)
        if lease and is_alive(lease):
            raise LeaseHeldError(
                f"the study is locked by driver {lease.pid} on host {lease.host} "
                f"(last heartbeat {duration(time.time() - lease.time)} ago, lease {self.path}); "
                "stop that driver or wait until it ends"
            )
        self.renew()
        time.sleep(0.05)  # of two drivers that take it at the same moment, the later writer keeps it
        if not self._is_mine():
            raise LeaseHeldError("another driver started at the same moment and locked the study")
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def _is_mine(self) -> bool:
        lease = lease_of(self._folder)
        return lease is not None and lease.token == self.token

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError), self._writing:  # a full or unavailable disk: the next heartbeat tries again
                if self._released.is_set():
                    return
                lease = lease_of(self._folder)
                if lease and lease.token != self.token:
                    self._on_lost()
                    return
                self.renew()

    def renew(self) -> None:
        """Write a heartbeat."""
        record = LeaseRecord(token=self.token, host=socket.gethostname(), pid=os.getpid(), time=time.time())
        write_json(self.path, as_json(record))

    def release(self) -> None:
        """End the heartbeat and give the lease back."""
        self._released.set()
        with self._writing:  # no heartbeat is written after this
            if self._is_mine():
                self.path.unlink(missing_ok=True)


def is_alive(lease: LeaseRecord) -> bool:
    """Whether the driver of a lease is alive: its heartbeat is recent and, on this host, its process exists."""
    is_recent = time.time() - lease.time < LEASE_SECONDS
    if lease.host != socket.gethostname():
        return is_recent
    try:
        os.kill(lease.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return is_recent
