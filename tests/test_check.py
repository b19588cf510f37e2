"""`vitscale check`: models that overfit a few images pass, the others are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import WriteStudy
from typer.testing import CliRunner

from orchestrator.cli import app
from vitmodel.config.models import named_model
from vitmodel.config.presets import PRESETS, resolve_recipe
from vitmodel.training.overfit import without_regularisation


def check(study: Path, storage: Path, steps: int = 300) -> tuple[int, list[str]]:
    done = CliRunner().invoke(app, ["check", str(study), "--storage", str(storage), "--steps", str(steps)])
    return done.exit_code, [line for line in done.output.splitlines() if "loss" in line]


def test_models_that_overfit_and_models_that_do_not(write_study: WriteStudy, tmp_path: Path) -> None:
    """Once for each model, whatever the sizes; a learning rate far too small and one far too large are both detected."""
    code, lines = check(write_study(), tmp_path / "runs")
    assert code == 0, lines
    assert sorted(line.partition(":")[0] for line in lines) == ["R4", "V16/8"]
    assert all(line.endswith("passes") for line in lines)

    def change(content: dict) -> None:
        content["pretrain"]["recipe"]["vit"]["lr"] = 1e-9
        content["pretrain"]["recipe"]["resnet"] |= {"optimizer": "sgd", "lr": 1e30, "grad_clip": 0.0}

    code, lines = check(write_study(change), tmp_path / "runs", steps=30)
    assert code == 1
    assert all("FAILS: the loss must fall to" in line for line in lines)
    assert any("nan" in line or "inf" in line for line in lines if line.startswith("R4"))


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_regularisation_is_left(preset: str) -> None:
    recipe = resolve_recipe(preset, named_model("B/16"), {"lr": 3e-3}, examples=1000)
    plain = without_regularisation(recipe, images=16)
    assert (plain.batch_size, plain.lr, plain.optimizer) == (16, recipe.lr, recipe.optimizer)
    regularised = plain.dropout, plain.stochastic_depth, plain.label_smoothing, plain.mixup, plain.cutmix, plain.weight_decay
    assert not any(regularised)
    assert (plain.augment, plain.flip, plain.schedule, plain.warmup) == ("none", False, "constant", 0.0)
