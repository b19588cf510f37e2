"""The fault injection of bench/chaos.py: what it counts, and that a fault it cannot inject does not end it. No Ray cluster."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import psutil
import pytest
from conftest import ROOT

TITLE = "ray::RayTrainWorker"


@pytest.fixture
def chaos(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bench/chaos.py, which waits for nothing."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    import chaos as module

    for constant in ("TARGET_SECONDS", "TRAINING_SECONDS", "REDRAW_SECONDS"):
        monkeypatch.setattr(module, constant, 0.0)
    return module


@pytest.fixture
def scene(chaos: ModuleType, tmp_path: Path) -> Any:
    """A scene without a cluster, whose driver runs."""
    import chaosscene

    empty = dict.fromkeys(("server", "study", "port", "environment"))
    driver = SimpleNamespace(poll=lambda: None)
    return chaosscene.Scene(folder=tmp_path, cluster=None, storage=tmp_path, is_small=False, driver=driver, **empty)


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line is that of a worker of Ray Train."""
    with subprocess.Popen([sys.executable, "-c", "input()", TITLE], stdin=subprocess.PIPE) as process:
        yield process


def raising(error: Exception) -> Callable[[Any, random.Random], bool]:
    def fault(scene: Any, draw: random.Random) -> bool:
        raise error

    return fault


def test_faults_that_cannot_be_injected_are_counted(
    chaos: ModuleType, scene: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = {
        "works": (1, lambda *_: True),
        "no target": (1, lambda *_: False),
        "gone": (1, raising(psutil.NoSuchProcess(4711))),
        "denied": (1, raising(PermissionError("not permitted"))),
        "command": (1, raising(subprocess.CalledProcessError(1, "leave.py"))),
        "ray": (1, raising(AssertionError("zombie processes left"))),
    }
    monkeypatch.setattr(chaos, "FAULTS", faults)
    injector = chaos.Faults(seed=0, every=1e-9, kinds=tuple(faults))
    for _ in range(60):
        time.sleep(1e-4)
        injector.inject(scene)
    assert set(injector.injected) == {"works"}
    assert set(injector.not_injected) == set(faults) - {"works"}
    assert injector.injected.total() + injector.not_injected.total() == 60
    printed = capsys.readouterr().out
    for line in ("works", "no target: not injected: no target", "denied: not injected: PermissionError: not permitted"):
        assert f" {line}\n" in printed
    rows = {row[:12].strip(): row[12:].split() for row in injector.table().splitlines()[1:]}
    assert rows == {name: [str(injector.injected[name]), str(injector.not_injected[name])] for name in faults}


def test_only_a_process_that_was_hit_counts(
    chaos: ModuleType, scene: Any, worker: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed; then it is a zombie; then it ends between being listed and being killed."""
    injector = chaos.Faults(seed=0, every=1e-9, kinds=("worker",))
    deadline = time.monotonic() + 30
    while not scene.actors(TITLE):
        assert time.monotonic() < deadline
    (process,) = scene.actors(TITLE)
    injector.inject(scene)
    assert (injector.injected.total(), injector.not_injected.total()) == (1, 0)
    while process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
    injector.inject(scene)
    assert worker.wait() == -9
    monkeypatch.setattr(scene, "actors", lambda title: [process])
    injector.inject(scene)
    assert (injector.injected.total(), injector.not_injected.total()) == (1, 2)


def test_a_node_that_is_not_drained_or_not_replaced_stays_counted(
    chaos: ModuleType, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chaosscene

    started: list[str] = []
    errors: list[Exception] = []

    def add_node(num_cpus: int) -> Any:
        if errors:
            raise errors.pop()
        started.append(f"node {len(started)}")
        return SimpleNamespace(node_id=started[-1])

    removed: list[str] = []
    scene.cluster = SimpleNamespace(add_node=add_node, remove_node=lambda node, allow_graceful: removed.append(node.node_id))
    draw = random.Random(0)
    scene.draw_node(draw)
    assert len(scene.nodes) == chaosscene.NODES

    monkeypatch.setattr(
        chaosscene.subprocess, "run", lambda *_, **__: raising(subprocess.CalledProcessError(1, ""))(scene, draw)
    )
    with pytest.raises(subprocess.CalledProcessError):
        chaosscene.drain_node(scene, draw)
    assert (len(scene.nodes), removed) == (chaosscene.NODES, [])
    errors.append(TimeoutError("the node did not join"))
    with pytest.raises(TimeoutError):
        chaosscene.kill_node(scene, draw)
    assert (len(scene.nodes), len(removed)) == (chaosscene.NODES - 1, 1)
    assert chaosscene.kill_node(scene, draw)
    assert (len(scene.nodes), len(removed)) == (chaosscene.NODES, 2)


@pytest.mark.parametrize("case", [(True, False, 0), (True, True, 1), (False, False, 1)])
def test_exit_code_and_report(
    case: tuple[bool, bool, int],
    chaos: ModuleType,
    scene: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    is_injected, is_lost, code = case
    fault = (lambda *_: True) if is_injected else raising(psutil.AccessDenied(1))
    outcomes = iter([{"run": "[{}, []]"}, {} if is_lost else {"run": "[{}, []]"}])

    def finish(scene: Any, meanwhile: Callable[[], None]) -> int:
        meanwhile()
        faults.end = min(faults.end, time.monotonic())  # one study with faults
        return 0

    monkeypatch.setattr(chaos, "FAULTS", {"node": (1, fault)})
    monkeypatch.setattr(chaos, "finish", finish)
    monkeypatch.setattr(chaos, "empty", lambda storage: None)
    monkeypatch.setattr(chaos, "outcome", lambda scene: next(outcomes))
    monkeypatch.setattr(chaos.results, "collect", lambda *_: pd.DataFrame({"attempts": [1]}))
    faults = chaos.Faults(seed=0, every=1.0, kinds=("node",))
    assert chaos.play(scene, faults, minutes=1) == code
    printed = capsys.readouterr()
    assert f"{int(is_injected)} faults injected ({int(not is_injected)} not injected)" in printed.out
    assert f"{int(is_lost)} rows or curves different or lost" in printed.out
    assert ("no fault was injected" in printed.err) is not is_injected
