"""The request that stops a study: stop.json in its folder. Limits, signals and `vitscale stop` write it, workers obey it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.store.records import StopRequest, as_json, read
from orchestrator.store.state import State
from vitmodel.files import write_json

STOP_FILE = "stop.json"


def request_stop(study: Path, state: State, reason: str) -> bool:
    """Request that a study stops; runs that are not done get this state. False where a request was there already."""
    if (study / STOP_FILE).exists():
        return False
    write_json(study / STOP_FILE, as_json(StopRequest(state=state, reason=reason)))
    return True


def stop_request(study: Path) -> StopRequest | None:
    """The request to stop this study, None where there is none."""
    return read(study / STOP_FILE, StopRequest)


def clear_stop(study: Path) -> None:
    """Remove a request that an earlier session left."""
    (study / STOP_FILE).unlink(missing_ok=True)
