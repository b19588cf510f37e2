"""What tests ask of real processes: which there are, and whether they are gone."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil


def family_of(driver: subprocess.Popen[Any]) -> list[psutil.Process]:
    """All processes that a driver has started, but for two of Ray itself, which take longer."""
    family = psutil.Process(driver.pid).children(recursive=True)
    agents = named(family, "ray::DashboardAgent") + named(family, "ray::RuntimeEnvAgent")
    return [process for process in family if process not in agents]


def named(processes: list[psutil.Process], title: str) -> list[psutil.Process]:
    """Ray's processes of this kind of actor."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


def alive(processes: list[psutil.Process]) -> list[str]:
    """Titles of those that still run."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()) or f"{process.pid}, on its way out")
    return found


def within(seconds: float, remaining: Callable[[], list[str]]) -> None:
    """Until nothing remains."""
    deadline = time.monotonic() + seconds
    while left := remaining():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
