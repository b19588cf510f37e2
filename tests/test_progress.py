"""The log of a job (short while all runs succeed, failures at once) and the GPU-hours of a study."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from records import run_record
from rich.console import Console
from test_results import GROUP, cell, finish, make_store

from orchestrator.monitor import progress
from orchestrator.monitor.follow import GpuHours
from orchestrator.monitor.progress import Progress, log_gap_seconds
from orchestrator.plan.records import PlanFile
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from orchestrator.store.watch import Watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time that `progress` reads, as a list with one value."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def plan_of(store: Store) -> PlanFile:
    plan = store.plan("toy")
    assert plan is not None
    return plan


def test_a_log_summarises_progress_and_prints_failures_at_once(tmp_path: Path, clock: list[float]) -> None:
    runs = [run for seed in range(25) for run in cell("vit", 1000, seed)]
    store, log = make_store(tmp_path, runs), io.StringIO()
    with Progress(store, plan_of(store), Console(file=log)) as shown:
        for number, run in enumerate(runs):
            clock[0] += 0.5
            if number == 60:
                store.run(run.run_id).fail(State.DIVERGED, "loss not finite\nTraceback")
            else:
                finish(store, run.run_id, 0.5)
            before = log.getvalue()
            shown.refresh()
            if number == 60:
                assert "diverged probe" not in before
                assert "diverged" in log.getvalue()[len(before) :]
    lines = log.getvalue().splitlines()
    assert len(lines) <= 50 / 10 + 2  # 100 runs in 50 seconds
    assert "100/100 runs" in lines[-1]
    assert "1 diverged" in lines[-1]
    assert "newest" in lines[-1]
    assert "Traceback" not in log.getvalue()


def test_a_log_prints_a_line_at_intervals_while_nothing_changes(tmp_path: Path, clock: list[float]) -> None:
    store, log = make_store(tmp_path, cell("vit", 1000)), io.StringIO()
    with Progress(store, plan_of(store), Console(file=log)) as shown:
        for _ in range(1200):
            clock[0] += 0.5
            shown.refresh()
    assert 10 <= len(log.getvalue().splitlines()) <= 40
    assert [log_gap_seconds(t) for t in (0, 400, 1e6)] == [10, 40, 300]


def test_a_log_shows_speed_and_time_left_once_there_is_a_basis(tmp_path: Path, clock: list[float]) -> None:
    """Four runs of one planned second each: after half of the first one in 30 s, the other 3.4 seconds take 204 s."""
    runs = cell("vit", 1000)
    store, log = make_store(tmp_path, runs), io.StringIO()
    with Progress(store, plan_of(store), Console(file=log)) as shown:
        metrics = store.run(runs[0].run_id).begin(run_record())
        for step in (1, 5, 6):
            with metrics.open("a") as file:
                file.write(json.dumps({"step": step, "time": 1.0, "speed/images_per_second": 90.0}) + "\n")
            clock[0] += 15
            shown.refresh()
    lines = log.getvalue().splitlines()
    assert ["0/4 runs, 90 images/s" in line for line in lines] == [True] * 3
    assert [" left" in line for line in lines] == [False, False, True], "the first steps of a cold process say too little"
    assert "3 min left" in lines[-1]


def test_gpu_hours_count_every_attempt_and_read_only_what_changed(tmp_path: Path) -> None:
    store = make_store(tmp_path, [run for seed in range(5) for run in cell("vit", 1000, seed)])
    runs = plan_of(store).runs
    for run in runs[:10]:
        finish(store, run.run_id, 0.5)  # two GPUs for 72 seconds
    spent, watch = GpuHours(plan_of(store)), Watch(store, [run.run_id for run in runs])
    spent.update(change.folder for change in watch.scan())
    assert spent.total == pytest.approx(10 * 0.04)
    assert not watch.scan(), "nothing changed, so no file is read again"
    begun = store.run(runs[15].run_id).begin(run_record(), GROUP.workers)
    start = json.loads(begun.read_text())["begin"]
    with begun.open("a") as file:
        file.write(json.dumps({"step": 1, "time": start + 3600}) + "\n")
    changed = watch.scan()
    assert [change.folder.run_id for change in changed] == [runs[15].run_id]
    spent.update(change.folder for change in changed)
    assert spent.total == pytest.approx(10 * 0.04 + GROUP.workers)
    finish(store, runs[15].run_id, 0.5)  # its result replaces the hours counted while it ran
    spent.update(change.folder for change in watch.scan())
    assert spent.total == pytest.approx(11 * 0.04)
