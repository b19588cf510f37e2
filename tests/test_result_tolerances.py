"""Rows and their summaries do not depend on the rounding of epochs and FLOPs, or on the last digit of an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from claim_rows import SIZES, frame, row

from orchestrator import results
from orchestrator.results import summary
from orchestrator.results.import_table import read_rows
from orchestrator.results.summary import FamilyBest
from vitmodel.config.base import UserError


def best(family: str, mean: float) -> FamilyBest:
    return FamilyBest(family=family, variant="S/16", mean=mean, low=mean, high=mean, seeds=1)


def test_the_longest_training_may_differ_by_a_step() -> None:
    rows = frame([row("vit", "S/16", 1000, 0.2, seed=seed, pretrain_flops=1e15 * (1 - 1e-3 * seed)) for seed in range(3)])
    assert len(summary.longest(rows)) == 3
    rows = frame([row("vit", "S/16", n, 0.2, finetune_epochs=7.0 - 0.01 * i) for i, n in enumerate(SIZES)])
    assert len(summary.finetuned(rows)) == len(summary.finetuned(rows, epochs=7.0)) == len(SIZES)
    assert len(summary.finetuned(rows, epochs=6.0)) == 0


def test_families_that_differ_by_the_tie_margin_are_never_tied() -> None:
    """0.305 - 0.3 is above 0.005 in floating point, 0.105 - 0.1 is below it."""
    for first, margin, closer in ((0.1, 0.105, 0.1049), (0.3, 0.305, 0.3049)):
        assert summary.leaders([best("vit", first), best("resnet", margin)]) == ["ViT"]
        assert summary.leaders([best("vit", first), best("resnet", closer)]) == ["ViT", "ResNet"]


def curve(**flops: tuple[float, ...]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for family, values in flops.items():
        variant = {"vit": "S/16", "resnet": "R1"}[family]
        rows += [row(family, variant, 64000, 0.3 if family == "vit" else 0.2, pretrain_flops=f) for f in values]
    return summary.flops_curve(frame(rows))


def test_runs_of_one_compute_budget_are_compared_although_their_steps_are_whole() -> None:
    points = curve(vit=(0.9997e18,), resnet=(1.0003e18,))
    assert summary.common_flops(points) is not None
    assert summary.flops_headline(points).startswith("ResNet leads")
    assert summary.common_flops(curve(vit=(1e18,), resnet=(1.1e18,))) is None


def test_the_ends_of_an_axis_hold_values_that_differ_by_a_step() -> None:
    rows = [row("vit", "S/16", 1000, 0.3, finetune_epochs=e) for e in (1.0, 7.0)]
    rows += [row("resnet", "R1", 1000, 0.2, finetune_epochs=e) for e in (1.003, 6.98)]
    points = summary.curve(frame(rows), "finetune_epochs")
    assert summary.headline(points, "finetune_epochs", lambda e: f"after {e:.0f} epochs").startswith("ResNet leads")


@pytest.mark.parametrize(
    ("column", "text", "error"), [("top1_percent", "100.00000001", 0.0), ("error", "1.0000000000000002", 1.0)]
)
def test_a_result_in_a_table_may_exceed_its_bound_by_rounding(column: str, text: str, error: float, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"family,variant,dataset_size,params,{column}\nvit,B/16,1281167.0000000002,86000000,{text}\n")
    (row,) = read_rows(path, "", {}, results.COLUMNS).to_dict("records")
    assert (row["error"], row["dataset_size"]) == (error, 1_281_167)
    path.write_text(path.read_text().replace(text, "101"))
    with pytest.raises(UserError, match="101 is above"):
        read_rows(path, "", {}, results.COLUMNS)


@pytest.mark.parametrize("text", ["-1e-12", "-0.0"])
def test_an_error_in_a_table_may_be_negative_by_rounding(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"family,variant,dataset_size,error\nvit,B/16,1000,{text}\n")
    assert read_rows(path, "", {}, results.COLUMNS)["error"].tolist() == [0.0]
    path.write_text("family,variant,dataset_size,error\nvit,B/16,1000,-0.01\n")
    with pytest.raises(UserError, match=r"-0\.01"):
        read_rows(path, "", {}, results.COLUMNS)
