"""`vitscale status` from the store alone, with drivers that are alive, were killed with kill -9, or run on another host."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import WriteStudy
from records import plan_file, run_record
from test_results import cell, finish, make_store
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.plan.records import PlanFile
from orchestrator.prepare import prepare
from orchestrator.store.attempts import record_end
from orchestrator.store.layout import Store
from orchestrator.store.records import AttemptEnding
from orchestrator.store.state import State
from orchestrator.store.status import as_text, survey
from orchestrator.units import duration
from vitmodel.files import write_json

HOLD = """\
import sys, time
from pathlib import Path
from orchestrator.store.lease import Lease
Lease(Path(sys.argv[1])).take()
print("held", flush=True)
time.sleep(600)
"""


def entry(step: int, speed: float = 0.0) -> str:
    return json.dumps({"step": step, "train/loss": 1.0, "speed/images_per_second": speed, "time": time.time()}) + "\n"


def half_done(root: Path) -> tuple[Store, PlanFile]:
    """One run is done and took 72 s instead of 1 s; one is at step 4 of 10 in attempt 2; one failed; one is planned."""
    store = make_store(root, cell("vit", 1000))
    done, running, failed, _ = (run.run_id for run in cell("vit", 1000))
    finish(store, done, 0.5)
    store.run(running).begin(run_record())
    record_end(store.run(running), 0, AttemptEnding.OOM, "CUDA out of memory\nTraceback", 8)
    with store.run(running).begin(run_record()).open("a") as file:
        file.write(entry(3, 90.0) + entry(4, 100.0) + '{"step": 5, "tr')
    store.run(failed).begin(run_record())
    store.run(failed).fail(State.FAILED, "no space left\nTraceback")
    plan = store.plan("toy")
    assert plan is not None
    return store, plan


def test_every_run_with_step_attempts_cause_and_heartbeat(tmp_path: Path) -> None:
    store, plan = half_done(tmp_path)
    status = survey(store, plan)
    done, running, failed, planned = status.runs
    assert [run.state for run in status.runs] == [State.DONE, State.RUNNING, State.FAILED, State.PLANNED]
    assert (done.step, done.steps, done.cause, done.heartbeat_seconds) == (10, 10, "", None)
    assert (running.step, running.attempts, running.images_per_second) == (4, 2, 100.0)
    assert running.cause == "after oom: CUDA out of memory"
    assert running.heartbeat_seconds is not None
    assert 0 <= running.heartbeat_seconds < 30
    assert (failed.cause, failed.attempts, planned.attempts, planned.step) == ("no space left", 1, 0, 0)
    assert status.counts == {"DONE": 1, "FAILED": 1, "PLANNED": 1, "RUNNING": 1}
    assert status.work_seconds == pytest.approx(72 * (0.6 + 1))  # planned seconds times 72, the measured ratio
    assert (status.driver, status.eta_seconds, status.is_over) == (None, None, True)
    assert "no driver is working on it" in as_text(status)


def test_a_live_driver_and_a_killed_driver(tmp_path: Path) -> None:
    store, plan = half_done(tmp_path)
    driver = subprocess.Popen([sys.executable, "-c", HOLD, str(store.study("toy"))], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        alive = survey(store, plan)
        assert alive.driver is not None
        assert (alive.driver.pid, alive.driver.host, alive.driver.is_alive) == (driver.pid, socket.gethostname(), True)
        assert alive.eta_seconds == pytest.approx(alive.work_seconds)  # one run is running
        assert f"driver {driver.pid} on host {socket.gethostname()}" in as_text(alive)
        assert not alive.is_over
    finally:
        driver.kill()
        driver.wait()
    dead = survey(store, plan)
    assert dead.driver is not None
    assert (dead.driver.is_alive, dead.eta_seconds, dead.is_over) == (False, None, True)
    assert "dead" in as_text(dead)
    assert "run the same command to continue" in as_text(dead)


@pytest.mark.parametrize(("age", "is_alive"), [(10.0, True), (100.0, False)])
def test_a_driver_on_another_host_is_judged_by_its_heartbeat(age: float, is_alive: bool, tmp_path: Path) -> None:
    store, plan = half_done(tmp_path)
    lease = {"token": "t", "host": "elsewhere", "pid": 1, "time": time.time() - age}
    write_json(store.study("toy") / "lease.json", lease)
    driver = survey(store, plan).driver
    assert driver is not None
    assert (driver.host, driver.is_alive) == ("elsewhere", is_alive)
    assert driver.heartbeat_seconds == pytest.approx(age, abs=20)


def test_the_command_with_a_file_with_a_name_and_as_json(write_study: WriteStudy, tmp_path: Path) -> None:
    study, storage = write_study(), tmp_path / "runs"
    runner = CliRunner()
    by_file = runner.invoke(app, ["status", str(study), "--storage", str(storage), "--json"])
    assert by_file.exit_code == 0, by_file.output
    assert {run["state"] for run in json.loads(by_file.output)["runs"]} == {"PLANNED"}
    assert not storage.exists(), "status writes nothing"
    Store(storage).write_plan(prepare(study, str(storage)).plan_file([]))
    by_name = runner.invoke(app, ["status", "tiny", "--storage", str(storage), "--json", "--watch", "0.1"])
    assert json.loads(by_name.output)["runs"] == json.loads(by_file.output)["runs"]
    unknown = runner.invoke(app, ["status", "tinny", "--storage", str(storage)])
    assert "no study 'tinny'" in str(unknown.exception)
    assert "tiny" in str(unknown.exception)


def test_watching_ends_with_the_driver(tmp_path: Path) -> None:
    store, _ = half_done(tmp_path)
    lease = {"token": "t", "host": "elsewhere", "pid": 1, "time": time.time() - 59.0}
    write_json(store.study("toy") / "lease.json", lease)
    command = ["status", "toy", "--storage", str(tmp_path), "--watch", "0.2"]
    shown = CliRunner().invoke(app, command).output
    assert shown.count("runs done") >= 2
    assert "alive" in shown
    assert "dead" in shown.splitlines()[-1]


def test_status_of_two_thousand_runs_takes_seconds(tmp_path: Path) -> None:
    runs = [run for seed in range(500) for run in cell("vit", 1000, seed)]
    store = make_store(tmp_path, runs)
    for run in runs[:100]:
        store.run(run.run_id).begin(run_record())
    began = time.process_time()
    assert len(survey(store, plan_file(*runs, study="toy")).runs) == 2000
    assert time.process_time() - began < 5


def test_durations() -> None:
    assert [duration(s) for s in (-1, 42, 420, 12600, 1e6)] == ["0 s", "42 s", "7 min", "3.5 h", "12 d"]
