"""Tracking with MLflow: real sqlite, a server that is unavailable and returns, a lost cursor, a replay without duplicates."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, WriteStudy, clean_environment
from mlflow import MlflowClient
from records import plan_file, run_facts, run_record, run_result
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.plan.records import RunFacts
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.state import State
from orchestrator.tracking import mlflow as mlflow_module
from orchestrator.tracking.cursor import Cursor, TrackedRun
from orchestrator.tracking.mlflow import Follower, tracking_uri
from vitmodel.files import write_json


def facts(run_id: str, parent: str | None = None) -> RunFacts:
    return run_facts(run_id, parent_id=parent, steps=4)


PLAN = plan_file(facts("pretrain-a"), facts("finetune-b", "pretrain-a"), facts("probe-c", "pretrain-a"), study="t")


def train(store: Store, run_id: str, steps: range) -> None:
    """Write these steps as a worker does."""
    folder = store.run(run_id)
    metrics = folder.metrics_files()[-1] if folder.attempts() else folder.begin(run_record(run_id))
    with metrics.open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "train/loss": 1.0 / step, "time": 1.7e9 + step}) + "\n")


def finish(store: Store, run_id: str) -> None:
    store.run(run_id).finish(run_result(run_id, finished=1.7e9 + 9))


def loss_curve(client: MlflowClient, run_id: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")]


def runs_of(client: MlflowClient) -> dict[str, Any]:
    experiment = client.get_experiment_by_name("t")
    runs = client.search_runs([experiment.experiment_id])
    by_id = {run.data.tags["run_id"]: run for run in runs}
    assert len(by_id) == len(runs), "one MLflow run per run"
    return by_id


@pytest.mark.parametrize("lose_cursor", [False, True])
def test_a_new_driver_continues_where_a_dead_one_stopped(lose_cursor: bool, tmp_path: Path) -> None:
    store = Store(tmp_path)
    uri = tracking_uri("auto", store)
    first = Follower(store, PLAN, uri)
    train(store, "pretrain-a", range(1, 3))
    first.poll()
    del first  # the driver dies here
    if lose_cursor:
        (store.study("t") / "tracking.json").unlink()
    train(store, "pretrain-a", range(3, 5))
    finish(store, "pretrain-a")
    train(store, "finetune-b", range(1, 5))
    store.run("finetune-b").fail(State.FAILED, "CUDA error <b>")
    store.run("probe-c").path.mkdir(parents=True)
    store.run("probe-c").fail(State.SKIPPED, "parent")
    report = tmp_path / "report.html"
    report.write_text("hello")
    assert Follower(store, PLAN, uri).finish([report], {"runs.DONE": "1"})
    client = MlflowClient(uri)
    runs = runs_of(client)
    assert loss_curve(client, runs["pretrain-a"].info.run_id) == [(s, 1.0 / s) for s in range(1, 5)]
    states = {name: (run.info.status, run.data.tags.get("state")) for name, run in runs.items()}
    assert states == {
        "study": ("FINISHED", None),
        "pretrain-a": ("FINISHED", "DONE"),
        "finetune-b": ("FAILED", "FAILED"),
        "probe-c": ("FAILED", "SKIPPED"),
    }
    assert runs["finetune-b"].data.tags["reason"] == "CUDA error <b>"
    assert runs["pretrain-a"].data.metrics["error"] == 0.5
    assert runs["pretrain-a"].data.params["model.width"] == "16"
    assert [a.path for a in client.list_artifacts(runs["study"].info.run_id)] == ["report.html"]


@pytest.mark.parametrize(("lost", "dies"), [("study", True), ("pretrain-a", False), ("pretrain-a", True)])
def test_a_run_whose_creation_got_no_reply_is_created_once(
    lost: str, dies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow creates the run, then the reply is lost or the driver is killed. The run is found again, with its params."""
    create, lost_replies = MlflowClient.create_run, []

    def without_reply(client: MlflowClient, *arguments: Any, **keys: Any) -> Any:
        run = create(client, *arguments, **keys)
        if keys["tags"]["run_id"] == lost and not lost_replies:
            lost_replies.append(run)
            raise ConnectionError("no reply")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", without_reply)
    store = Store(tmp_path)
    train(store, "pretrain-a", range(1, 3))
    uri = tracking_uri("auto", store)
    follower = Follower(store, PLAN, uri)
    follower.poll()
    assert lost_replies
    assert follower.behind == 1
    poll_until_sent(Follower(store, PLAN, uri) if dies else follower)
    runs = runs_of(MlflowClient(uri))
    assert runs.keys() == {"study", "pretrain-a"}
    assert runs["pretrain-a"].data.params["model.width"] == "16"


def test_a_failed_run_that_succeeds_later_is_not_failed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    uri = tracking_uri("auto", store)
    train(store, "pretrain-a", range(1, 3))
    store.run("pretrain-a").fail(State.FAILED, "died")
    follower = Follower(store, PLAN, uri)
    follower.poll()
    assert runs_of(MlflowClient(uri))["pretrain-a"].info.status == "FAILED"
    store.run("pretrain-a").begin(run_record())
    train(store, "pretrain-a", range(1, 5))
    follower.poll()
    assert runs_of(MlflowClient(uri))["pretrain-a"].info.status == "RUNNING"
    finish(store, "pretrain-a")
    follower.poll()
    run = runs_of(MlflowClient(uri))["pretrain-a"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["attempts"] == "2"
    assert [step for step, _ in loss_curve(MlflowClient(uri), run.info.run_id)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_an_outage_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is unavailable, starts, is killed and starts again. Nothing raises, nothing is lost or sent twice."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = Store(tmp_path / "store")
    follower = Follower(store, PLAN, f"http://127.0.0.1:{port}")
    train(store, "pretrain-a", range(1, 2))
    follower.poll()
    assert follower.behind == 1
    started = time.monotonic()
    assert not follower.finish([], {}, seconds=2)
    assert time.monotonic() - started < 30
    server = start_server(port, tmp_path)
    try:
        poll_until_sent(follower)
        train(store, "pretrain-a", range(2, 4))
    finally:
        stop(server)
    follower.poll()
    assert follower.behind == 1
    train(store, "pretrain-a", range(4, 5))
    finish(store, "pretrain-a")
    server = start_server(port, tmp_path)
    try:
        poll_until_sent(follower)
        client = MlflowClient(f"http://127.0.0.1:{port}")
        run = runs_of(client)["pretrain-a"]
        assert loss_curve(client, run.info.run_id) == [(s, 1.0 / s) for s in range(1, 5)]
        assert run.info.status == "FINISHED"
    finally:
        stop(server)


def test_a_server_that_never_answers_does_not_block_the_end(tmp_path: Path) -> None:
    """It accepts connections and sends nothing. A poll is running when the study ends: the end still takes less than 30 s."""
    store = Store(tmp_path)
    train(store, "pretrain-a", range(1, 2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        follower = Follower(store, PLAN, f"http://127.0.0.1:{silent.getsockname()[1]}")
        threading.Thread(target=follower.poll, daemon=True).start()
        started = time.monotonic()
        assert not follower.finish([], {}, seconds=3)
        assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_server_that_hangs_through_a_study(write_study: WriteStudy, tmp_path: Path) -> None:
    """It accepts connections and never answers. The command ends within 30 s of its last run; `sync` sends everything once."""
    storage = tmp_path / "runs"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]

        def change(content: dict[str, Any]) -> None:
            content["pretrain"].update(sizes=[128], models=content["pretrain"]["models"][:1])
            del content["transfer"]
            content["tracking"] = {"mlflow": f"http://127.0.0.1:{port}"}

        study = write_study(change)
        command = [sys.executable, str(ROOT / "tests/without_ray.py"), str(study), str(storage)]
        environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        ended = time.time()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MLflow is unavailable; `vitscale sync` sends what is missing" in done.stdout
    results = [json.loads(path.read_text()) for path in storage.glob("runs/*/result.json")]
    assert len(results) == 2
    assert ended - max(result["finished"] for result in results) < 30
    server = start_server(port, tmp_path)
    try:
        client = MlflowClient(f"http://127.0.0.1:{port}")
        for _ in range(2):
            sync = CliRunner().invoke(app, ["sync", str(study), "--storage", str(storage)])
            assert sync.exit_code == 0, sync.output
            runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
            assert sorted(run.data.tags["phase"] for run in runs) == ["pretrain", "probe", "study"]
            assert {run.info.status for run in runs} == {"FINISHED"}
            (pretrain,) = (run.info.run_id for run in runs if run.data.tags["phase"] == "pretrain")
            (folder,) = map(RunFolder, storage.glob("runs/pretrain-*"))
            assert loss_curve(client, pretrain) == [(entry["step"], entry["train/loss"]) for entry in folder.metrics()]
    finally:
        stop(server)


def test_recording_one_run_does_not_rewrite_all(tmp_path: Path) -> None:
    """Journal entries since the last full file are read again, also after a crash in the middle of an entry."""
    cursor = Cursor(tmp_path, "u")
    cursor.save()
    for number in range(3):
        cursor.note_tracked(f"run-{number}", TrackedRun(id=str(number)))
    cursor.note_creating("run-3")
    with (tmp_path / "tracking.jsonl").open("a") as file:
        file.write('{"run": "run-4", "kno')
    again = Cursor(tmp_path, "u")
    assert again.runs == {f"run-{number}": TrackedRun(id=str(number)) for number in range(3)}
    assert again.creating == "run-3"
    assert json.loads((tmp_path / "tracking.json").read_text())["runs"] == {}
    assert Cursor(tmp_path, "another").runs == {}


def start_server(port: int, folder: Path) -> subprocess.Popen[bytes]:
    command = [
        str(Path(sys.executable).parent / "mlflow"),
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--default-artifact-root", f"{folder}/artifacts"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.2)
    stop(server)
    raise AssertionError("the MLflow server did not start")


def stop(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def poll_until_sent(follower: Follower) -> None:
    deadline = time.monotonic() + 60
    follower.poll()
    while follower.behind and time.monotonic() < deadline:
        follower._not_before = 0.0
        follower.poll()
        time.sleep(0.5)
    assert not follower.behind


def size_of(path: Path) -> int:
    """Bytes of a file; 0 for one that was removed since it was listed, as sqlite's journals are."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_driver_that_is_killed_while_it_creates_the_database(tmp_path: Path) -> None:
    """The sqlite file has all tables or does not exist: the next driver continues."""
    uri = tracking_uri("auto", Store(tmp_path))
    script = f"from orchestrator.tracking.mlflowdb import make_database; make_database({uri!r})"
    driver = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 90
    while not any(size_of(path) > 65536 for path in tmp_path.glob(".mlflow.db-*")):  # during the migrations
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    assert not (tmp_path / "mlflow.db").exists()
    store = Store(tmp_path)
    train(store, "pretrain-a", range(1, 3))
    assert Follower(store, PLAN, uri).finish([], {})
    assert len(loss_curve(MlflowClient(uri), runs_of(MlflowClient(uri))["pretrain-a"].info.run_id)) == 2


def test_mlflow_is_not_contacted_if_nothing_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run of a finished study does not wait for MLflow; another report, or another run, is sent."""
    store, report = Store(tmp_path), tmp_path / "report.html"
    uri = tracking_uri("auto", store)
    for run_id in ("pretrain-a", "finetune-b", "probe-c"):
        train(store, run_id, range(1, 3))
        finish(store, run_id)
    report.write_text("first")
    assert Follower(store, PLAN, uri).finish([report], {"runs.DONE": "3"})

    def refuse(address: str) -> None:
        raise ConnectionError(address)

    monkeypatch.setattr(mlflow_module, "mlflow_client", refuse)
    assert Follower(store, PLAN, uri).finish([report], {"runs.DONE": "3"})
    moved = tmp_path / "mlflow.db"
    moved.rename(tmp_path / "elsewhere.db")
    assert not Follower(store, PLAN, uri).finish([report], {"runs.DONE": "3"}, seconds=0.2), "a deleted database is noticed"
    (tmp_path / "elsewhere.db").rename(moved)
    report.write_text("second")
    assert not Follower(store, PLAN, uri).finish([report], {"runs.DONE": "3"}, seconds=0.2)
    report.write_text("first")
    store.run("probe-c").begin(run_record("probe-c"))
    store.run("probe-c").finish(run_result("probe-c", metrics={"eval/top1": 0.6}))
    (store.run("probe-c").path / "result.json").unlink()
    assert not Follower(store, PLAN, uri).finish([report], {"runs.DONE": "3"}, seconds=0.2)


def test_a_damaged_cursor_is_not_trusted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_json(
        store.study("t") / "tracking.json", {"uri": "sqlite:////elsewhere.db", "runs": {"pretrain-a": {"id": "x", "step": 9}}}
    )
    train(store, "pretrain-a", range(1, 3))
    uri = tracking_uri("auto", store)
    Follower(store, PLAN, uri).poll()
    assert len(loss_curve(MlflowClient(uri), runs_of(MlflowClient(uri))["pretrain-a"].info.run_id)) == 2
