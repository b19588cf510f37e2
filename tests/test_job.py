"""`ray job submit` to a real cluster head with token authentication, as described in docs/cluster.md."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, WriteStudy, clean_environment

from orchestrator import results
from orchestrator.prepare import prepare, storage_root
from orchestrator.store.attempts import attempts_of
from orchestrator.store.layout import Store

pytestmark = pytest.mark.timeout(600)
RAY = str(Path(sys.executable).parent / "ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(folder: str) -> list[int]:
    """Ids of processes with this folder in their command line: those of one Ray head."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if folder.encode() in entry.read_bytes() and int(entry.parent.name) != os.getpid():
                pids.append(int(entry.parent.name))
        except OSError:
            continue
    return pids


@pytest.fixture
def head() -> Iterator[tuple[str, dict[str, str], str]]:
    """A Ray head on loopback with a token: (address of its job API, environment of a client, address of the head)."""
    with tempfile.TemporaryDirectory(prefix="vsj", dir="/tmp") as folder:  # short: unix sockets live in it
        port, token = free_port(), Path(folder, "token")
        activated = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the job's `python` is the head's
        environment = {**clean_environment(), "RAY_AUTH_TOKEN_PATH": str(token), "PATH": activated}
        command = [str(ROOT / "cluster/head.sh"), "--num-cpus=2", f"--temp-dir={folder}", f"--port={(gcs := free_port())}"]
        command += [f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"]
        command += [f"--ray-client-server-port={free_port()}"]
        try:
            started = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
            assert started.returncode == 0, started.stdout + started.stderr
            assert token.stat().st_mode & 0o777 == 0o600
            yield f"http://127.0.0.1:{port}", {**environment, "RAY_AUTH_MODE": "token"}, f"127.0.0.1:{gcs}"
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid in processes_of(folder):
                    os.kill(pid, number)
                time.sleep(2)


@pytest.mark.slow
def test_a_study_through_ray_job_submit(head: tuple[str, dict[str, str], str], write_study: WriteStudy, tmp_path: Path) -> None:
    address, environment, gcs = head

    def change(content: dict) -> None:
        content["pretrain"]["sizes"] = [128]
        content["storage"] = {"path": str(tmp_path / "runs")}

    study = write_study(change)
    submit = [
        RAY,
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        str(ROOT),
        "--",
        "python",
        "-m",
        "orchestrator.study",
    ]
    done = subprocess.run([*submit, str(study)], env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    frame = results.collect(tmp_path / "runs", "tiny")
    assert set(frame["status"]) == {"DONE"}
    for text in ("/8 runs", "; newest ", "mlflow ui"):  # speed and time left are shown once there is a basis for them
        assert text in done.stdout, done.stdout[-4000:]
    refused = subprocess.run(
        [*submit, str(study)],
        env={**environment, "RAY_AUTH_TOKEN_PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert refused.returncode != 0, "the job API requires the token"
    check_with_the_doctor(address, environment, gcs, tmp_path)
    check_that_a_stopped_job_saves(address, environment, write_study, tmp_path)


def check_that_a_stopped_job_saves(address: str, environment: dict[str, str], write_study: WriteStudy, tmp_path: Path) -> None:
    """`ray job stop` while two runs are training: both save a checkpoint of their last step."""

    def change(content: dict) -> None:
        content["name"] = "stopped"
        content["pretrain"].update(sizes=[128], lengths=[{"steps": 20_000}])
        content["storage"] = {"path": str(tmp_path / "runs")}

    study = write_study(change)
    job = [RAY, "job", "submit", "--address", address, "--working-dir", str(ROOT), "--submission-id", "stopped", "--no-wait"]
    subprocess.run([*job, "--", "python", "-m", "orchestrator.study", str(study)], env=environment, check=True, timeout=60)
    store, runs = Store(tmp_path / "runs"), [run.run_id for run in prepare(study, str(tmp_path / "runs")).plan.runs]
    deadline = time.monotonic() + 120
    while sum(bool(store.run(run_id).metrics()) for run_id in runs) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    subprocess.run([RAY, "job", "stop", "--address", address, "stopped"], env=environment, check=True, timeout=120)
    frame = results.collect(tmp_path / "runs", "stopped")
    assert set(frame["status"]) == {"STOPPED"}
    begun = [store.run(run_id) for run_id in runs if store.run(run_id).attempts()]
    assert len(begun) == 2
    for folder in begun:
        step = int(attempts_of(folder)[-1].reason.rpartition(" ")[2])
        assert list(folder.path.glob(f"checkpoints/step-{step:09d}-*/COMPLETE"))


def check_with_the_doctor(address: str, environment: dict[str, str], gcs: str, storage: Path) -> None:
    """`vitscale doctor` for this head with its token, without a token and with another token; and the check of its nodes."""
    code = (
        "from orchestrator.doctor.cluster import dashboard, head; print([f'{f.level} {f.text}' for f in head() + dashboard()])"
    )
    client = {**environment, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    for changes, finding in (
        ({}, "ok the head"),
        ({"RAY_AUTH_MODE": "disabled"}, "fail modes differ"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "fail the head"),
    ):
        output = subprocess.check_output([sys.executable, "-c", code], env={**client, **changes}, text=True)
        assert finding in output, output
        assert "listens on loopback only" in output
    command = [sys.executable, "-m", "orchestrator.doctor.nodes", str(storage)]
    done = subprocess.run(command, env={**client, "RAY_ADDRESS": gcs}, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1:] == ["[[], 1]"], done.stdout + done.stderr
    assert not list(storage.glob(".probe-*"))


def test_relative_storage_in_a_job_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage_root("runs") == Path.cwd() / "runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert storage_root("runs") == tmp_path / "vitscale/runs"
    assert storage_root("/shared/runs") == Path("/shared/runs")
