"""Contracts of `vitscale diff`: exactly the keys that differ, defaults filled in, on runs and on study files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import WriteStudy
from records import run_record, run_result
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.store.layout import Store
from orchestrator.store.records import Provenance
from vitmodel.config.base import UserError
from vitmodel.config.recipe import Recipe


def differences(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["diff", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def changed(difference: dict[str, Any], part: str = "changed") -> dict[str, tuple[Any, Any]]:
    return {change["key"]: (change["first"], change["second"]) for change in difference[part]}


def test_studies_differ_in_the_keys_that_were_changed_and_in_no_other(write_study: WriteStudy, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["pretrain"]["sizes"] = [128, 256, 200]
        content["pretrain"]["models"].insert(0, {**content["pretrain"]["models"][0], "variant": "V8/8", "width": 8})
        content["pretrain"]["models"][2]["width"] = 8
        content["on_failure"] = {"retries": 2}  # the default, written out

    one = str(write_study())
    two = str(write_study(change, "other.yaml"))
    changes = changed(differences(one, two))
    assert changes["pretrain.sizes"] == ([128, 256], [128, 256, 200])
    assert changes["pretrain.models[R4].model.width"] == (4, 8)
    assert changes["pretrain.models[V8/8].model.width"] == (None, 8)
    assert all(key == "pretrain.sizes" or "[V8/8]" in key or key == "pretrain.models[R4].model.width" for key in changes)
    same = CliRunner().invoke(app, ["diff", one, one], catch_exceptions=False)
    assert "have the same configuration" in same.stdout


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    for run_id, lr, top1 in (("pretrain-aa11", 0.1, 0.5), ("pretrain-ab22", 0.2, 0.75)):
        recipe = Recipe(preset="p", optimizer="sgd", lr=lr, batch_size=8, schedule="constant", warmup=0.0)
        made.run(run_id).begin(run_record(run_id, recipe=recipe))
        provenance = Provenance(git="abc", packages={"torch": f"2.{lr:g}"})
        made.run(run_id).finish(run_result(run_id, metrics={"eval/top1": top1}, provenance=provenance))
    return made


def test_runs_differ_in_their_keys_metrics_and_packages(store: Store) -> None:
    changes = differences("pretrain-aa", "pretrain-ab22", "--storage", str(store.root))
    assert (changes["first"], changes["second"]) == ("pretrain-aa11", "pretrain-ab22")
    assert changed(changes) == {"recipe.lr": (0.1, 0.2)}
    assert changed(changes, "metrics") == {"eval/top1": (0.5, 0.75)}
    assert changed(changes, "provenance") == {"packages.torch": ("2.0.1", "2.0.2")}
    shown = CliRunner().invoke(app, ["diff", "pretrain-aa", "pretrain-ab", "--storage", str(store.root)]).stdout
    assert ["recipe.lr", "0.1", "0.2"] in [line.split() for line in shown.splitlines()]


def test_what_cannot_be_compared_is_the_users_error(store: Store, write_study: WriteStudy) -> None:
    for sides, message in (
        (("pretrain-a", "pretrain-aa"), "2 run ids begin with"),
        (("nothing", "pretrain-aa"), "no file or run"),
        ((str(write_study()), "pretrain-aa"), "cannot be compared with a study"),
    ):
        with pytest.raises(UserError, match=message):
            CliRunner().invoke(app, ["diff", *sides, "--storage", str(store.root)], catch_exceptions=False)
