"""Finds processes of a study, and waits until they have ended."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil


def family_of(driver: subprocess.Popen[Any]) -> list[psutil.Process]:
    """All processes that a driver has started, except two agents of Ray, which take longer to end."""
    family = psutil.Process(driver.pid).children(recursive=True)
    agents = named(family, "ray::DashboardAgent") + named(family, "ray::RuntimeEnvAgent")
    return [process for process in family if process not in agents]


def named(processes: list[psutil.Process], title: str) -> list[psutil.Process]:
    """Those whose command line contains this title of an actor."""
    matches = []
    for process in processes:
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                matches.append(process)
    return matches


def alive(processes: list[psutil.Process]) -> list[str]:
    """Command lines of those that still run."""
    running = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(" ".join(process.cmdline()) or f"{process.pid}, ending")
    return running


def within(seconds: float, remaining: Callable[[], list[str]]) -> None:
    """Wait until nothing remains; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while left := remaining():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
