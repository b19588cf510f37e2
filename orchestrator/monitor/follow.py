"""The driver's second thread while a study runs: progress, tracking and limits, all by following the store."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console

from orchestrator.monitor.notify import Notifier
from orchestrator.monitor.progress import Progress
from orchestrator.plan.records import PlanFile
from orchestrator.plan.runs import Bundle, WorkerGroup
from orchestrator.spec.fault_tolerance import StopAfter
from orchestrator.spec.schema import Study
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.state import FAILURES, State
from orchestrator.store.stop import request_stop, stop_request
from orchestrator.tracking.mlflow import Follower, tracking_uri

SCAN_SECONDS, TRACK_SECONDS = 0.5, 5.0
JOIN_SECONDS = 5.0  # wait for the thread, which a tracking server that never answers may block: the end takes under 30 s
SCAN_SHARE = 20  # after a scan of the store, pause this many times its duration: scans take at most 5% of a core

log = logging.getLogger(__name__)


class Efficiency(NamedTuple):
    """Wall-clock of a command, and the pure training time of the runs it finished, over the groups that ran in parallel."""

    wall_seconds: float
    training_seconds: float
    slots: int


class GpuHours:
    """GPU-hours of a plan's runs, every attempt counted, finished or not. Updated by what changes: a result is read once."""

    def __init__(self, plan: PlanFile) -> None:
        self._gpus = {facts.run_id: facts.placement.group.gpus_per_worker for facts in plan.runs}
        self._hours: dict[str, float] = {}

    @property
    def total(self) -> float:
        return sum(self._hours.values())

    def update(self, folders: Iterable[RunFolder]) -> None:
        """Read again what these runs have cost."""
        for folder in folders:
            if gpus := self._gpus[folder.run_id]:
                result = folder.result()
                self._hours[folder.run_id] = result.gpu_hours if result else folder.spent()[1] * gpus / 3600


class Follow:
    """Follows the runs of one study in the store, for the terminal, MLflow, webhooks and limits."""

    def __init__(self, study: Study, store: Store, plan: PlanFile, console: Console, variables: tuple[str, ...] = ()) -> None:
        self._study, self._store, self._plan, self._console = study, store, plan, console
        self.uri = tracking_uri(study.tracking.mlflow, store)
        self.tracking = Follower(store, plan, self.uri)
        self._done_before = {facts.run_id for facts in plan.runs if store.run(facts.run_id).state() is State.DONE}
        self._spent = GpuHours(plan)
        self.notifier = Notifier(study.name, study.notify, variables)
        self._labels = {facts.run_id: facts.label for facts in plan.runs}
        self._folder = store.study(study.name)
        self._is_stopping = False
        self._slots = 1
        self._started = time.monotonic()

    @contextmanager
    def in_background(self, bundles: list[Bundle], slots: dict[WorkerGroup, int], nodes: int) -> Iterator[None]:
        """Follow in a thread until the body ends."""
        self._slots = min(max(slots.values()), len(bundles))
        self._console.print(f"{self._slots} worker group(s) of {bundles[0].group} in parallel on {nodes} node(s)")
        is_over = threading.Event()
        with Progress(self._store, self._plan, self._console) as progress:
            thread = threading.Thread(target=self._loop, args=(progress, is_over), name="follow", daemon=True)
            thread.start()
            try:
                yield
            finally:
                is_over.set()
                thread.join(timeout=JOIN_SECONDS)

    def efficiency(self, started: float) -> Efficiency:
        """Wall-clock since `started` (Unix time) and pure training time of this session."""
        seconds = 0.0
        for facts in self._plan.runs:
            result = None if facts.run_id in self._done_before else self._store.run(facts.run_id).result()
            if result:
                seconds += result.metrics.get("time/train_seconds", result.metrics["time/run_seconds"])
        return Efficiency(time.time() - started, seconds / self._slots, self._slots)

    def _loop(self, progress: Progress, is_over: threading.Event) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # this thread yields to the processes that train
        tracked = scan_seconds = 0.0
        self._spent.update(self._store.run(facts.run_id) for facts in self._plan.runs)
        while not is_over.is_set():
            began = time.monotonic()
            try:
                changes = progress.refresh()
                self._spent.update(change.folder for change in changes)
                self.notifier.send_failures(changes, self._labels, progress.counts())
                self._check_limits(progress)
                self._print_stop()
                scan_seconds = time.monotonic() - began
                if progress.has_begun and time.monotonic() - tracked > TRACK_SECONDS:
                    self.tracking.poll()  # in batches: MLflow takes time of the cores that train
                    tracked = time.monotonic()
            except OSError as error:  # a full or unavailable disk must not end the thread that reports it
                log.warning("cannot read the store, will try again: %s", error)
            is_over.wait(max(SCAN_SECONDS, SCAN_SHARE * scan_seconds))
        self._print_stop()
        self.notifier.send_failures(progress.refresh(), self._labels, progress.counts())

    def _check_limits(self, progress: Progress) -> None:
        """Request a stop where a limit is reached. No further run starts; a spent budget also stops running trainings."""
        counts = progress.counts()
        failed = sum(counts[state] for state in FAILURES)
        then = self._study.on_failure.then
        limit = then.stop_after if isinstance(then, StopAfter) else 1 if then == "stop" else None
        if limit is not None and failed >= limit:
            self._stop(State.SKIPPED, f"the study stops after {limit} failed run(s)", counts)
        hours = self._study.budget.wall_hours
        if hours is not None and time.monotonic() - self._started > 3600 * hours:
            self._stop(State.BUDGET, f"wall-clock limit of {hours:g} hours", counts)
        for gpu_hours, text in self._study.budget.gpu_limits:
            if self._spent.total > gpu_hours:
                self._stop(State.BUDGET, f"limit of {text}", counts)

    def stop(self, reason: str) -> None:
        """Let every run save and stop, and start no other. The same command continues what is not done."""
        request_stop(self._folder, State.STOPPED, reason)

    def _stop(self, state: State, reason: str, counts: Counter[State]) -> None:
        if request_stop(self._folder, state, reason) and state is State.BUDGET:
            self.notifier.send("budget", counts, reason=reason)

    def _print_stop(self) -> None:
        """Print the reason once, whoever requested it: a limit, a signal, or `vitscale stop` from another terminal."""
        if not self._is_stopping and (stop := stop_request(self._folder)):
            self._is_stopping = True
            self._console.print(f"stopping: {stop.reason}", markup=False)
