"""Whole studies with Ray Tune, Ray Train, DeepSpeed and MLflow in real processes: killed, resumed, diverged."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import ONE_THREAD, WriteStudy, clean_environment, run_study, study_command, study_writer, without_ray
from mlflow import MlflowClient
from processes import alive, family_of, named, within
from ruamel.yaml import YAML

from orchestrator import results
from orchestrator.store.attempts import attempts_of
from orchestrator.store.layout import Store
from orchestrator.store.records import AttemptEnding

pytestmark = pytest.mark.timeout(600)
LENGTHS = [{"epochs": 25}]


def outcomes(storage: Path, study: str = "tiny") -> pd.DataFrame:
    return results.outcomes(results.collect(storage, study)).set_index("run_id").sort_index()


def curves(storage: Path) -> dict[str, list[tuple[float, float]]]:
    """Every loss of every run, as (step, loss)."""
    store = Store(storage)
    return {
        path.name: [(entry["step"], entry["train/loss"]) for entry in store.run(path.name).metrics()]
        for path in sorted((storage / "runs").iterdir())
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """The tiny study, long enough to be killed in the middle, run once without faults: (file, storage, finished process)."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study = study_writer(folder)(lambda content: content["pretrain"].update(lengths=LENGTHS))
    done = run_study(study, folder / "runs", env=clean_environment())
    return study, folder / "runs", done


def test_a_study_ends_with_its_curves(undisturbed: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    _, storage, done = undisturbed
    assert done.returncode == 0, done.stdout + done.stderr
    folder = storage / "studies/tiny"
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {row["status"] for row in rows} == {"DONE"}
    report = (folder / "report.html").read_text()
    assert "ResNet" in report
    for text in ("results.csv", "report.html", "mlflow ui --backend-store-uri sqlite:///", "x the pure training time"):
        assert text in done.stdout
    assert "worker group(s) of 1 x 1 CPU in parallel" in done.stdout
    assert not (folder / "lease.json").exists()
    assert not (storage / "ray").exists() or not list((storage / "ray").iterdir())


def test_mlflow_has_one_run_per_run(undisturbed: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    _, storage, _ = undisturbed
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_id = {run.data.tags["run_id"]: run for run in runs}
    assert len(by_id) == len(runs) == 17
    parent = by_id.pop("study")
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} >= {"results.csv", "report.html"}
    for row in results.collect(storage, "tiny").itertuples():
        run = by_id[row.run_id]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.params["variant"] == row.variant
        assert run.data.metrics["eval/top1"] == pytest.approx(row.top1)
        if row.phase == "pretrain":
            curve = client.get_metric_history(run.info.run_id, "train/loss")
            ours = list(Store(storage).run(row.run_id).metrics())
            assert [(m.step, m.value) for m in curve] == [(e["step"], e["train/loss"]) for e in ours]
    vits = client.search_runs([experiment.experiment_id], "tags.phase = 'pretrain' and tags.family = 'vit'")
    assert len(vits) == 2


def test_the_same_command_again_trains_nothing(undisturbed: tuple[Path, Path, subprocess.CompletedProcess[str]]) -> None:
    study, storage, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in (storage / "runs").rglob("*") if path.is_file()}
    done = run_study(study, storage, env=clean_environment())
    assert done.returncode == 0, done.stderr
    assert "all runs were done already: nothing was trained" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (storage / "runs").rglob("*") if path.is_file()} == before


def test_another_study_shares_the_runs(
    undisturbed: tuple[Path, Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Another study with the same pretraining trains only its new fine-tune."""
    study, storage, _ = undisturbed
    yaml = YAML()
    content = yaml.load(study)
    content["name"], content["transfer"]["epochs"] = "second", [1, 3]
    content["pretrain"].update(sizes=[128], models=content["pretrain"]["models"][:1])
    with (tmp_path / "second.yaml").open("w") as file:
        yaml.dump(content, file)
    known = {path.name for path in (storage / "runs").iterdir()}
    done = subprocess.run(
        without_ray(tmp_path / "second.yaml", storage), env=ONE_THREAD, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    new = {path.name for path in (storage / "runs").iterdir()} - known
    assert len(new) == 1
    assert new.pop().startswith("finetune-")
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("second").experiment_id])
    assert len(runs) == 5


@pytest.mark.slow
def test_two_drivers_end_early_and_the_same_command_finishes(
    undisturbed: tuple[Path, Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The first is killed with kill -9 while runs are training, the second is stopped with Ctrl-C when some runs are done."""
    study, reference, _ = undisturbed
    storage = tmp_path / "runs"
    for results_wanted, number in ((0, signal.SIGKILL), (4, signal.SIGINT)):
        begun = len(list((storage / "runs").glob("*/metrics-*.jsonl")))
        driver = subprocess.Popen(
            study_command(study, storage), stdout=subprocess.DEVNULL, env=clean_environment(), start_new_session=True
        )
        await_files(driver, storage / "runs", "*/metrics-*.jsonl", begun + 2)
        family = family_of(driver)  # at this time, because it takes as long as several of these runs
        assert named(family, "RayTrainWorker")
        await_files(driver, storage / "runs", "*/result.json", results_wanted)
        if number == signal.SIGINT:  # a terminal sends SIGINT to all processes of the job
            os.killpg(driver.pid, number)
            assert driver.wait(timeout=60) == 1
            frame = results.collect(storage, "tiny")
            assert set(frame["status"]) == {"DONE", "STOPPED"}
            stopped = [Store(storage).run(run_id) for run_id in frame["run_id"][frame["status"] == "STOPPED"]]
            assert {attempts_of(folder)[-1].end for folder in stopped if folder.attempts()} <= {AttemptEnding.STOPPED}, (
                "no run was killed"
            )
        else:
            os.kill(driver.pid, number)
            driver.wait()
        assert len(list((storage / "runs").glob("*/result.json"))) < 16
        within(10, partial(alive, family))
    done = run_study(study, storage, env=clean_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    pd.testing.assert_frame_equal(outcomes(storage), outcomes(reference))
    assert curves(storage) == {name: curve for name, curve in curves(reference).items() if name in curves(storage)}
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], max_results=1000)
    assert len(runs) == 17
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_second_driver_exits_5_and_a_killed_first_one_leaves_no_process(write_study: WriteStudy, tmp_path: Path) -> None:
    study, storage = write_study(), tmp_path / "runs"
    first = subprocess.Popen(study_command(study, storage), stdout=subprocess.DEVNULL, env=clean_environment())
    try:
        await_files(first, storage, "studies/tiny/lease.json", 1)
        second = run_study(study, storage, env=clean_environment())
        assert second.returncode == 5
        assert f"driver {first.pid}" in second.stderr
        while not (starting := starting_workers(first)):
            assert first.poll() is None
            time.sleep(0.05)
        family = family_of(first)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    within(10, partial(alive, [*family, *starting]))


def starting_workers(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Ray's workers that are still importing. Next they connect to the head, which has ended by then."""
    children = psutil.Process(driver.pid).children(recursive=True)
    return [child for child in named(children, "workers/default_worker.py") if child.name() != "raylet"]


def await_files(driver: subprocess.Popen[bytes], folder: Path, pattern: str, wanted: int) -> None:
    deadline = time.monotonic() + 240
    while len(list(folder.glob(pattern))) < wanted:
        assert driver.poll() is None, "the study ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_two_workers_and_a_model_that_diverges(write_study: WriteStudy, tmp_path: Path) -> None:
    """A group of two workers over gloo with ZeRO 2. One model diverges: its children are skipped, the others done, exit 1."""

    def change(content: dict) -> None:
        content["resources"] = {"workers": 2, "zero_stage": 2}
        content["pretrain"]["sizes"] = [128]
        content["pretrain"]["recipe"]["resnet"] |= {"optimizer": "sgd", "lr": 1e30, "grad_clip": 0.0, "warmup": 0.0}

    storage = tmp_path / "runs"
    done = run_study(write_study(change), storage, env=clean_environment())
    assert done.returncode == 1, done.stdout + done.stderr
    frame = results.collect(storage, "tiny")
    vit, resnet = (frame[frame["family"] == family] for family in ("vit", "resnet"))
    assert set(vit["status"]) == {"DONE"}
    assert set(vit["workers"]) == {2}
    assert set(vit["zero_stage"]) == {2}
    assert resnet.groupby("phase")["status"].unique().map(list).to_dict() == {
        "pretrain": ["DIVERGED"],
        "finetune": ["SKIPPED"],
        "probe": ["SKIPPED"],
    }
    assert "DIVERGED" in done.stdout
    assert "not finite at step" in done.stdout
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert {run.info.status for run in runs if run.data.tags["phase"] != "study"} == {"FINISHED", "FAILED"}
    assert all(run.info.status != "RUNNING" for run in runs)


@pytest.mark.slow
def test_fine_tunes_in_separate_bundles(
    undisturbed: tuple[Path, Path, subprocess.CompletedProcess[str]], write_study: WriteStudy, tmp_path: Path
) -> None:
    """They start in their own groups when their pretraining is done, with the same results; none after a diverged one."""

    def change(content: dict) -> None:
        content["resources"] = {"bundle": "run"}
        content["pretrain"]["lengths"] = LENGTHS
        content["pretrain"]["sizes"], content["transfer"]["epochs"] = [128], [1]
        content["pretrain"]["recipe"]["resnet"] |= {"optimizer": "sgd", "lr": 1e30, "grad_clip": 0.0, "warmup": 0.0}

    done = run_study(write_study(change), tmp_path / "runs", env=clean_environment())
    assert done.returncode == 1, done.stdout + done.stderr
    rows = outcomes(tmp_path / "runs")
    vit, resnet = (rows[rows["family"] == family] for family in ("vit", "resnet"))
    pd.testing.assert_frame_equal(vit, outcomes(undisturbed[1]).loc[vit.index])
    assert sorted(resnet["status"]) == ["DIVERGED", "SKIPPED", "SKIPPED"]
    bundles = [json.loads(path.read_text()) for path in (tmp_path / "runs/studies/tiny/bundles").glob("*.json")]
    assert sorted(len(bundle["runs"]) for bundle in bundles) == [1] * 6


@pytest.mark.slow
def test_four_recipes_with_more_groups_than_cores(write_study: WriteStudy, tmp_path: Path) -> None:
    """More worker groups are requested than fit the machine: they queue, nothing deadlocks. Two presets, one for small
    datasets, with and without mixup: four recipes are trained, and the rows distinguish them.
    """

    def change(content: dict) -> None:
        content["resources"] = {"bundle": "cell", "max_concurrent": 8}
        content["pretrain"] |= {"lengths": [{"steps": 4}], "sizes": [128]}
        del content["pretrain"]["models"][1], content["pretrain"]["recipe"]["resnet"]
        content["pretrain"]["recipe"]["vit"] |= {"preset": ["micro_vit", "small_data"], "mixup": [0, 0.2]}
        del content["transfer"], content["probe"]

    done = run_study(write_study(change), tmp_path / "runs", env=clean_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    frame = results.collect(tmp_path / "runs", "tiny")
    assert set(frame["status"]) == {"DONE"}
    recipes = {f"preset={preset} mixup={mixup}" for preset in ("micro_vit", "small_data") for mixup in ("0", "0.2")}
    assert set(frame["recipe"]) == recipes
    assert set(frame["variant"]) == {f"V16/8 {recipe}" for recipe in recipes}
    assert frame["upstream_loss"].nunique() == 4
