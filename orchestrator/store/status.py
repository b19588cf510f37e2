"""The status of a study, from the store alone: driver, state, attempts, step, heartbeat and cause of every run, time left.

Reads what drivers and workers leave. Needs no living driver, no Ray and no MLflow.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.plan.records import PlanFile, RunFacts
from orchestrator.store.attempts import attempts_of
from orchestrator.store.curve import Entry
from orchestrator.store.eta import planned_seconds_left
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.lease import is_alive, lease_of
from orchestrator.store.state import State
from orchestrator.store.stop import stop_request
from orchestrator.units import duration

TAIL_BYTES = 64 * 1024  # of a metrics file: its last entries
ACTIVE_SECONDS = 120.0  # a run with metrics newer than this is being worked on


@dataclass(frozen=True, kw_only=True)
class DriverStatus:
    """The driver that holds the study's lease."""

    host: str
    pid: int
    heartbeat_seconds: float  # since its last heartbeat
    is_alive: bool


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The status of one run."""

    run_id: str
    label: str
    state: State
    attempts: int
    step: int
    steps: int
    images_per_second: float
    heartbeat_seconds: float | None  # since its newest metrics, while it has neither result nor failure
    cause: str  # of its failure, or of the end of the attempt before the current one


@dataclass(frozen=True, kw_only=True)
class Status:
    """The status of a study."""

    study: str
    driver: DriverStatus | None
    stopping: str  # why no further run starts
    counts: dict[str, int]
    work_seconds: float  # of one worker group: planned for the open runs, corrected by the measured speed
    eta_seconds: float | None  # None without a live driver, or before the first run is done
    runs: tuple[RunStatus, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing changes without another command."""
        return self.driver is None or not self.driver.is_alive

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def survey(store: Store, plan: PlanFile) -> Status:
    """The status of all runs of a plan."""
    now = time.time()
    folder = store.study(plan.study)
    runs = tuple(_run_status(store.run(facts.run_id), facts, now) for facts in plan.runs)
    driver = _driver(folder, now)
    work = _work_seconds(store, plan, runs)
    active = sum(run.state is State.RUNNING and (run.heartbeat_seconds or 0) < ACTIVE_SECONDS for run in runs)
    has_basis = any(run.state is State.DONE for run in runs)
    stop = stop_request(folder)
    return Status(
        study=plan.study,
        driver=driver,
        stopping=stop.reason if stop else "",
        counts={str(state): number for state, number in sorted(Counter(run.state for run in runs).items())},
        work_seconds=work,
        eta_seconds=work / max(1, active) if driver and driver.is_alive and has_basis else None,
        runs=runs,
    )


def _driver(folder: Path, now: float) -> DriverStatus | None:
    lease = lease_of(folder)
    if lease is None:
        return None
    return DriverStatus(host=lease.host, pid=lease.pid, heartbeat_seconds=now - lease.time, is_alive=is_alive(lease))


def _run_status(folder: RunFolder, facts: RunFacts, now: float) -> RunStatus:
    state, files = folder.state(), folder.metrics_files()
    last = _last_entry(files[-1]) if files and state is not State.DONE else {}
    is_running = state is State.RUNNING
    return RunStatus(
        run_id=facts.run_id,
        label=facts.label,
        state=state,
        attempts=len(files),
        step=facts.steps if state is State.DONE else int(last.get("step", 0)),
        steps=facts.steps,
        images_per_second=float(last.get("speed/images_per_second", 0.0)) if is_running else 0.0,
        heartbeat_seconds=now - max(files[-1].stat().st_mtime, last.get("time", 0.0)) if is_running else None,
        cause=_cause(folder, state, len(files)),
    )


def _cause(folder: RunFolder, state: State, attempts: int) -> str:
    """Why there is no result, or why there is more than one attempt."""
    if failure := folder.failure():
        return failure.reason.partition("\n")[0]
    if state is not State.RUNNING or attempts < 2:
        return ""
    before = attempts_of(folder)[-2]
    return f"after {before.end}: {before.reason}".partition("\n")[0]


def _last_entry(path: Path) -> Entry:
    """The newest complete metrics entry, read from the end: files of long runs are large."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        lines = file.read().splitlines()
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:  # being written, or cut off by a kill
            continue
        if isinstance(entry, dict):
            return entry
    return {}


def _work_seconds(store: Store, plan: PlanFile, runs: tuple[RunStatus, ...]) -> float:
    """Planned seconds left, times actual over planned seconds of the runs that are done."""
    left = planned_seconds_left((facts, run.state, run.step) for facts, run in zip(plan.runs, runs, strict=True))
    if not left:
        return 0.0
    done = [facts for facts, run in zip(plan.runs, runs, strict=True) if run.state is State.DONE]
    planned = sum(facts.placement.seconds for facts in done)
    results = [store.run(facts.run_id).result() for facts in done]
    actual = sum(result.metrics.get("time/run_seconds", 0.0) for result in results if result)
    return left * (actual / planned if planned and actual else 1.0)


def as_text(status: Status) -> str:
    """One line per run, then the driver and the time left."""
    lines = [_line(run, status) for run in status.runs]
    states = ", ".join(f"{number} {state.lower()}" for state, number in status.counts.items())
    lines.append(f"{status.counts.get('DONE', 0)} of {len(status.runs)} runs done ({states})")
    if status.stopping:
        lines.append(f"stopping: {status.stopping}")
    lines.append(_driver_text(status))
    return "\n".join(lines)


def _line(run: RunStatus, status: Status) -> str:
    parts = [f"{run.state:9} {run.attempts:2} {run.run_id:24} {run.label}"]
    if run.state is State.RUNNING:
        parts.append(f"step {run.step:,}/{run.steps:,}, last heartbeat {duration(run.heartbeat_seconds or 0.0)} ago")
        parts += [f"{run.images_per_second:,.0f} images/s"] if run.images_per_second else []
        parts += ["no driver is working on it"] if status.is_over else []
    return "  ".join([*parts, *([run.cause] if run.cause else [])])


def _driver_text(status: Status) -> str:
    driver, work = status.driver, f"{duration(status.work_seconds)} of work left"
    if driver is None:
        return f"no driver; {work}" if status.work_seconds else "no driver"
    who = f"driver {driver.pid} on host {driver.host}, last heartbeat {duration(driver.heartbeat_seconds)} ago"
    if not driver.is_alive:
        return f"{who}: dead; {work}; run the same command to continue"
    left = f"about {duration(status.eta_seconds)} left" if status.eta_seconds is not None else work
    return f"{who}: alive; {left}"
