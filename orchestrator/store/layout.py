"""The layout of the store, atomic writes, and the lease of a live driver. The store is the only truth about runs.

    runs/<run_id>/       config.json, metrics-<attempt>.jsonl, end-<attempt>.json, checkpoints/, stacks/, model.safetensors,
                         failure.json | result.json
    studies/<name>/      plan.json, bundles/<id>.json, lease.json, stop.json, tracking.json, results.csv, report.html
    data/<dataset>/      generated datasets
    mlflow.db            tracking

`result.json`, written last and in one step, is the done mark. A run_id means the same result in every study.
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
from typing import Any

from orchestrator.store.curve import joined, json_lines, read_part
from orchestrator.store.state import State
from vitmodel.config.base import UserError
from vitmodel.files import read_json, write_json

FREE_BYTES = 64 * 2**20  # less than this and nothing is started


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    def result(self) -> dict[str, Any] | None:
        """What a finished run left, None before that."""
        found: dict[str, Any] | None = read_json(self.path / "result.json")
        return found

    def failure(self) -> dict[str, Any] | None:
        """Why the last attempt ended without a result."""
        found: dict[str, Any] | None = read_json(self.path / "failure.json")
        return found

    def state(self) -> State:
        """DONE, the state of its failure, RUNNING once begun, else PLANNED."""
        if (self.path / "result.json").exists():
            return State.DONE
        if failure := self.failure():
            return State(failure["state"])
        return State.RUNNING if self.attempts() else State.PLANNED

    def attempts(self) -> int:
        """How often the run was begun."""
        return len(self.metrics_files())

    def metrics_files(self) -> list[Path]:
        """One append-only file an attempt, in order."""
        return sorted(self.path.glob("metrics-*.jsonl"))

    def begin(self, config: dict[str, Any], workers: int = 1, session: str = "") -> Path:
        """Start an attempt by so many workers, under this lease: its configuration is written, its metrics file returned.

        The file is made by one attempt alone: its number is the attempt's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "config.json", config)
        (self.path / "failure.json").unlink(missing_ok=True)
        for number in itertools.count(self.attempts()):
            metrics = self.path / f"metrics-{number:03d}.jsonl"
            with suppress(FileExistsError), metrics.open("x") as file:
                file.write(json.dumps({"begin": time.time(), "workers": workers, "session": session}) + "\n")
                return metrics
        raise AssertionError("numbers do not end")

    def spent(self, attempts: int | None = None) -> tuple[float, float]:
        """(seconds, worker-seconds) of the first so many attempts, or all, up to the last sign of life of each."""
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
            write_json(self.path / "failure.json", {"state": state, "reason": reason, "time": time.time()})

    def finish(self, result: dict[str, Any]) -> None:
        """The done mark."""
        write_json(self.path / "result.json", result)
        (self.path / "failure.json").unlink(missing_ok=True)

    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of all attempts as one curve, which ends with the attempt that left the result, if there is one."""
        parts = [read_part(path, number) for number, path in enumerate(self.metrics_files())]
        return joined(parts, (self.result() or {}).get("attempt"))


def number_of(metrics_file: Path) -> int:
    """The attempt whose metrics these are."""
    return int(metrics_file.stem.rpartition("-")[2])


@dataclass(frozen=True)
class Store:
    """A storage folder."""

    root: Path

    def run(self, run_id: str) -> RunFolder:
        return RunFolder(self.root / "runs" / run_id)

    def study(self, name: str) -> Path:
        return self.root / "studies" / name

    def plan(self, name: str) -> dict[str, Any] | None:
        """The last plan of a study that was started here."""
        found: dict[str, Any] | None = read_json(self.study(name) / "plan.json")
        return found

    def check_writable(self) -> None:
        """Raise UserError where nothing could be written: found before training, not after it."""
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
                f"storage has {free >> 20} MiB left", file=str(self.root), field="storage.path", allowed="64 MiB or more"
            )
