"""MLflow as a follower of the store: one writer for a study, which can stop, fall behind and catch up.

Study = experiment; the study's parent run has the report; each run is one MLflow run over all its attempts.
`tracking.json` records how far it got; without that file the runs are found again by their `run_id` tag.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator.mlflow_client import mlflow_client
from orchestrator.plan.records import PLACEMENT, PlanFile, RunFacts
from orchestrator.secrets import expand_environment, names_in, redact
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.state import State
from orchestrator.store.watch import Watch
from orchestrator.tracking.cursor import Cursor, TrackedRun
from orchestrator.tracking.mlflowdb import is_there, make_database

BATCH = 500  # metrics a request; MLflow takes at most 1000
STATUS = {State.DONE: "FINISHED", State.PLANNED: "RUNNING", State.RUNNING: "RUNNING", State.STOPPED: "KILLED"}  # else FAILED
PARENT = "study"  # the key of the study's own run
TAGGED = ("phase", "family", "variant", "dataset", "seed")
BACK_OFF_SECONDS = (1.0, 60.0)


log = logging.getLogger(__name__)


def tracking_uri(setting: str, store: Store) -> str:
    """The address to write to: as configured, with any `${env:NAME}` unexpanded, or a sqlite file in the storage folder."""
    return f"sqlite:///{store.root / 'mlflow.db'}" if setting == "auto" else setting


class Follower:
    """Sends what is new in the store to MLflow each time it is polled. Never raises because MLflow is unavailable."""

    def __init__(self, store: Store, plan: PlanFile, uri: str) -> None:
        self._store, self._study, self._uri = store, plan.study, uri
        self._facts = {facts.run_id: facts for facts in plan.runs}
        self._cursor = Cursor(store.study(plan.study), uri)
        self._watch = Watch(store, self._facts)
        self._waiting: dict[str, RunFolder] = {}
        self._client: Any = None
        self._lock = threading.RLock()  # at the end two threads of the driver may poll
        self._pause, self._not_before = BACK_OFF_SECONDS[0], 0.0

    @property
    def behind(self) -> int:
        """Runs with changes that are not sent yet."""
        return len(self._waiting)

    def poll(self) -> None:
        """Send what is new. On an outage keep it, and wait longer each time before the next attempt."""
        with self._lock:
            self._poll()

    def _poll(self) -> None:
        for change in self._watch.scan():
            self._waiting[change.folder.run_id] = change.folder
        if time.monotonic() < self._not_before:
            return
        try:
            self._connect()
            for run_id, folder in list(self._waiting.items()):
                self._send(run_id, folder)
                del self._waiting[run_id]
        except Exception as error:  # whatever a tracking client raises, the study continues
            log.warning("MLflow is unavailable, next attempt in %.0f s: %s", self._pause, self._cause(error))
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, BACK_OFF_SECONDS[1])
        else:
            self._pause = BACK_OFF_SECONDS[0]

    def finish(self, files: list[Path], tags: dict[str, str], seconds: float = 20.0) -> bool:
        """Send the rest and the report, and end the parent run. False where MLflow did not accept it within `seconds`.

        Contacts MLflow only if something changed. In a thread, which a server that never answers may block: it ends with the
        process.
        """
        digest = _digest(files, tags)
        if self._is_complete(digest):
            return True
        sent = threading.Event()

        def send() -> None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not sent.is_set():
                if self._finish_once(files, tags, digest):
                    sent.set()
                time.sleep(0.0 if sent.is_set() else 0.5)

        threading.Thread(target=send, name="finish", daemon=True).start()
        return sent.wait(seconds)

    def _is_complete(self, digest: str) -> bool:
        """Whether MLflow has every run and this report already. False while another thread is sending.

        A server is not asked whether it lost its data; a deleted sqlite file is noticed.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            for change in self._watch.scan():
                known = self._cursor.runs.get(change.folder.run_id)
                if not (known and known.state == change.state == State.DONE):
                    self._waiting[change.folder.run_id] = change.folder
            return not self._waiting and self._cursor.report == digest and is_there(expand_environment(self._uri))
        finally:
            self._lock.release()

    def _finish_once(self, files: list[Path], tags: dict[str, str], digest: str) -> bool:
        with self._lock:
            self._not_before = 0.0
            self.poll()
            if self._waiting or self._client is None or not self._close_parent(files, tags):
                return False
            self._cursor.set_report(digest)
            return True

    def _connect(self) -> None:
        """Client, experiment and parent run: found again or created."""
        if self._client is not None:
            return
        address = expand_environment(self._uri)
        make_database(address)
        client = mlflow_client(address)
        experiment_id = self._experiment(client)
        if self._cursor.experiment != experiment_id:  # another database: what was sent elsewhere does not count
            self._cursor.reset(experiment_id, _existing(client, experiment_id))
        known = self._cursor.runs.get(PARENT)
        parent = known.id if known else self._create(client, PARENT, self._study, {"phase": "study", "study": self._study})
        self._cursor.set_parent(parent)
        self._cursor.runs[PARENT] = TrackedRun(id=parent)
        client.update_run(parent, status="RUNNING")
        self._client = client
        self._cursor.save()

    def _experiment(self, client: Any) -> str:
        """The id of the study's experiment."""
        experiment = client.get_experiment_by_name(self._study)
        if experiment is not None:
            return str(experiment.experiment_id)
        files = (self._store.root / "mlartifacts" / self._study).as_uri() if self._uri.startswith("sqlite") else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens on runs and charts, not on traces
        return str(client.create_experiment(self._study, artifact_location=files, tags=kind))

    def _send(self, run_id: str, folder: RunFolder) -> None:
        """Everything new of one run, in as few requests as possible: each costs MLflow some milliseconds."""
        state = folder.state()
        known = self._cursor.runs.get(run_id)
        if (known and known.state == state == State.DONE) or (known is None and state is State.PLANNED):
            return
        if known is None:
            known = TrackedRun(id=self._create_run(run_id))
            self._cursor.note_tracked(run_id, known)
        params = [] if known.has_keys else _params(self._facts[run_id], folder)
        entries = [entry for entry in folder.metrics() if entry["step"] > known.step]
        metrics = _curve(entries) + _outcome(folder, self._facts[run_id])
        for start in range(BATCH, len(metrics), BATCH):
            self._client.log_batch(known.id, metrics=metrics[start : start + BATCH])
        self._client.log_batch(known.id, metrics=metrics[:BATCH], params=params, tags=_tags(folder, state))
        if (status := _status(state)) != _status(State(known.state)):
            change = self._client.update_run if status == "RUNNING" else self._client.set_terminated
            change(known.id, status=status)
        step = int(entries[-1]["step"]) if entries else known.step
        self._cursor.note_tracked(run_id, TrackedRun(id=known.id, step=step, state=str(state), has_keys=True))

    def _create_run(self, run_id: str) -> str:
        """A run with its keys as tags, so that flat filters find it."""
        facts = self._facts[run_id]
        tags = {name: str(value) for name in TAGGED if (value := getattr(facts, name)) is not None}
        tags |= {"study": self._study, "parent_id": facts.parent_id or "", "mlflow.parentRunId": self._cursor.parent}
        return self._create(self._client, run_id, facts.label, tags)

    def _create(self, client: Any, run_id: str, label: str, tags: dict[str, str]) -> str:
        """Create a run in MLflow once: the run of an earlier attempt that was killed, or got no reply, is found again."""
        experiment = self._cursor.experiment
        was_creating = self._cursor.creating == run_id
        if was_creating and (matches := client.search_runs([experiment], f"tags.run_id = '{run_id}'", max_results=1)):
            return str(matches[0].info.run_id)
        self._cursor.note_creating(run_id)
        run = client.create_run(experiment, run_name=label, tags={"run_id": run_id, **tags})
        return str(run.info.run_id)

    def _close_parent(self, files: list[Path], tags: dict[str, str]) -> bool:
        try:
            for path in files:
                if path.is_dir():
                    self._client.log_artifacts(self._cursor.parent, str(path), path.name)
                else:
                    self._client.log_artifact(self._cursor.parent, str(path))
            for name, value in tags.items():
                self._client.set_tag(self._cursor.parent, name, value)
            self._end_stale()
            self._client.set_terminated(self._cursor.parent, status="FINISHED")
        except Exception as error:  # as in poll
            log.warning("MLflow is unavailable: %s", self._cause(error))
            return False
        return True

    def _cause(self, error: Exception) -> str:
        lines = str(error).splitlines() or [type(error).__name__]
        return str(redact(lines[0], names_in(self._uri)))[:200]

    def _end_stale(self) -> None:
        """No run of this experiment stays RUNNING that is not in the plan."""
        for run_id, tracked in list(self._cursor.runs.items()):
            if run_id != PARENT and run_id not in self._facts and tracked.state == State.RUNNING:
                self._client.set_terminated(tracked.id, status="KILLED")
                self._cursor.note_tracked(run_id, tracked.model_copy(update={"state": "KILLED"}))


def _digest(files: list[Path], tags: dict[str, str]) -> str:
    """A hash of the report's files, folders included, and of the tags."""
    digest = hashlib.sha256(json.dumps(sorted(tags.items())).encode())
    for path in files:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _existing(client: Any, experiment_id: str) -> dict[str, TrackedRun]:
    """Runs of an earlier driver whose cursor is lost, by run_id. Their metrics are sent again: MLflow keeps one of equals."""
    runs: dict[str, TrackedRun] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        for run in page:
            if run_id := run.data.tags.get("run_id"):
                runs[run_id] = TrackedRun(id=run.info.run_id, has_keys=bool(run.data.params))
        token = page.token
        if not token:
            return runs


def _status(state: State) -> str:
    """MLflow's status of a run in this state."""
    return STATUS.get(state, "FAILED")


def _curve(entries: list[dict[str, Any]]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(name, float(value), int(entry["time"] * 1000), int(entry["step"]))
        for entry in entries
        for name, value in entry.items()
        if name not in ("step", "time")
    ]


def _outcome(folder: RunFolder, facts: RunFacts) -> list[Any]:
    """Final metrics and cost of a finished run."""
    from mlflow.entities import Metric

    if (result := folder.result()) is None:
        return []
    final = {**result.metrics, "cost/gpu_hours": result.gpu_hours, "cost/core_hours": result.core_hours}
    final |= {f"placement/{name}": getattr(result, name) for name in PLACEMENT}
    if result.micro_batch is not None:
        final["placement/micro_batch"] = result.micro_batch
    final |= {"speed/peak_flops": result.peak_flops, "time/seconds": result.total_seconds}
    final |= {name: value for name, value in result.last.items() if name == "speed/images_per_second"}
    if "eval/top1" in final:
        final["error"] = 1.0 - final["eval/top1"]
    return [Metric(name, float(value), int(result.finished * 1000), facts.steps) for name, value in final.items()]


def _tags(folder: RunFolder, state: State) -> list[Any]:
    from mlflow.entities import RunTag

    tags = [RunTag("state", str(state)), RunTag("attempts", str(folder.attempts()))]
    if state is not State.DONE:
        tags.append(RunTag("spent_seconds", f"{folder.spent()[0]:.1f}"))
    if (failure := folder.failure()) is not None:
        tags.append(RunTag("reason", failure.reason[:5000]))
    return tags


def _params(facts: RunFacts, folder: RunFolder) -> list[Any]:
    from mlflow.entities import Param

    record = folder.record()
    config = record.config.model_dump(mode="json") if record else {}
    params = facts.model_dump(mode="json", exclude={"placement", "label"})
    params |= {f"placement.{name}": getattr(facts.placement.group, name) for name in PLACEMENT}
    params |= {f"recipe.{name}": value for name, value in (config.get("recipe") or {}).items()}
    params |= {f"model.{name}": value for name, value in config.get("model", {}).items()}
    return [Param(name, str(value)) for name, value in sorted(params.items()) if value is not None]
