"""The states of a run."""

from __future__ import annotations

from enum import StrEnum


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
    STOPPED = "STOPPED"  # by the user; it resumes where it stopped


SAVING_STOPS = (State.BUDGET, State.STOPPED)  # stops that also reach running trainings, which save a checkpoint first
FAILURES = (State.FAILED, State.DIVERGED, State.STALLED)
