"""The states of a run, and the request that stops a study."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from vitmodel.files import write_json

STOP_FILE = "stop.json"  # of a study: why all its runs are to stop


class State(StrEnum):
    """State of a run."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    DIVERGED = "DIVERGED"
    STALLED = "STALLED"
    SKIPPED = "SKIPPED"
    BUDGET = "BUDGET"
    STOPPED = "STOPPED"  # by hand; it goes on where it was


SAVES = (State.BUDGET, State.STOPPED)  # reasons for a study to stop that reach runs under way: they save first


def ask_to_stop(study: Path, state: State, reason: str) -> bool:
    """Leave word that a study is to stop, for what is then not done in this state. False where it has been left before."""
    path = study / STOP_FILE
    if path.exists():
        return False
    write_json(path, {"state": state, "reason": reason})
    return True
