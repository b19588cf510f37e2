"""Time left of a study: the plan's estimates, corrected by the measured speed once enough work is done."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.plan.records import RunFacts
from orchestrator.store.state import State

OPEN = (State.PLANNED, State.RUNNING)
LEAST_SHARE = 0.05  # of the planned work that must be done before an estimate is shown
LEAST_SECONDS = 20.0  # of training that must have passed: the first steps of a cold process are slow


def planned_seconds_left(runs: Iterable[tuple[RunFacts, State, int]]) -> float:
    """Planned seconds of the open runs among (facts, state, step), without the part of a running one that is done."""
    left = 0.0
    for facts, state, step in runs:
        if state in OPEN:
            done = step / max(1, facts.steps) if state is State.RUNNING else 0.0
            left += facts.placement.seconds * (1 - min(done, 1.0))
    return left


def eta_seconds(elapsed: float, planned_done: float, planned_left: float) -> float | None:
    """Wall-clock seconds left, when `elapsed` seconds were needed for `planned_done` planned seconds of work.

    None while too little is done for an estimate.
    """
    total = planned_done + planned_left
    if planned_left <= 0:
        return 0.0
    if elapsed < LEAST_SECONDS or planned_done < LEAST_SHARE * total:
        return None
    return elapsed * planned_left / planned_done
