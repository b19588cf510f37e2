"""Faults of a run: retries by kind, smaller micro-batches, the stacks of a stall, limits that stop a running run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ONE_THREAD, Change, WriteStudy, bundle_of, groups_of_two, study_writer, without_ray
from records import run_record, run_result

from orchestrator import results
from orchestrator.execution import elastic, launch, worker
from orchestrator.execution.elastic import fitting, sizes
from orchestrator.execution.orders import BundleOrders
from orchestrator.plan.runs import Bundle
from orchestrator.prepare import Prepared, prepare
from orchestrator.spec.fault_tolerance import Checkpoint, Retries
from orchestrator.store.attempts import NextAttempt, attempts_of, next_attempt
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.records import AttemptEnd, AttemptEnding, ResizeRequest, read
from orchestrator.store.state import State
from orchestrator.store.stop import clear_stop, request_stop
from orchestrator.study import ExitCode
from vitmodel.config.base import UserError
from vitmodel.data.bad_samples import StoreUnavailableError
from vitmodel.files import read_json
from vitmodel.training import loop
from vitmodel.training.checkpoint import complete_checkpoints
from vitmodel.training.watchdog import STALLED_EXIT

F, K, P, M = AttemptEnding.FAILURE, AttemptEnding.KILLED, AttemptEnding.PREEMPTION, AttemptEnding.OOM
S, X, STOPPED = AttemptEnding.STALL, AttemptEnding.FINAL, AttemptEnding.STOPPED
BUDGETS = Retries(failures=2, preemptions=3, oom=2, stalls=1, pause_seconds=5.0)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([], NextAttempt(micro_batch=16, pause_seconds=0)),
        ([F], NextAttempt(micro_batch=16, pause_seconds=5)),
        ([F, K], NextAttempt(micro_batch=16, pause_seconds=10)),
        ([F, K, F], NextAttempt(failure=State.FAILED, reason="after 3 attempts: r")),
        ([P, P, P], NextAttempt(micro_batch=16, pause_seconds=20)),
        ([P, P, P, P], NextAttempt(failure=State.FAILED, reason="preempted 4 times: r")),
        ([P, P, F], NextAttempt(micro_batch=16, pause_seconds=20)),
        ([M], NextAttempt(micro_batch=8, pause_seconds=0)),
        ([M, M], NextAttempt(micro_batch=4, pause_seconds=0)),
        ([M, M, M], NextAttempt(failure=State.FAILED, reason="oom: r")),
        ([S], NextAttempt(micro_batch=16, pause_seconds=5)),
        ([S, S], NextAttempt(failure=State.STALLED, reason="r")),
        ([AttemptEnding.STOPPED], NextAttempt(micro_batch=16, pause_seconds=0)),
        ([X], NextAttempt(failure=State.FAILED, reason="r")),
    ],
)
def test_each_kind_of_failure_has_its_retries(ends: list[AttemptEnding], expected: NextAttempt) -> None:
    micro, attempts = 16, []
    for end in ends:
        attempts.append(AttemptEnd(end=end, reason="r", micro_batch=micro))
        micro = micro // 2 if end is M else micro
    assert next_attempt(attempts, 0, BUDGETS, planned_micro_batch=16, share=32) == expected
    again = next_attempt(attempts, len(attempts), BUDGETS, planned_micro_batch=16, share=32)
    assert again.failure is None, "retries are counted per session"
    assert again.micro_batch == micro, "the micro-batch that fits into memory is kept"


def test_a_micro_batch_divides_the_share_and_ends_at_one() -> None:
    def following(micro: int, share: int) -> NextAttempt:
        return next_attempt([AttemptEnd(end=M, micro_batch=micro)], 0, BUDGETS, planned_micro_batch=99, share=share)

    assert following(9, 18).micro_batch == 3
    assert following(2, 18).micro_batch == 1
    assert following(1, 18).failure is State.FAILED


def test_a_user_error_is_not_retried() -> None:
    assert worker.kind_of(UserError("no image")) is AttemptEnding.FINAL
    assert worker.kind_of(StoreUnavailableError("the store did not answer")) is AttemptEnding.FAILURE


def test_intervals_of_time_or_steps() -> None:
    parsed = {text: (c.seconds, c.steps) for text in ("10 min", "90 s", "1.5 h", "500 steps") for c in [Checkpoint(every=text)]}
    assert parsed == {"10 min": (600, None), "90 s": (90, None), "1.5 h": (5400, None), "500 steps": (None, 500)}
    for wrong in ("10", "0 min", "ten min", "5 epochs", "0 steps"):
        with pytest.raises(ValueError, match="an interval is a time"):
            Checkpoint(every=wrong)


# --- one worker, in this process -----------------------------------------------------------------------------------


def one_cell(content: dict[str, Any]) -> None:
    """One ViT, pretrained and fine-tuned once."""
    content["pretrain"].update(sizes=[128], models=content["pretrain"]["models"][:1], lengths=[{"steps": 24}])
    content["transfer"]["epochs"] = [1]
    del content["probe"]
    content["on_failure"] = {"retries": {"failures": 1, "oom": 2, "pause_seconds": 0}}
    content["resources"] = {"checkpoint": {"every": "4 steps"}}


def make_bundle(write_study: WriteStudy, storage: Path, change: Change) -> tuple[Prepared, BundleOrders]:
    """A planned study with its data, and the orders of its only bundle."""
    prepared = prepare(write_study(change), str(storage))
    return prepared, bundle_of(prepared)


def limit_memory(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """A device whose memory holds micro-batches of this size."""
    forward_backward = loop.forward_backward

    def limited(job: Any, engine: Any, images: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(images) > largest:
            raise torch.OutOfMemoryError(f"{len(images)} images are too many")
        return forward_backward(job, engine, images, *rest)

    monkeypatch.setattr(loop, "forward_backward", limited)


def work(orders: BundleOrders) -> None:
    """One worker group, in this process."""
    worker.work({"orders": orders.model_dump_json()})


def work_as_ray_would(orders: BundleOrders) -> None:
    """Restart the group as long as it ends with an error and has retries left."""
    for _ in range(orders.group_failures + 1):
        try:
            work(orders)
            return
        except Exception:
            continue


def test_out_of_memory_halves_the_micro_batch(write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, bundle = make_bundle(write_study, tmp_path / "runs", one_cell)
    limit_memory(monkeypatch, 8)
    work_as_ray_would(bundle)
    frame = results.collect(prepared.store.root, "tiny")
    assert set(frame["status"]) == {"DONE"}
    assert frame.set_index("phase")["micro_batch"].to_dict() == {"pretrain": 8, "finetune": 8}
    pretrain = prepared.store.run(frame["run_id"][0])
    assert [(a.end, a.micro_batch) for a in attempts_of(pretrain)][:2] == [(M, 32), (M, 16)]
    assert not (pretrain.path / "checkpoints").exists(), "checkpoints of a finished run are deleted"


def test_out_of_memory_after_all_retries_is_a_failure(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, bundle = make_bundle(write_study, tmp_path / "runs", one_cell)
    limit_memory(monkeypatch, 0)
    work_as_ray_would(bundle)
    frame = results.collect(prepared.store.root, "tiny").set_index("phase")
    assert frame["status"].to_dict() == {"pretrain": "FAILED", "finetune": "SKIPPED"}
    assert frame["reason"]["pretrain"].startswith("oom: OutOfMemoryError: 8 images are too many")
    assert frame["attempts"]["pretrain"] == 3


def test_an_error_is_retried_from_the_checkpoint(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, bundle = make_bundle(write_study, tmp_path / "runs", one_cell)
    train_step, met = loop.train_step, []

    def flaky(job: Any, engine: Any, loaded: Any, step: int) -> torch.Tensor:
        if step == 13 and not met:
            met.append(step)
            raise ConnectionError("the storage is unavailable")
        return train_step(job, engine, loaded, step)

    monkeypatch.setattr(loop, "train_step", flaky)
    work(bundle)
    frame = results.collect(prepared.store.root, "tiny")
    assert frame[["status", "attempts"]].to_numpy().tolist() == [["DONE", 2], ["DONE", 1]]
    pretrain = prepared.store.run(frame["run_id"][0])
    result = pretrain.result()
    assert result is not None
    assert result.metrics["start_step"] in (8, 12)
    assert "the storage is unavailable" in attempts_of(pretrain)[0].reason


def test_a_spent_budget_stops_a_running_run_and_a_larger_one_resumes_it(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, bundle = make_bundle(write_study, tmp_path / "runs", one_cell)
    monkeypatch.setattr(worker, "STOP_CHECK_SECONDS", 0.0)
    study, train_step = prepared.store.study("tiny"), loop.train_step

    def watched(job: Any, engine: Any, loaded: Any, step: int) -> torch.Tensor:
        if step == 6:
            request_stop(study, State.BUDGET, "limit of 1 GPU-hours")
        return train_step(job, engine, loaded, step)

    monkeypatch.setattr(loop, "train_step", watched)
    work(bundle)
    frame = results.collect(prepared.store.root, "tiny").set_index("phase")
    assert frame["status"].to_dict() == {"pretrain": "BUDGET", "finetune": "BUDGET"}
    monkeypatch.setattr(loop, "train_step", train_step)
    clear_stop(study)
    (planned,) = prepared.local_bundles()
    work(launch.make_orders(prepared.file.study, prepared.plan, planned, prepared.store))
    result = prepared.store.run(frame["run_id"]["pretrain"]).result()
    assert result is not None
    assert result.metrics["start_step"] == 7, "the step at which it was stopped"


def test_a_nan_gradient_is_detected_while_the_loss_is_finite(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def staged(content: dict[str, Any]) -> None:
        one_cell(content)
        content["resources"]["zero_stage"] = 2

    prepared, bundle = make_bundle(write_study, tmp_path / "runs", staged)
    forward_backward, steps = loop.forward_backward, []

    def poisoned(job: Any, engine: Any, *rest: Any) -> torch.Tensor:
        steps.append(1)
        if len(steps) == 6:
            handle = next(engine.module.parameters()).register_hook(lambda gradient: gradient * float("nan"))
            loss = forward_backward(job, engine, *rest)
            handle.remove()
            return loss
        return forward_backward(job, engine, *rest)

    monkeypatch.setattr(loop, "forward_backward", poisoned)
    work(bundle)
    frame = results.collect(prepared.store.root, "tiny").set_index("phase")
    assert frame["status"].to_dict() == {"pretrain": "DIVERGED", "finetune": "SKIPPED"}
    assert "not finite at step 6; last finite loss" in frame["reason"]["pretrain"]
    assert frame["attempts"]["pretrain"] == 1, "it would diverge again, so it is not retried"


def limited(write_study: WriteStudy, limit: str, seconds: float) -> Path:
    """A pretraining that takes longer than the limit. Its plan is within a limit of GPU-hours, so it is not refused."""

    def change(content: dict[str, Any]) -> None:
        one_cell(content)
        del content["transfer"]
        model = {**content["pretrain"]["models"][0], "width": 96, "depth": 4, "patch": 4}
        content["pretrain"].update(models=[model], sizes=[256], lengths=[{"steps": 300 if limit == "gpu_hours" else 30_000}])
        content["pretrain"]["recipe"]["vit"]["batch_size"] = 128
        content["resources"] = {
            "gpus_per_worker": int(limit == "gpu_hours"),
            "cpus_per_worker": 1,
            "checkpoint": {"every": "1 h"},
        }
        content["budget"] = {limit: seconds / 3600}

    return write_study(change)


@pytest.mark.parametrize("limit", ["wall_hours", pytest.param("gpu_hours", marks=pytest.mark.slow)])
def test_a_limit_ends_the_command_with_4_and_saves_the_run(limit: str, write_study: WriteStudy, tmp_path: Path) -> None:
    """The running run saves and stops soon after the limit, and does not count as a failure."""
    seconds = {"wall_hours": 4.0, "gpu_hours": 1.8}[limit]
    (run,) = prepare(limited(write_study, limit, seconds), str(tmp_path / "runs")).plan.runs
    folder = Store(tmp_path / "runs").run(run.run_id)
    while not folder.attempts():  # until the limit is reached during the run, not before it
        seconds *= 2
        study = limited(write_study, limit, seconds)
        command = without_ray(study, tmp_path / "runs")
        done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == ExitCode.OVER_BUDGET, done.stdout + done.stderr
        assert f"stopping: {'wall-clock limit' if limit == 'wall_hours' else 'limit'} of" in done.stdout
    assert folder.state() is State.BUDGET
    stopped_and_saved(folder)
    if limit == "gpu_hours":
        assert folder.spent()[0] > seconds, "seconds on one GPU"


def stopped_and_saved(folder: RunFolder) -> None:
    (ended,) = attempts_of(folder)
    assert ended.end is AttemptEnding.STOPPED
    step = int(ended.reason.rpartition(" ")[2])
    (path,) = complete_checkpoints(folder.path / "checkpoints")
    assert path.name.startswith(f"step-{step:09d}"), "it resumes from there"
    assert 0 < step < read_json(folder.path / "config.json")["config"]["steps"]


@pytest.mark.parametrize("way", ["SIGTERM", pytest.param("vitscale stop", marks=pytest.mark.slow)])
def test_a_stop_request_loses_nothing(way: str, write_study: WriteStudy, tmp_path: Path) -> None:
    study = limited(write_study, "wall_hours", 3600)
    (run,) = prepare(study, str(tmp_path / "runs")).plan.runs
    folder = Store(tmp_path / "runs").run(run.run_id)
    command = [sys.executable, "-m", "orchestrator.cli", "stop", "tiny", "--storage", str(tmp_path / "runs")]
    driver = subprocess.Popen(without_ray(study, tmp_path / "runs"), env=ONE_THREAD, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: folder.attempts() and folder.metrics())
        if way == "SIGTERM":
            driver.terminate()
        else:
            subprocess.run(command, env=ONE_THREAD, check=True)
        output = driver.communicate(timeout=60)[0]
    finally:
        driver.kill()
    assert driver.returncode == ExitCode.SOME_FAILED, output
    assert f"stopping: {way if way == 'SIGTERM' else '`vitscale stop`'} (every run saves a checkpoint first" in output
    assert folder.state() is State.STOPPED
    stopped_and_saved(folder)
    again = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert again.returncode == ExitCode.USER_ERROR
    assert "no live driver runs study 'tiny'" in again.stderr


def until(condition: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- two workers, processes of their own ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Two studies that groups of two workers ran, restarted until one succeeded: exit codes of each group."""

    faults: Prepared
    after_faults: list[list[int]]
    taken: Prepared
    after_taken: list[list[int]]
    then: list[list[int]]  # the groups of the driver that took over
    output: str


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Groups:
    """A study in which one worker gets a preemption notice and another hangs; a study that another driver takes over."""
    tmp = tmp_path_factory.mktemp("groups")

    def change(content: dict[str, Any]) -> None:
        one_cell(content)
        content["resources"] |= {"workers": 2, "zero_stage": 1, "stall_minutes": 0.1, "checkpoint": {"every": "1 h"}}

    def often(content: dict[str, Any]) -> None:
        change(content)
        content["resources"]["checkpoint"] = {"every": "8 steps"}

    faults, first = make_bundle(study_writer(tmp), tmp / "faults", change)
    taken, second = make_bundle(study_writer(tmp), tmp / "taken", often)
    pretrain, finetune = (order.run_id for order in first.runs)
    jobs = [
        (first, {pretrain: "sigterm", finetune: "stall"}),
        (second.model_copy(update={"session": "ours"}), {pretrain: "taken over"}),
        (second.model_copy(update={"session": "another's"}), {}),
    ]
    codes, output = groups_of_two(jobs, tmp)
    return Groups(faults=faults, after_faults=codes[0], taken=taken, after_taken=codes[1], then=codes[2], output=output)


def test_a_preemption_notice_and_a_stall_of_one_worker(groups: Groups) -> None:
    """SIGTERM to one of two: both save at one step and resume from it. One hangs: the stacks of both are kept, both restart."""
    assert groups.after_faults[1:] == [[STALLED_EXIT, STALLED_EXIT], [0, 0]], groups.output
    store = groups.faults.store
    frame = results.collect(store.root, "tiny")
    assert frame[["status", "attempts", "workers"]].to_numpy().tolist() == [["DONE", 2, 2]] * 2
    preempted, hung = (store.run(run_id) for run_id in frame["run_id"])
    first = attempts_of(preempted)[0]
    assert (first.end, first.reason) == (P, "stopped at step 10 by a preemption notice")
    result = preempted.result()
    assert result is not None
    assert result.metrics["start_step"] == 10
    assert attempts_of(hung)[0].end is S
    stacks = [path.read_text() for path in sorted((hung.path / "stacks").iterdir())]
    assert len(stacks) == 2
    assert any("in step" in text for text in stacks), "the worker that sleeps"


def test_a_group_whose_study_was_taken_over_writes_nothing(groups: Groups) -> None:
    """Its driver sent no heartbeat, another one holds the lease: it writes neither checkpoint nor result nor failure."""
    assert groups.after_taken == [[1, 1], [0, 0]], groups.output
    assert groups.then == [[0, 0]], groups.output
    run = groups.taken.store.run(groups.taken.plan.runs[0].run_id)
    ended = attempts_of(run)[0]
    assert (ended.end, ended.reason.partition(":")[0]) == (STOPPED, "another worker group has taken over this run")
    logged = [entry["step"] for entry in map(json.loads, run.metrics_files()[0].read_text().splitlines()) if "step" in entry]
    assert max(logged) > 16, "it reached steps at which it would have saved"
    result = run.result()
    assert result is not None
    assert (result.attempt, result.metrics["start_step"]) == (1, 8), "the last checkpoint before the other driver took over"
    assert [entry["step"] for entry in run.metrics()] == list(range(1, 25))


# --- elastic groups -----------------------------------------------------------------------------------


def test_only_sizes_that_give_the_exact_batch(write_study: WriteStudy, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        one_cell(content)
        content["resources"] = {"workers": {"min": 2, "max": 9}}

    prepared, bundle = make_bundle(write_study, tmp_path / "runs", change)
    planned: Bundle = prepared.local_bundles()[0]
    assert sizes(planned) == bundle.sizes == (2, 4, 8)
    assert str(planned.group) == "2 to 9 x 1 CPU"
    assert [fitting([2, 4, 8], free) for free in (1, 2, 3, 7, 8, 100)] == [0, 2, 2, 4, 8, 8]
    assert Store(tmp_path / "runs").root == prepared.store.root


def test_a_group_that_starts_slowly_is_not_resized(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU that it is about to take still counts as free: it must not be counted as capacity for a second worker."""

    def change(content: dict[str, Any]) -> None:
        one_cell(content)
        content["resources"] = {"workers": {"min": 1, "max": 2}}

    _, bundle = make_bundle(write_study, tmp_path / "runs", change)
    runs, resize = [bundle.folder(order) for order in bundle.runs], bundle.resize_file
    monkeypatch.setattr(elastic, "INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(elastic, "free_workers", lambda group: 1)
    requests = []

    def start(workers: int) -> int:
        time.sleep(0.3)
        requests.append(resize.exists())  # no run has started: no request to resize
        for run in runs:
            run.begin(run_record(run.run_id))
        deadline = time.monotonic() + 10
        while not resize.exists():  # now one free is one more
            assert time.monotonic() < deadline
            time.sleep(0.01)
        requests.append(read(resize, ResizeRequest))
        for run in runs:
            run.finish(run_result(run.run_id))
        return 1

    assert elastic.run(bundle, start) == 1
    assert requests == [False, ResizeRequest(workers=2)]
    assert not resize.exists()
