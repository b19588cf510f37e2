"""The outcome of a run: exact seconds over elastic attempts, MFU against the peak of all cores, the end on the terminal."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from records import run_facts, run_record, run_result

from orchestrator.finish import open_run_lines
from orchestrator.plan.runs import WorkerGroup
from orchestrator.results import outcome
from orchestrator.store.eta import LEAST_SECONDS, eta_seconds
from orchestrator.store.fencing import Fence
from orchestrator.store.layout import Store
from orchestrator.store.result import make_result


def result_with(group: WorkerGroup, folder: Path, workers: int = 2) -> dict[str, float]:
    """The outcome of a run that took 10 s at 100 images/s, on a device of 1e11 FLOP/s."""
    run = Store(folder).run("pretrain-a")
    metrics_file = run.begin(run_record(), workers)
    with metrics_file.open("a") as file:
        file.write('{"step": 1, "time": 1.0, "speed/images_per_second": 100.0}\n')
    fence = Fence(study=folder, session="", folder=run, attempt=0)
    result = make_result(
        fence, {"time/run_seconds": 10.0}, group=group, workers=workers, micro_batch=1, device_peak_flops=1e11, git=""
    )
    return outcome.of_result(result, run_facts())


def test_mfu_counts_every_core_of_a_worker(tmp_path: Path) -> None:
    one = result_with(WorkerGroup(workers=2, cpus_per_worker=1, gpus_per_worker=0, zero_stage=0), tmp_path / "one")
    four = result_with(WorkerGroup(workers=2, cpus_per_worker=4, gpus_per_worker=0, zero_stage=0), tmp_path / "four")
    gpu = result_with(WorkerGroup(workers=2, cpus_per_worker=4, gpus_per_worker=1, zero_stage=0), tmp_path / "gpu")
    assert one["mfu"] == pytest.approx(100 * 3 * 10**6 / 2e11)
    assert four["mfu"] == pytest.approx(one["mfu"] / 4)
    assert gpu["mfu"] == pytest.approx(one["mfu"]), "the peak of a GPU worker is that of its GPU"


def test_seconds_are_those_of_the_result_whatever_the_last_number_of_workers() -> None:
    """An elastic run: 100 s with 4 workers, then 100 s with 1. Its core-hours over the last number of workers gives 500 s."""
    elastic = run_result(workers=1, seconds=200.0, core_hours=500 / 3600)
    assert outcome.of_result(elastic, run_facts())["seconds"] == 200.0
    first_version = run_result(workers=2, seconds=None, core_hours=400 / 3600)
    assert outcome.of_result(first_version, run_facts())["seconds"] == pytest.approx(200.0)


def frame_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["status", "run_id", "reason"])


def test_a_stopped_study_is_summed_up_in_two_lines() -> None:
    stopped = [("STOPPED", f"run-{number}", "SIGINT (every run saves a checkpoint first)") for number in range(145)]
    lines = open_run_lines(frame_of(("DONE", "a", ""), *stopped))
    assert lines == [
        "STOPPED: 145 run(s): SIGINT (every run saves a checkpoint first)",
        "Every running training saved a checkpoint. Run the same command to continue.",
    ]


def test_failed_runs_are_listed_with_their_cause_up_to_a_limit() -> None:
    failed = [("FAILED", f"run-{number}", f"cause {number}\nTraceback") for number in range(30)]
    lines = open_run_lines(frame_of(*failed, ("SKIPPED", "child", "parent run-0 has no result")))
    assert lines[0] == "FAILED: run-0: cause 0"
    assert lines[20] == "10 more failed runs are listed in the report"
    assert lines[21:] == ["SKIPPED: 1 run(s): parent run-0 has no result"]


def test_no_time_left_is_shown_before_the_estimate_is_reliable() -> None:
    assert eta_seconds(5.0, 50.0, 100.0) is None, "the first steps of a cold process"
    assert eta_seconds(60.0, 1.0, 100.0) is None, "one per cent of the work"
    assert eta_seconds(60.0, 50.0, 100.0) == pytest.approx(120.0)
    assert eta_seconds(60.0, 50.0, 0.0) == 0.0
    assert math.isfinite(LEAST_SECONDS)
