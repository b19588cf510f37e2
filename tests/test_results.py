"""The results table: one row for every planned run, outcomes only for runs with a result."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from records import placement, plan_file, run_record, run_result

from orchestrator import results
from orchestrator.plan.records import RunFacts
from orchestrator.plan.runs import WorkerGroup
from orchestrator.store.layout import Store
from orchestrator.store.records import Provenance, RunResult
from orchestrator.store.state import State
from vitmodel.config.base import UserError

EXPECTED_COLUMNS = (
    "study, run_id, parent_id, phase, family, variant, recipe, params, forward_flops, dataset, dataset_size, length, epochs, "
    "steps, examples_seen, train_flops, pretrain_flops, task, finetune_epochs, resolution, shots, seed, upstream_loss, "
    "upstream_top1, top1, error, real_top1, workers, zero_stage, gpu_hours, images_per_second, mfu, status, attempts, "
    "core_hours, seconds, micro_batch, reason, test_images, skipped_images, source, objective"
)

MODELS = {"vit": ("V8", 1000, 2e9), "resnet": ("R8", 2000, 3e9)}
GROUP = WorkerGroup(workers=2, cpus_per_worker=3, gpus_per_worker=1, zero_stage=1)


# --- a store written by hand -------------------------------------------------------------------------------------


def planned(run_id: str, phase: str, family: str, size: int, seed: int = 0, **changes: Any) -> RunFacts:
    """The facts of a run as in plan.json."""
    variant, params, forward = MODELS[family]
    facts = {
        "run_id": run_id,
        "parent_id": None,
        "phase": phase,
        "family": family,
        "variant": variant,
        "objective": "supervised",
        "recipe": "",
        "params": params,
        "forward_flops": int(forward),
        "dataset": "shapes",
        "dataset_size": size,
        "length": "6 epochs",
        "epochs": 6.0,
        "steps": 10,
        "examples_seen": 6 * size,
        "train_flops": int(3 * forward * 6 * size),
        "pretrain_flops": int(3 * forward * 6 * size),
        "resolution": 32,
        "shots": None,
        "seed": seed,
        "label": run_id,
        "placement": placement(GROUP, seconds=1.0),
        **changes,
    }
    return RunFacts(**facts)


def cell(family: str, size: int, seed: int = 0, task: str = "digits") -> list[RunFacts]:
    """A pretraining, fine-tunes of 1 and 7 epochs and a probe."""
    name = f"{family}-{size}-{seed}"
    child: dict[str, Any] = {"parent_id": f"pretrain-{name}", "dataset": task, "dataset_size": 99, "examples_seen": 0}
    return [
        planned(f"pretrain-{name}", "pretrain", family, size, seed),
        *(
            planned(f"finetune-{name}-{e}", "finetune", family, size, seed, **child, epochs=float(e), length=f"{e} epochs")
            for e in (1, 7)
        ),
        planned(f"probe-{name}", "probe", family, size, seed, **child, epochs=0.0, length="5 shots", shots=5),
    ]


def finish(store: Store, run_id: str, top1: float, attempts: int = 1, **changes: Any) -> None:
    """Finish a run: two workers with three cores and one GPU each, for 72 seconds."""
    folder = store.run(run_id)
    for _ in range(attempts):
        folder.begin(run_record(run_id))
    result = RunResult(
        run_id=run_id,
        finished=1.8e9,
        metrics={"eval/loss": 2.0, "eval/top1": top1, "eval/samples": 100.0, "time/run_seconds": 72.0},
        last={} if run_id.startswith("probe") else {"step": 10, "speed/images_per_second": 100.0},
        workers=GROUP.workers,
        cpus_per_worker=GROUP.cpus_per_worker,
        gpus_per_worker=GROUP.gpus_per_worker,
        zero_stage=GROUP.zero_stage,
        gpu_hours=72 * 2 / 3600,
        core_hours=72 * 6 / 3600,
        seconds=72.0,
        micro_batch=16,
        peak_flops=4e12,
        attempts=attempts,
        provenance=Provenance(host="here", git="abc", packages={"torch": "2.13", "ray": "2.60"}),
    )
    folder.finish(result.model_copy(update=changes))


def make_store(root: Path, runs: list[RunFacts], study: str = "toy") -> Store:
    store = Store(root)
    store.write_plan(plan_file(*runs, study=study))
    return store


def full_store(root: Path, seeds: int = 1) -> Store:
    """Two families at two sizes, all runs done. ViT improves with data; ResNet is better at the small size."""
    top1 = {("vit", 1000): 0.5, ("vit", 16000): 0.95, ("resnet", 1000): 0.7, ("resnet", 16000): 0.8}
    cells = {(f, n, s): cell(f, n, s) for f, n in top1 for s in range(seeds)}
    store = make_store(root, [run for runs in cells.values() for run in runs])
    for (family, size, seed), runs in cells.items():
        for run in runs:
            finish(store, run.run_id, top1[family, size] - 0.01 * seed)
    return store


# --- contracts ------------------------------------------------------------------------------------------------


def row_of(frame: pd.DataFrame, run_id: str) -> Any:
    return frame.set_index("run_id").loc[run_id]


def test_columns_are_the_same_for_an_empty_and_a_finished_study(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    make_store(empty, cell("vit", 1000))
    full_store(full)
    for root in (empty, full):
        frame = results.collect(root, "toy")
        assert list(frame.columns) == EXPECTED_COLUMNS.split(", ")
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == results.COLUMNS


def test_a_child_has_the_axes_of_its_pretraining_and_its_own_task(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    finish(store, "finetune-vit-1000-0-7", 0.8)
    frame = results.collect(tmp_path, "toy")
    child, parent = row_of(frame, "finetune-vit-1000-0-7"), row_of(frame, "pretrain-vit-1000-0")
    for name in ("dataset", "dataset_size", "length", "epochs", "pretrain_flops", "upstream_loss", "upstream_top1"):
        assert child[name] == parent[name], name
    assert (child["dataset_size"], child["task"], child["finetune_epochs"]) == (1000, "digits", 7)
    assert (child["upstream_top1"], child["top1"], child["error"]) == (0.5, 0.8, pytest.approx(0.2))
    assert (parent["task"], parent["parent_id"], parent["top1"]) == ("", "", 0.5)
    assert math.isnan(parent["finetune_epochs"])
    assert row_of(frame, "probe-vit-1000-0")["shots"] == 5
    assert math.isnan(row_of(frame, "probe-vit-1000-0")["mfu"])


def test_costs_count_all_workers(tmp_path: Path) -> None:
    frame = results.collect(full_store(tmp_path).root, "toy")
    row = row_of(frame, "pretrain-vit-1000-0")
    assert (row["gpu_hours"], row["core_hours"]) == (pytest.approx(0.04), pytest.approx(0.12))
    assert row["seconds"] == pytest.approx(72)
    assert row["mfu"] == pytest.approx(100 * 3 * 2e9 / 4e12)


def test_runs_without_a_result_are_rows_without_values(tmp_path: Path) -> None:
    store = make_store(tmp_path, cell("vit", 1000) + cell("resnet", 1000))
    store.run("pretrain-vit-1000-0").begin(run_record(), GROUP.workers)
    store.run("pretrain-vit-1000-0").fail(State.DIVERGED, "loss not finite at step 3")
    for child in ("finetune-vit-1000-0-1", "finetune-vit-1000-0-7", "probe-vit-1000-0"):
        store.run(child).fail(State.SKIPPED, "parent has no result")
    finish(store, "pretrain-resnet-1000-0", 0.6, attempts=3)
    begun = store.run("finetune-resnet-1000-0-1").begin(run_record(), GROUP.workers)
    start = json.loads(begun.read_text())["begin"]
    begun.write_text(begun.read_text() + f'{{"step": 1, "time": {start + 36}}}\n{{"step": 2, "ti')  # killed while writing
    store.run("finetune-resnet-1000-0-7").fail(State.FAILED, "OSError: no room\nTraceback ...")

    frame = results.collect(tmp_path, "toy")
    status = frame.set_index("run_id")["status"].to_dict()
    assert list(status.values()) == ["DIVERGED", *["SKIPPED"] * 3, "DONE", "RUNNING", "FAILED", "PLANNED"]
    assert frame.loc[frame["status"] != "DONE", ["top1", "error", "images_per_second", "mfu"]].isna().all(axis=None)
    assert row_of(frame, "pretrain-resnet-1000-0")["attempts"] == 3
    half = row_of(frame, "finetune-resnet-1000-0-1")
    assert (half["seconds"], half["core_hours"]) == (pytest.approx(36, abs=0.1), pytest.approx(36 * 6 / 3600, abs=1e-3))
    assert half["upstream_top1"] == 0.6
    assert row_of(frame, "finetune-resnet-1000-0-7")["reason"].startswith("OSError: no room")


def test_a_run_in_two_studies_has_the_same_outcomes_in_both(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    make_store(tmp_path, list(reversed(cell("vit", 1000))), study="other")
    other = results.outcomes(results.collect(tmp_path, "other"))
    first = results.outcomes(results.collect(tmp_path, "toy"))
    pd.testing.assert_frame_equal(other, first[first["run_id"].isin(other["run_id"])].reset_index(drop=True))
    finish(store, "pretrain-vit-1000-0", 0.5, attempts=2)  # repeated, slower: the outcome is the same
    pd.testing.assert_frame_equal(results.outcomes(results.collect(tmp_path, "toy")), first)
    assert not {"gpu_hours", "core_hours", "seconds", "mfu", "attempts", "images_per_second"} & set(first.columns)


def test_written_files_contain_the_table(tmp_path: Path) -> None:
    frame = results.collect(full_store(tmp_path).root, "toy")
    path = results.write(frame, tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_parquet(path.with_name("results.parquet")), frame)
    back = pd.read_csv(path, keep_default_na=False)
    assert list(back.columns) == EXPECTED_COLUMNS.split(", ")
    assert len(back) == len(frame)
    assert sorted(p.name for p in path.parent.iterdir()) == ["results.csv", "results.parquet"]


@pytest.mark.parametrize("content", [None, "{", '{"x": 1}', "[1]", '{"runs": [{"run_id": "a", "parent_id": "b"}]}'])
def test_a_missing_or_damaged_plan_is_a_user_error_that_names_the_file(tmp_path: Path, content: str | None) -> None:
    make_store(tmp_path, [], study="known")
    if content is not None:
        make_store(tmp_path, [])
        (tmp_path / "studies/toy/plan.json").write_text(content)
    with pytest.raises(UserError, match=r"studies/toy/plan\.json") as raised:
        results.collect(tmp_path, "toy")
    assert content is not None or "known" in str(raised.value)


def test_a_damaged_result_is_an_error_that_names_the_run(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    (store.run("probe-vit-1000-0").path / "result.json").write_text('{"metrics"')
    with pytest.raises(UserError, match="probe-vit-1000-0"):
        results.collect(tmp_path, "toy")


def test_provenance_lists_all_values_that_occur(tmp_path: Path) -> None:
    store = full_store(tmp_path)
    folder = store.run("probe-vit-1000-0")
    provenance = Provenance(git="def", packages={"torch": "2.14"})
    folder.finish(run_result(folder.run_id, provenance=provenance))
    assert results.provenance(tmp_path, "toy") == {
        "git": "abc, def",
        "host": "here",
        "packages": "ray 2.60, torch 2.13, torch 2.14",
        "data": "fractals f-1",
    }


def test_two_thousand_runs_are_collected(tmp_path: Path) -> None:
    runs = [run for seed in range(250) for family in MODELS for run in cell(family, 1000, seed)]
    store = make_store(tmp_path, runs)
    for run in runs:
        write_result_fast(store, run.run_id)
    frame = results.collect(tmp_path, "toy")  # bench/collect.py measures the time
    assert len(frame) == 2000
    assert (frame["status"] == "DONE").all()


def write_result_fast(store: Store, run_id: str) -> None:
    """Write a result without the store's fsync, which would take most of the test's time."""
    finish(store, "probe-template", 0.5) if not store.run("probe-template").path.exists() else None
    folder = store.run(run_id).path
    folder.mkdir(parents=True)
    (folder / "metrics-000.jsonl").write_text('{"begin": 0}\n')
    (folder / "result.json").write_text((store.run("probe-template").path / "result.json").read_text())


def test_reading_results_needs_no_torch_ray_or_mlflow() -> None:
    code = (
        "import sys, orchestrator.results, orchestrator.report.plots, orchestrator.report;"
        "print({'torch', 'ray', 'mlflow', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


RECIPES = {"pretrain": "mixup=0.2", "finetune": "lr=0.1"}


def test_recipes_have_separate_rows(tmp_path: Path) -> None:
    """A pretraining's recipe is a column and part of the variant; a fine-tune's is part of the task."""
    plan = [
        run.model_copy(update={"variant": "V8 mixup=0.2", "recipe": RECIPES.get(run.phase, "")}) for run in cell("vit", 512)
    ]
    make_store(tmp_path, plan, "s")
    frame = results.collect(tmp_path, "s")
    assert set(frame["recipe"]) == {"mixup=0.2"}
    assert list(frame["task"]) == ["", "digits lr=0.1", "digits lr=0.1", "digits"]
