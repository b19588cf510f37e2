"""`vitscale fit` on a study without a finished run."""

from __future__ import annotations

from pathlib import Path

from records import plan_file, run_facts

from orchestrator import results
from orchestrator.laws import tables
from orchestrator.store.layout import Store


def test_a_study_without_a_finished_run_has_no_group(tmp_path: Path) -> None:
    Store(tmp_path).write_plan(plan_file(run_facts("pretrain-a"), study="s"))
    rows = tables.comparable(results.collect(tmp_path, "s"))
    assert len(rows) == 0
    assert tables.fit_groups(rows, x="dataset_size", y="error", by=["family", "what"]) == []
