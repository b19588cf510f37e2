"""MLflow as a follower of the store: one writer for a study, which can stop, fall behind and replay.

Study = experiment; the study's parent run holds the report; one MLflow run for one run over all its attempts.
How far it got is in `tracking.json`; without that file it finds its runs again by their `run_id` tag.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator.secrets import expand_environment, names_in, redact
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.state import State
from orchestrator.store.watch import Watch
from orchestrator.tracking.cursor import Cursor
from orchestrator.tracking.mlflowdb import make_database
from vitmodel.files import read_json

BATCH = 500  # metrics a request; MLflow takes at most 1000
ENDED = {State.DONE: "FINISHED", State.PLANNED: "RUNNING", State.RUNNING: "RUNNING", State.STOPPED: "KILLED"}  # others: FAILED
BACK_OFF_SECONDS = (1.0, 60.0)

PLACEMENT = ("workers", "cpus_per_worker", "gpus_per_worker", "zero_stage")  # what `mlflowrows` reads costs with

log = logging.getLogger(__name__)


def tracking_uri(setting: str, store: Store) -> str:
    """The address to write to: as given, `${env:NAME}` in it unread, or a sqlite file in the storage folder."""
    return f"sqlite:///{store.root / 'mlflow.db'}" if setting == "auto" else setting


class Follower:
    """Sends what is new in the store to MLflow each time it is polled. Never raises because MLflow is away."""

    def __init__(self, store: Store, plan: dict[str, Any], uri: str) -> None:
        self._store, self._plan, self._uri = store, plan, uri
        self._facts = {facts["run_id"]: facts for facts in plan["runs"]}
        self._notes = Cursor(store.study(plan["study"]), uri)
        self._watch = Watch(store, self._facts)
        self._waiting: dict[str, RunFolder] = {}
        self._client: Any = None
        self._lock = threading.RLock()  # at the end the driver's two threads may meet here
        self._pause, self._not_before = BACK_OFF_SECONDS[0], 0.0

    @property
    def behind(self) -> int:
        """Runs whose news are not sent yet."""
        return len(self._waiting)

    def poll(self) -> None:
        """Send what is new; on an outage keep it, and wait longer each time before the next try."""
        with self._lock:
            self._poll()

    def _poll(self) -> None:
        for seen in self._watch.look():
            self._waiting[seen.folder.run_id] = seen.folder
        if time.monotonic() < self._not_before:
            return
        try:
            self._connect()
            for run_id, folder in list(self._waiting.items()):
                self._send(run_id, folder)
                del self._waiting[run_id]
        except Exception as error:  # whatever a tracker's client raises: the study goes on
            log.warning("tracking is away, will try again in %.0f s: %s", self._pause, self._cause(error))
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, BACK_OFF_SECONDS[1])
        else:
            self._pause = BACK_OFF_SECONDS[0]

    def finish(self, files: list[Path], tags: dict[str, str], seconds: float = 20.0) -> bool:
        """Send the rest and the report, end the parent run. False where MLflow did not take it within `seconds`.

        In a thread that a server which never answers may keep: it ends with the process.
        """
        sent = threading.Event()

        def send() -> None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not sent.is_set():
                if self._finish_once(files, tags):
                    sent.set()
                time.sleep(0.0 if sent.is_set() else 0.5)

        threading.Thread(target=send, name="finish", daemon=True).start()
        return sent.wait(seconds)

    def _finish_once(self, files: list[Path], tags: dict[str, str]) -> bool:
        with self._lock:
            self._not_before = 0.0
            self.poll()
            return not self._waiting and self._client is not None and self._close_parent(files, tags)

    def _connect(self) -> None:
        """Client, experiment and parent run: found again or made."""
        if self._client is not None:
            return
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # after the import, which sets its own
        address = expand_environment(self._uri)
        make_database(address)
        client = MlflowClient(tracking_uri=address)
        name = self._plan["study"]
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            files = (self._store.root / "mlartifacts" / name).as_uri() if self._uri.startswith("sqlite") else None
            kind = {"mlflow.experimentKind": "custom_model_development"}  # opens on runs and charts, not on chat traces
            experiment_id = client.create_experiment(name, artifact_location=files, tags=kind)
        else:
            experiment_id = experiment.experiment_id
        if self._cursor.get("experiment") != experiment_id:  # another database: what was sent elsewhere does not count
            self._notes.data = {"uri": self._uri, "experiment": experiment_id, "runs": _existing(client, experiment_id)}
            self._notes.save()
        parent = self._cursor["runs"].get("study", {}).get("id") or self._create(
            client, "study", name, {"phase": "study", "study": name}
        )
        self._cursor["parent"] = parent
        self._cursor["runs"]["study"] = {"id": parent, "step": 0, "state": "RUNNING"}
        client.update_run(parent, status="RUNNING")
        self._client = client
        self._notes.save()

    def _send(self, run_id: str, folder: RunFolder) -> None:
        """All that is new of one run, in as few requests as it takes: each costs MLflow some milliseconds."""
        state = folder.state()
        known = self._cursor["runs"].get(run_id)
        if (known and known["state"] == state == State.DONE) or (known is None and state is State.PLANNED):
            return
        if known is None:
            known = {"id": self._create_run(run_id), "step": 0, "state": str(State.RUNNING)}
            self._notes.made(run_id, known)
        params = [] if known.get("has_keys") else _params(self._facts[run_id], folder)
        entries = [entry for entry in folder.metrics() if entry["step"] > known["step"]]
        metrics = _curve(entries) + self._outcome(folder)
        for start in range(BATCH, len(metrics), BATCH):
            self._client.log_batch(known["id"], metrics=metrics[start : start + BATCH])
        self._client.log_batch(known["id"], metrics=metrics[:BATCH], params=params, tags=_tags(folder, state))
        if (status := ENDED.get(state, "FAILED")) != ENDED.get(State(known["state"]), "FAILED"):
            change = self._client.update_run if status == "RUNNING" else self._client.set_terminated
            change(known["id"], status=status)
        known |= {"state": str(state), "step": entries[-1]["step"] if entries else known["step"], "has_keys": True}
        self._notes.made(run_id, known)

    def _create_run(self, run_id: str) -> str:
        """A run with its keys as tags, so that flat filters find it."""
        facts = self._facts[run_id]
        named = ("phase", "family", "variant", "dataset", "seed")
        tags = {name: str(facts[name]) for name in named if facts[name] is not None}
        tags |= {"study": self._plan["study"], "parent_id": facts["parent_id"] or ""}
        tags["mlflow.parentRunId"] = self._cursor["parent"]
        return self._create(self._client, run_id, facts["label"], tags)

    def _create(self, client: Any, run_id: str, label: str, tags: dict[str, str]) -> str:
        """Make a run in MLflow, once: what an earlier try made, that was killed or never got its answer, is found."""
        experiment = self._cursor["experiment"]
        is_known = self._cursor.get("making") == run_id
        if is_known and (made := client.search_runs([experiment], f"tags.run_id = '{run_id}'", max_results=1)):
            return str(made[0].info.run_id)
        self._notes.making(run_id)
        run = client.create_run(experiment, run_name=label, tags={"run_id": run_id, **tags})
        return str(run.info.run_id)

    def _outcome(self, folder: RunFolder) -> list[Any]:
        """Final metrics and cost of a finished run."""
        from mlflow.entities import Metric

        if (result := folder.result()) is None:
            return []
        now, step = int(result["finished"] * 1000), self._facts[folder.run_id]["steps"]
        final = {**result["metrics"], "cost/gpu_hours": result["gpu_hours"], "cost/core_hours": result["core_hours"]}
        final |= {f"placement/{name}": result[name] for name in (*PLACEMENT, "micro_batch") if name in result}
        final |= {"speed/peak_flops": result["peak_flops"]} if "peak_flops" in result else {}
        final |= {name: value for name, value in result.get("last", {}).items() if name == "speed/images_per_second"}
        if "eval/top1" in final:
            final["error"] = 1.0 - final["eval/top1"]
        return [Metric(name, float(value), now, step) for name, value in final.items()]

    def _close_parent(self, files: list[Path], tags: dict[str, str]) -> bool:
        try:
            for path in files:
                if path.is_dir():
                    self._client.log_artifacts(self._cursor["parent"], str(path), path.name)
                else:
                    self._client.log_artifact(self._cursor["parent"], str(path))
            for name, value in tags.items():
                self._client.set_tag(self._cursor["parent"], name, value)
            self._end_stale()
            self._client.set_terminated(self._cursor["parent"], status="FINISHED")
        except Exception as error:  # as in poll
            log.warning("tracking is away: %s", self._cause(error))
            return False
        return True

    def _cause(self, error: Exception) -> str:
        lines = str(error).splitlines() or [type(error).__name__]
        return str(redact(lines[0], names_in(self._uri)))[:200]

    def _end_stale(self) -> None:
        """No run of this experiment that nobody works on stays RUNNING."""
        for run_id, known in self._cursor["runs"].items():
            if run_id != "study" and run_id not in self._facts and known["state"] == State.RUNNING:
                self._client.set_terminated(known["id"], status="KILLED")
                known["state"] = "KILLED"

    @property
    def _cursor(self) -> dict[str, Any]:
        return self._notes.data


def _existing(client: Any, experiment_id: str) -> dict[str, Any]:
    """Runs of an earlier follower whose cursor is lost, by run_id. Their metrics are sent again: MLflow keeps one of equals."""
    found: dict[str, Any] = {}
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        for run in page:
            if run_id := run.data.tags.get("run_id"):
                sent = {"step": 0, "state": str(State.RUNNING), "has_keys": bool(run.data.params)}
                found[run_id] = {"id": run.info.run_id, **sent}
        token = page.token
        if not token:
            return found


def _curve(entries: list[dict[str, Any]]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(name, float(value), int(entry["time"] * 1000), int(entry["step"]))
        for entry in entries
        for name, value in entry.items()
        if name not in ("step", "time")
    ]


def _tags(folder: RunFolder, state: State) -> list[Any]:
    from mlflow.entities import RunTag

    tags = [RunTag("state", str(state)), RunTag("attempts", str(folder.attempts()))]
    if state is not State.DONE:
        tags.append(RunTag("spent_seconds", f"{folder.spent()[0]:.1f}"))
    if (failure := folder.failure()) is not None:
        tags.append(RunTag("reason", failure["reason"][:5000]))
    return tags


def _params(facts: dict[str, Any], folder: RunFolder) -> list[Any]:
    from mlflow.entities import Param

    config = (read_json(folder.path / "config.json") or {}).get("config", {})
    flat = {name: value for name, value in facts.items() if name not in ("placement", "label")}
    flat |= {f"placement.{name}": facts["placement"]["group"][name] for name in PLACEMENT}
    flat |= {f"recipe.{name}": value for name, value in (config.get("recipe") or {}).items()}
    flat |= {f"model.{name}": value for name, value in config.get("model", {}).items()}
    return [Param(name, str(value)) for name, value in sorted(flat.items()) if value is not None]
