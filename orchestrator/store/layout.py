"""The layout of the store. The store is the only source of truth about runs.

    runs/<run_id>/       config.json, metrics-<attempt>.jsonl, end-<attempt>.json, checkpoints/, stacks/, model.safetensors,
                         failure.json | result.json
    studies/<name>/      plan.json, bundles/<id>.json, lease.json, stop.json, tracking.json, results.csv, report.html
    data/<dataset>/      datasets that were generated or packed for a study
    imports/<name>/      tables of published results
    mlflow.db            tracking

`result.json`, written last and atomically, marks a run as done. A run id means the same result in every study.
The content of these files: records.py.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.plan.records import PlanFile
from orchestrator.store.curve import Entry, join_attempts, json_lines, read_attempt
from orchestrator.store.records import Failure, RunRecord, RunResult, as_json, read
from orchestrator.store.state import State
from vitmodel.config.base import UserError
from vitmodel.files import write_json

FREE_BYTES = 64 * 2**20  # with less free space than this nothing is started


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. Reading raises UserError for a damaged file."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    def result(self) -> RunResult | None:
        """The result of a finished run, else None."""
        return read(self.path / "result.json", RunResult)

    def failure(self) -> Failure | None:
        """Why the last attempt ended without a result."""
        return read(self.path / "failure.json", Failure)

    def record(self) -> RunRecord | None:
        """Configuration and planned facts, None for a run that was never started."""
        return read(self.path / "config.json", RunRecord)

    def state(self) -> State:
        """DONE, the state of its failure, RUNNING once started, else PLANNED."""
        if (self.path / "result.json").exists():
            return State.DONE
        if failure := self.failure():
            return failure.state
        return State.RUNNING if self.attempts() else State.PLANNED

    def attempts(self) -> int:
        """How often the run was started."""
        return len(self.metrics_files())

    def metrics_files(self) -> list[Path]:
        """One append-only file for each attempt, in order."""
        return sorted(self.path.glob("metrics-*.jsonl"))

    def begin(self, record: RunRecord, workers: int = 1, session: str = "") -> Path:
        """Start an attempt with `workers` workers under the lease `session`. Writes config.json; returns the metrics file.

        The metrics file is created exclusively: its number is the number of the attempt.
        """
        write_json(self.path / "config.json", as_json(record))
        (self.path / "failure.json").unlink(missing_ok=True)
        for number in itertools.count(self.attempts()):
            metrics = self.path / f"metrics-{number:03d}.jsonl"
            with suppress(FileExistsError), metrics.open("x") as file:
                file.write(json.dumps({"begin": time.time(), "workers": workers, "session": session}) + "\n")
                return metrics
        raise AssertionError("unreachable: itertools.count does not end")

    def spent(self, attempts: int | None = None) -> tuple[float, float]:
        """(seconds, worker-seconds) of the first `attempts` attempts, or of all, up to the last metrics of each."""
        seconds = worker_seconds = 0.0
        for path in self.metrics_files()[:attempts]:
            entries = list(json_lines(path))
            if len(entries) > 1:
                span = max(entry.get("time", 0.0) for entry in entries) - entries[0]["begin"]
                seconds, worker_seconds = seconds + span, worker_seconds + span * entries[0]["workers"]
        return seconds, worker_seconds

    def fail(self, state: State, reason: str) -> None:
        """Record why there is no result. A finished run is never overwritten."""
        if not (self.path / "result.json").exists():
            write_json(self.path / "failure.json", as_json(Failure(state=state, reason=reason, time=time.time())))

    def finish(self, result: RunResult) -> None:
        """Mark the run as done."""
        write_json(self.path / "result.json", as_json(result))
        (self.path / "failure.json").unlink(missing_ok=True)

    def metrics(self) -> list[Entry]:
        """Metrics of all attempts as one curve; of a finished run, the curve of the attempt with the result."""
        attempts = [read_attempt(path, number) for number, path in enumerate(self.metrics_files())]
        result = self.result()
        return join_attempts(attempts, result.attempt if result else None)


def attempt_number(metrics_file: Path) -> int:
    """The number of the attempt that a metrics file belongs to."""
    return int(metrics_file.stem.rpartition("-")[2])


@dataclass(frozen=True)
class Store:
    """A storage folder."""

    root: Path

    def run(self, run_id: str) -> RunFolder:
        return RunFolder(self.root / "runs" / run_id)

    def study(self, name: str) -> Path:
        return self.root / "studies" / name

    def plan(self, name: str) -> PlanFile | None:
        """The last plan of a study that was started here. Raises UserError for a damaged file."""
        return read(self.study(name) / "plan.json", PlanFile)

    def write_plan(self, plan: PlanFile) -> None:
        """Write plan.json of its study."""
        write_json(self.study(plan.study) / "plan.json", plan.as_data())

    def skip_reason(self, parent: str | None) -> str:
        """Why a run that starts from `parent` cannot run; empty where it can."""
        is_ready = parent is None or self.run(parent).state() is State.DONE
        return "" if is_ready else f"parent {parent} has no result"

    def check_writable(self) -> None:
        """Raise UserError where the folder cannot be written or is nearly full: found before training, not after it."""
        probe = self.root / f".probe-{uuid.uuid4().hex[:8]}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x" * 4096)
            probe.unlink()
            free = os.statvfs(self.root).f_bavail * os.statvfs(self.root).f_frsize
        except OSError as error:
            raise UserError(
                f"storage folder cannot be written: {error.strerror}", file=str(self.root), field="storage.path"
            ) from None
        if free < FREE_BYTES:
            raise UserError(
                f"storage has {free >> 20} MiB free", file=str(self.root), field="storage.path", allowed="64 MiB or more"
            )
