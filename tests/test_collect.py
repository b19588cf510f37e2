"""Collecting rows: MLflow gives the same rows as the store; the cache is never stale and never required."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from records import run_record
from test_results import cell, finish, full_store, make_store

from orchestrator import results
from orchestrator.results import cache, outcome
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from orchestrator.tracking.mlflow import Follower
from vitmodel.config.base import UserError


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The run ids whose files were read since the list was cleared."""
    run_ids: list[str] = []
    original = outcome.of_folder

    def counted(folder: Any, run: Any) -> Any:
        run_ids.append(run.run_id)
        return original(folder, run)

    monkeypatch.setattr(outcome, "of_folder", counted)
    return run_ids


def mixed_store(root: Path) -> Store:
    """Done, failed with two attempts, skipped, running and planned runs."""
    store = make_store(root, [run for family in ("vit", "resnet") for size in (1000, 4000) for run in cell(family, size)])
    for run in cell("vit", 1000):
        finish(store, run.run_id, 0.75)
    begun = store.run("pretrain-vit-4000-0").begin(run_record())
    with begun.open("a") as file:
        file.write(json.dumps({"step": 1, "time": json.loads(begun.read_text())["begin"] + 36, "train/loss": 2.0}) + "\n")
    store.run("pretrain-vit-4000-0").fail(State.DIVERGED, "loss not finite")
    store.run("probe-vit-4000-0").fail(State.SKIPPED, "parent has no result")
    finish(store, "pretrain-resnet-1000-0", 0.5, attempts=2)
    return store


# --- MLflow ---------------------------------------------------------------------------------------------------


def test_mlflow_gives_the_rows_of_the_store(tmp_path: Path) -> None:
    store = mixed_store(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    plan = store.plan("toy")
    assert plan is not None
    assert Follower(store, plan, uri).finish([], {})
    own, sent = results.collect(tmp_path, "toy"), results.collect(uri, "toy")
    known = own[own["status"] != "PLANNED"]
    assert len(known) == len(sent) == 7
    pd.testing.assert_frame_equal(
        sent.sort_values("run_id", ignore_index=True), known.sort_values("run_id", ignore_index=True), rtol=1e-4
    )
    pd.testing.assert_frame_equal(results.outcomes(sent), results.outcomes(known), check_exact=True)
    with pytest.raises(UserError, match="toy"):
        results.collect(uri, "another")


def test_an_unavailable_server_is_a_user_error() -> None:
    with pytest.raises(UserError, match="MLflow cannot be read at http://127"):
        results.collect("http://127.0.0.1:9", "toy")


# --- the cache ------------------------------------------------------------------------------------------------


def test_collecting_again_reads_only_changed_runs(tmp_path: Path, reads: list[str]) -> None:
    store = mixed_store(tmp_path)
    first = results.collect(tmp_path, "toy")
    assert len(reads) == 16
    reads.clear()
    pd.testing.assert_frame_equal(results.collect(tmp_path, "toy"), first)
    assert reads == []
    finish(store, "finetune-resnet-1000-0-1", 0.625)
    store.run("pretrain-vit-4000-0").begin(run_record())
    again = results.collect(tmp_path, "toy").set_index("run_id")
    assert sorted(reads) == ["finetune-resnet-1000-0-1", "pretrain-vit-4000-0"]
    assert again.loc["finetune-resnet-1000-0-1", "top1"] == 0.625
    assert again.loc["pretrain-vit-4000-0", "status"] == "RUNNING"


def test_a_replaced_result_of_the_same_size_and_time_is_read(tmp_path: Path) -> None:
    """With a coarse clock, or a copy that keeps times: the replaced file has another inode."""
    store = full_store(tmp_path)
    results.collect(tmp_path, "toy")
    folder = store.run("probe-vit-1000-0")
    path = folder.path / "result.json"
    before, result = path.stat(), folder.result()
    assert result is not None
    folder.finish(result.model_copy(update={"metrics": {**result.metrics, "eval/top1": 0.4}}))  # was 0.5
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert results.collect(tmp_path, "toy").set_index("run_id").loc["probe-vit-1000-0", "top1"] == 0.4


def test_planned_facts_that_enter_an_outcome_are_part_of_the_signature(tmp_path: Path) -> None:
    full_store(tmp_path)
    before = results.collect(tmp_path, "toy").set_index("run_id")
    plan = json.loads((tmp_path / "studies/toy/plan.json").read_text())
    for run in plan["runs"]:
        run["forward_flops"] *= 2
    (tmp_path / "studies/toy/plan.json").write_text(json.dumps(plan))
    after = results.collect(tmp_path, "toy").set_index("run_id")
    assert after.loc["pretrain-vit-1000-0", "mfu"] == pytest.approx(2 * before.loc["pretrain-vit-1000-0", "mfu"])


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1PAR1"])
def test_a_damaged_cache_is_ignored(tmp_path: Path, content: bytes) -> None:
    full_store(tmp_path)
    first = results.collect(tmp_path, "toy")
    (tmp_path / "studies/toy" / cache.FILE).write_bytes(content)
    pd.testing.assert_frame_equal(results.collect(tmp_path, "toy"), first)


def test_a_read_only_store_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(13, "read-only")

    full_store(tmp_path)
    monkeypatch.setattr(cache.pq, "write_table", refused)
    assert len(results.collect(tmp_path, "toy")) == 16
    assert not (tmp_path / "studies/toy" / cache.FILE).exists()
