"""The store: atomic writes, states, attempts and the lease, with real processes where it matters."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from records import run_record, run_result

from orchestrator.store import lease as lease_module
from orchestrator.store.curve import origin_line
from orchestrator.store.fencing import Fence
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.lease import Lease, LeaseHeldError
from orchestrator.store.state import State
from orchestrator.store.watch import Watch
from vitmodel.files import read_json, write_json


def entry(step: int, loss: float) -> str:
    return json.dumps({"step": step, "train/loss": loss, "time": 1.0}) + "\n"


def test_states_of_a_run(tmp_path: Path) -> None:
    run = Store(tmp_path).run("pretrain-x")
    assert run.state() is State.PLANNED
    run.begin(run_record())
    assert run.state() is State.RUNNING
    run.fail(State.DIVERGED, "nan")
    assert run.state() is State.DIVERGED
    run.begin(run_record())
    assert run.state() is State.RUNNING
    assert run.attempts() == 2
    run.finish(run_result())
    run.fail(State.FAILED, "a zombie of the first attempt")
    assert run.state() is State.DONE


def test_attempts_make_one_curve(tmp_path: Path) -> None:
    run = Store(tmp_path).run("pretrain-x")
    for lines in (entry(1, 1.0) + entry(2, 0.9) + entry(3, 0.8), entry(3, 0.7) + entry(4, 0.6) + '{"step": 5, "tr'):
        with run.begin(run_record()).open("a") as file:
            file.write(lines)
    assert [(e["step"], e["train/loss"]) for e in run.metrics()] == [(1, 1.0), (2, 0.9), (3, 0.7), (4, 0.6)]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """A process rewrites a file as fast as it can and is killed; the file that remains is complete."""
    path = tmp_path / "x.json"
    write_json(path, {"n": list(range(2000))})
    code = "import sys; from pathlib import Path; from vitmodel.files import write_json\n"
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
    assert watch.scan() == []
    metrics = store.run("a").begin(run_record())
    assert [(change.folder.run_id, change.state) for change in watch.scan()] == [("a", State.RUNNING)]
    assert watch.scan() == []
    with metrics.open("a") as file:
        file.write(entry(7, 0.5))
    assert watch.scan()[0].last["step"] == 7
    store.run("a").finish(run_result("a"))
    assert watch.scan()[0].state is State.DONE
    assert watch.scan() == []


def test_a_live_lease_is_respected_and_that_of_a_dead_driver_is_taken(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    lease.take()
    with pytest.raises(LeaseHeldError, match=f"driver {os.getpid()}"):
        Lease(tmp_path).take()
    lease.release()
    assert not lease.path.exists()
    code = "from pathlib import Path; import time; from orchestrator.store.lease import Lease; "
    code += f"Lease(Path({str(tmp_path)!r})).take(); "
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "print('taken', flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(LeaseHeldError):
        Lease(tmp_path).take()
    holder.kill()
    holder.wait()
    Lease(tmp_path).take()  # without waiting, because its process has ended


def test_a_lease_has_heartbeats_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    lease = Lease(tmp_path)
    lease.take()
    first = read_json(lease.path)["time"]
    time.sleep(0.5)
    assert read_json(lease.path)["time"] > first
    lease.release()
    time.sleep(0.2)
    assert not lease.path.exists()


def test_a_lease_of_another_host_expires(tmp_path: Path) -> None:
    write_json(tmp_path / "lease.json", {"token": "t", "host": "elsewhere", "pid": 1, "time": time.time()})
    with pytest.raises(LeaseHeldError, match="elsewhere"):
        Lease(tmp_path).take()
    old = time.time() - 2 * lease_module.LEASE_SECONDS
    write_json(tmp_path / "lease.json", {"token": "t", "host": "elsewhere", "pid": 1, "time": old})
    Lease(tmp_path).take()


def test_only_one_attempt_has_a_number(tmp_path: Path) -> None:
    """Two groups that begin at the same moment: each has metrics of its own."""
    code = "from pathlib import Path; from orchestrator.store.layout import RunFolder, RunRecord; "
    code += f"f = RunFolder(Path({str(tmp_path / 'x')!r})); "
    code += f"record = RunRecord.model_validate_json({run_record().model_dump_json()!r}); "
    code += "input(); print([f.begin(record).name for _ in range(50)])"
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    names = [name for process in both for name in ast.literal_eval(process.communicate("\n")[0])]
    assert len(set(names)) == 100


def begun(run: RunFolder, lines: list[dict[str, Any]], session: str = "") -> None:
    with run.begin(run_record(), 1, session).open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))


def losses(*steps: int, attempt: int) -> list[dict[str, Any]]:
    return [{"step": step, "train/loss": attempt, "time": 1.0} for step in steps]


def test_a_curve_follows_the_checkpoints_it_resumed_from(tmp_path: Path) -> None:
    """A group that was replaced continued to log, and completed a checkpoint from which a third group resumed."""
    run = Store(tmp_path).run("pretrain-x")
    begun(run, [origin_line(None, 0, 1.0), *losses(10, 20, 30, 40, 50, attempt=0)])
    begun(run, [origin_line(0, 15, 1.0), *losses(20, 30, attempt=1)])
    begun(run, [origin_line(0, 40, 1.0), *losses(50, attempt=2)])
    begun(run, [])
    assert [(e["step"], e["train/loss"]) for e in run.metrics()] == [(10, 0), (20, 0), (30, 0), (40, 0), (50, 2)]
    run.finish(run_result(attempt=1))
    assert [(e["step"], e["train/loss"]) for e in run.metrics()] == [(10, 0), (20, 1), (30, 1)]


def test_a_fence_ends_with_the_driver_or_with_a_later_attempt_of_the_same_driver(tmp_path: Path) -> None:
    run, lease = Store(tmp_path).run("pretrain-x"), Lease(tmp_path)
    lease.take()
    begun(run, [], lease.token)
    first = Fence(study=tmp_path, session=lease.token, folder=run, attempt=0)
    assert first.is_current()
    begun(run, [], "of another study that shares the run, or of a driver that is dead")
    assert first.is_current()
    begun(run, [], lease.token)
    second = Fence(study=tmp_path, session=lease.token, folder=run, attempt=2)
    assert (first.is_current(), second.is_current()) == (False, True)
    lease.release()
    assert second.is_current(), "no other driver has taken the study"
    Lease(tmp_path).take()
    assert not second.is_current()


def test_a_lease_that_was_taken_over_is_not_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    lost = threading.Event()
    Lease(tmp_path, on_lost=lost.set).take()
    write_json(tmp_path / "lease.json", {"token": "another", "host": "elsewhere", "pid": 1, "time": time.time()})
    assert lost.wait(5)
    time.sleep(0.2)
    assert read_json(tmp_path / "lease.json")["token"] == "another"
