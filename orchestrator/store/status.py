"""How a study stands, from the store alone: its driver, every run with state, attempts, step, heartbeat and cause, time left.

Reads what drivers and workers leave; needs neither of them alive, nor Ray, nor MLflow.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.store.attempts import attempts_of
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.lease import is_alive
from orchestrator.store.state import STOP_FILE, State
from vitmodel.files import read_json

TAIL_BYTES = 64 * 1024  # of a metrics file: its last entries
ALIVE_SECONDS = 120.0  # a run that said something in this time is being worked on
OPEN = (State.PLANNED, State.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Driver:
    """Who holds the study's lease."""

    host: str
    pid: int
    heartbeat_seconds: float  # since it last said that it lives
    is_alive: bool


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run as it stands."""

    run_id: str
    label: str
    state: State
    attempts: int
    step: int
    steps: int
    images_per_second: float
    heartbeat_seconds: float | None  # since its newest metrics, while it has neither result nor failure
    cause: str  # of its failure, or of how the attempt before this one ended


@dataclass(frozen=True, kw_only=True)
class Status:
    """A study as it stands."""

    study: str
    driver: Driver | None
    stopping: str  # why no further run is begun
    counts: dict[str, int]
    work_seconds: float  # of a worker group: planned for what is open, corrected by how the plan has held
    eta_seconds: float | None  # None where nobody is at work
    runs: tuple[RunStatus, ...]

    @property
    def is_over(self) -> bool:
        """Nothing changes any more without another command."""
        return self.driver is None or not self.driver.is_alive

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def survey(store: Store, plan: dict[str, Any]) -> Status:
    """Look at all runs of a plan (plan.json, or what would be written there)."""
    now = time.time()
    folder = store.study(plan["study"])
    runs = tuple(_run_status(store.run(facts["run_id"]), facts, now) for facts in plan["runs"])
    driver = _driver(folder, now)
    work = _work_seconds(store, plan, runs)
    at_work = sum(run.state is State.RUNNING and (run.heartbeat_seconds or 0) < ALIVE_SECONDS for run in runs)
    return Status(
        study=plan["study"],
        driver=driver,
        stopping=(read_json(folder / STOP_FILE) or {}).get("reason", ""),
        counts={str(state): number for state, number in sorted(Counter(run.state for run in runs).items())},
        work_seconds=work,
        eta_seconds=work / max(1, at_work) if driver and driver.is_alive else None,
        runs=runs,
    )


def _driver(folder: Path, now: float) -> Driver | None:
    held = read_json(folder / "lease.json")
    if not held:
        return None
    return Driver(host=held["host"], pid=held["pid"], heartbeat_seconds=now - held["time"], is_alive=is_alive(held))


def _run_status(folder: RunFolder, facts: dict[str, Any], now: float) -> RunStatus:
    state, files = folder.state(), folder.metrics_files()
    last = _last_entry(files[-1]) if files and state is not State.DONE else {}
    return RunStatus(
        run_id=facts["run_id"],
        label=facts["label"],
        state=state,
        attempts=len(files),
        step=facts["steps"] if state is State.DONE else int(last.get("step", 0)),
        steps=facts["steps"],
        images_per_second=float(last.get("speed/images_per_second", 0.0)) if state is State.RUNNING else 0.0,
        heartbeat_seconds=now - max(files[-1].stat().st_mtime, last.get("time", 0.0)) if state is State.RUNNING else None,
        cause=_cause(folder, state, len(files)),
    )


def _cause(folder: RunFolder, state: State, attempts: int) -> str:
    """Why there is no result, or why there is more than one attempt."""
    if failure := folder.failure():
        return str(failure["reason"]).partition("\n")[0]
    if state is not State.RUNNING or attempts < 2:
        return ""
    before = attempts_of(folder)[-2]
    return f"after {before.end}: {before.reason}".partition("\n")[0]


def _last_entry(path: Path) -> dict[str, Any]:
    """The newest whole metrics entry, from the end of the file: files of long runs are large."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:  # being written, or cut by a kill
            continue
        if isinstance(entry, dict):
            return entry
    return {}


def _work_seconds(store: Store, plan: dict[str, Any], runs: tuple[RunStatus, ...]) -> float:
    """Planned time of what is open, the started part taken off, times actual over planned time of what is done."""
    planned = {facts["run_id"]: facts["placement"]["seconds"] for facts in plan["runs"]}
    left = sum(planned[run.run_id] * (1 - run.step / max(1, run.steps)) for run in runs if run.state in OPEN)
    if not left:
        return 0.0
    done = [run.run_id for run in runs if run.state is State.DONE]
    expected = sum(planned[run_id] for run_id in done)
    taken = sum((store.run(run_id).result() or {}).get("metrics", {}).get("time/run_seconds", 0.0) for run_id in done)
    return left * (taken / expected if expected and taken else 1.0)


# --- for a person ---------------------------------------------------------------------------------------------


def as_text(status: Status) -> str:
    """A line a run, then who drives the study and how long it will take."""
    lines = [_line(run, status) for run in status.runs]
    states = ", ".join(f"{number} {state.lower()}" for state, number in status.counts.items())
    lines.append(f"{status.counts.get('DONE', 0)} of {len(status.runs)} runs done ({states})")
    if status.stopping:
        lines.append(f"stopping: {status.stopping}")
    lines.append(_who(status))
    return "\n".join(lines)


def _line(run: RunStatus, status: Status) -> str:
    words = [f"{run.state:9} {run.attempts:2} {run.run_id:24} {run.label}"]
    if run.state is State.RUNNING:
        words.append(f"step {run.step:,}/{run.steps:,}, heard of {duration(run.heartbeat_seconds or 0.0)} ago")
        words += [f"{run.images_per_second:,.0f} images/s"] if run.images_per_second else []
        words += ["nobody is at it"] if status.is_over else []
    return "  ".join([*words, *([run.cause] if run.cause else [])])


def _who(status: Status) -> str:
    driver, work = status.driver, f"{duration(status.work_seconds)} of work left"
    if driver is None:
        return f"no driver; {work}" if status.work_seconds else "no driver"
    where = f"{driver.pid} on {driver.host}, heard of {duration(driver.heartbeat_seconds)} ago"
    if not driver.is_alive:
        return f"driver {where}: dead; {work}: the same `run` command goes on"
    return f"driver {where}: alive; about {duration(status.eta_seconds or 0.0)} left"


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3.5 h`, `12 d`."""
    for size, unit in ((172800, "d"), (7200, "h"), (120, "min")):
        if seconds >= size:
            value = seconds / {"d": 86400, "h": 3600, "min": 60}[unit]
            return f"{value:.1f} {unit}" if unit == "h" else f"{value:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
