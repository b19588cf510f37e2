"""The store: atomic writes, states, attempts and the lease, with real processes where it matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator import store as store_module
from orchestrator.records.watch import Watch
from orchestrator.store import Lease, LeaseHeldError, State, Store, read_json, write_json


def entry(step: int, loss: float) -> str:
    return json.dumps({"step": step, "train/loss": loss, "time": 1.0}) + "\n"


def test_states_of_a_run(tmp_path: Path) -> None:
    run = Store(tmp_path).run("pretrain-x")
    assert run.state() is State.PLANNED
    run.begin({"config": {}})
    assert run.state() is State.RUNNING
    run.fail(State.DIVERGED, "nan")
    assert run.state() is State.DIVERGED
    run.begin({"config": {}})
    assert run.state() is State.RUNNING
    assert run.attempts() == 2
    run.finish({"metrics": {}})
    run.fail(State.FAILED, "a zombie of the first attempt")
    assert run.state() is State.DONE


def test_attempts_make_one_curve(tmp_path: Path) -> None:
    run = Store(tmp_path).run("pretrain-x")
    for lines in (entry(1, 1.0) + entry(2, 0.9) + entry(3, 0.8), entry(3, 0.7) + entry(4, 0.6) + '{"step": 5, "tr'):
        with run.begin({}).open("a") as file:
            file.write(lines)
    assert [(e["step"], e["train/loss"]) for e in run.metrics()] == [(1, 1.0), (2, 0.9), (3, 0.7), (4, 0.6)]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """A process rewrites a file as fast as it can and is killed; what is left is whole."""
    path = tmp_path / "x.json"
    write_json(path, {"n": list(range(2000))})
    code = "import sys; from pathlib import Path; from orchestrator.store import write_json\n"
    code += f"while True: write_json(Path({str(path)!r}), {{'n': list(range(2000))}})"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            assert len(read_json(path)["n"]) == 2000
        writer.kill()
        writer.wait()
        assert len(read_json(path)["n"]) == 2000


def test_the_watch_reports_changes_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    watch = Watch(store, ["a", "b"])
    assert watch.look() == []
    metrics = store.run("a").begin({})
    assert [(seen.folder.run_id, seen.state) for seen in watch.look()] == [("a", State.RUNNING)]
    assert watch.look() == []
    with metrics.open("a") as file:
        file.write(entry(7, 0.5))
    assert watch.look()[0].last["step"] == 7
    store.run("a").finish({})
    assert watch.look()[0].state is State.DONE
    assert watch.look() == []


def test_a_live_lease_holds_and_a_dead_ones_is_taken(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    lease.take()
    with pytest.raises(LeaseHeldError, match=f"driver {os.getpid()}"):
        Lease(tmp_path).take()
    lease.release()
    assert not lease.path.exists()
    code = (
        f"from pathlib import Path; import time; from orchestrator.store import Lease; Lease(Path({str(tmp_path)!r})).take(); "
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "print('taken', flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(LeaseHeldError):
        Lease(tmp_path).take()
    holder.kill()
    holder.wait()
    Lease(tmp_path).take()  # at once: its process is gone


def test_a_lease_beats_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HEARTBEAT_SECONDS", 0.05)
    lease = Lease(tmp_path)
    lease.take()
    first = read_json(lease.path)["time"]
    time.sleep(0.5)
    assert read_json(lease.path)["time"] > first
    lease.release()
    time.sleep(0.2)
    assert not lease.path.exists()


def test_a_lease_of_another_host_ages(tmp_path: Path) -> None:
    write_json(tmp_path / "lease.json", {"token": "t", "host": "elsewhere", "pid": 1, "time": time.time()})
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        Lease(tmp_path).take()
    old = time.time() - 2 * store_module.LEASE_SECONDS
    write_json(tmp_path / "lease.json", {"token": "t", "host": "elsewhere", "pid": 1, "time": old})
    Lease(tmp_path).take()
