"""The driver's second thread while a study runs: progress, tracking and limits, all by following the store."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from orchestrator.monitor.notify import Notifier
from orchestrator.monitor.progress import Progress
from orchestrator.plan.budget import Group
from orchestrator.plan.runs import Bundle
from orchestrator.spec.fault_tolerance import StopAfter
from orchestrator.spec.schema import Study
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.state import STOP_FILE, State, ask_to_stop
from orchestrator.tracking.mlflow import Follower, tracking_uri
from vitmodel.files import read_json

LOOK_SECONDS, TRACK_SECONDS = 0.5, 5.0
JOIN_SECONDS = 5.0  # for the thread, which a tracker that never answers may hold: with the rest, the end takes under 30 s
LOOK_SHARE = 20  # a look's own time, many times over, passes before the next: looking costs at most 5% of a core
FAILURES = (State.FAILED, State.DIVERGED, State.STALLED)


class GpuHours:
    """GPU-hours of a plan's runs, every attempt counted, finished or not. Kept up by what changes: a result is read once."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._groups = {facts["run_id"]: facts["placement"]["group"] for facts in plan["runs"]}
        self._hours: dict[str, float] = {}

    @property
    def total(self) -> float:
        return sum(self._hours.values())

    def note(self, folders: Iterable[RunFolder]) -> None:
        """Take in what these runs have cost by now."""
        for folder in folders:
            group = self._groups[folder.run_id]
            if not group["gpus_per_worker"]:
                continue
            result, gpus = folder.result(), group["gpus_per_worker"]
            self._hours[folder.run_id] = result["gpu_hours"] if result else folder.spent()[1] * gpus / 3600


class Follow:
    """Follows one study's runs in the store, on behalf of everybody who wants to know."""

    def __init__(
        self, study: Study, store: Store, plan: dict[str, Any], console: Console, variables: tuple[str, ...] = ()
    ) -> None:
        self._study, self._store, self._plan, self._console = study, store, plan, console
        self.uri = tracking_uri(study.tracking.mlflow, store)
        self.tracking = Follower(store, plan, self.uri)
        self._done_before = {facts["run_id"] for facts in plan["runs"] if store.run(facts["run_id"]).state() is State.DONE}
        self._spent = GpuHours(plan)
        self.notifier = Notifier(study.name, study.notify, variables)
        self._labels = {facts["run_id"]: facts["label"] for facts in plan["runs"]}
        self._folder = store.study(study.name)
        self._is_stopping = False
        self._slots = 1
        self._began = time.monotonic()

    @contextmanager
    def in_background(self, bundles: list[Bundle], slots: dict[Group, int], nodes: int) -> Iterator[None]:
        """Follow in a thread until the body ends."""
        self._slots = min(max(slots.values()), len(bundles))
        self._console.print(f"{self._slots} worker group(s) of {bundles[0].group} side by side, on {nodes} node(s)")
        stop = threading.Event()
        with Progress(self._store, self._plan, self._slots, self._console) as progress:
            thread = threading.Thread(target=self._loop, args=(progress, stop), name="follow", daemon=True)
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join(timeout=JOIN_SECONDS)

    def efficiency(self, started: float) -> dict[str, Any]:
        """Wall-clock since `started` (Unix time), and the pure training time of this session, over the groups side by side."""
        seconds = 0.0
        for facts in self._plan["runs"]:
            result = None if facts["run_id"] in self._done_before else self._store.run(facts["run_id"]).result()
            if result:
                metrics = result["metrics"]
                seconds += metrics.get("time/train_seconds", metrics["time/run_seconds"])
        return {"wall_seconds": time.time() - started, "training_seconds": seconds / self._slots, "slots": self._slots}

    def _loop(self, progress: Progress, stop: threading.Event) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # this thread yields to the processes that train
        tracked = looked = 0.0
        self._spent.note(self._store.run(facts["run_id"]) for facts in self._plan["runs"])
        while not stop.is_set():
            began = time.monotonic()
            try:
                changed = progress.refresh()
                self._spent.note(seen.folder for seen in changed)
                self.notifier.note(changed, self._labels, progress.counts())
                self._check_limits(progress)
                self._say_stop()
                looked = time.monotonic() - began
                if progress.has_begun and time.monotonic() - tracked > TRACK_SECONDS:
                    self.tracking.poll()  # in batches: MLflow costs the cores that train
                    tracked = time.monotonic()
            except OSError as error:  # a full or absent disk must not end the thread that would say so
                logging.getLogger(__name__).warning("cannot follow the store: %s", error)
            stop.wait(max(LOOK_SECONDS, LOOK_SHARE * looked))
        self._say_stop()
        self.notifier.note(progress.refresh(), self._labels, progress.counts())

    def _check_limits(self, progress: Progress) -> None:
        """Where a limit is reached, tell the workers to begin no further run, and for a budget to stop the ones under way."""
        counts = progress.counts()
        failed = sum(counts[state] for state in FAILURES)
        then = self._study.on_failure.then
        limit = then.stop_after if isinstance(then, StopAfter) else 1 if then == "stop" else None
        if limit is not None and failed >= limit:
            self._limit(State.SKIPPED, f"the study stops after {limit} failed run(s)", counts)
        hours = self._study.budget.wall_hours
        if hours is not None and time.monotonic() - self._began > 3600 * hours:
            self._limit(State.BUDGET, f"wall-clock limit of {hours:g} hours", counts)
        for gpu_hours, words in self._study.budget.gpu_limits:
            if self._spent.total > gpu_hours:
                self._limit(State.BUDGET, f"limit of {words}", counts)

    def stop(self, reason: str) -> None:
        """Let every run save and stop, and begin no other. What is not done then goes on with the same command."""
        ask_to_stop(self._folder, State.STOPPED, reason)

    def _limit(self, state: State, reason: str, counts: Counter[State]) -> None:
        if ask_to_stop(self._folder, state, reason) and state is State.BUDGET:
            self.notifier.say("budget", counts, reason=reason)

    def _say_stop(self) -> None:
        """Once, whoever asked for it: a limit, a signal, or `vitscale stop` from elsewhere."""
        if not self._is_stopping and (stop := read_json(self._folder / STOP_FILE)):
            self._is_stopping = True
            self._console.print(f"stopping: {stop['reason']}")
