"""`vitscale next` names what narrows a forecast most for its cost; `vitscale fit` prints laws of any table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claim_rows import data_curve_rows, frame, study_with
from conftest import WriteStudy
from records import run_record, run_result
from typer.testing import CliRunner

from orchestrator import results
from orchestrator.cli import app
from orchestrator.plan.make import make_plan
from orchestrator.plan.render import plan_file
from orchestrator.spec.claims import Target
from orchestrator.spec.study import read_study
from orchestrator.store.layout import Store
from orchestrator.verdicts import advice
from orchestrator.verdicts.evidence import Evidence, gather
from orchestrator.verdicts.extrapolation import Extrapolation, extrapolations
from orchestrator.verdicts.information import gradient, information, width
from orchestrator.verdicts.targets import TargetRun
from orchestrator.verdicts.views import views
from vitmodel.config.base import UserError

COMPUTES = np.geomspace(1, 1e3, 8)


@pytest.fixture(scope="module")
def over_data() -> tuple[Extrapolation, Evidence]:
    """A law along data, of seven sizes, for a target at twice the largest."""
    study = study_with(check=())
    rows = frame(data_curve_rows([1000, 2000, 4000, 8000, 16000, 32000, 64000]))
    evidence = gather(rows, views(rows, study.claims, {})[0], study.claims)
    target = Target(variant="S/16", dataset_size=128_000)
    run = TargetRun(target=target, family="vit", params=10**6, epochs=6.0, pretrain_flops=1e18)
    choices, _ = extrapolations(evidence, run)
    return next(choice for choice in choices if choice.by == "data"), evidence


def test_a_run_near_the_target_narrows_the_forecast_more_than_a_distant_one(over_data: tuple[Extrapolation, Evidence]) -> None:
    extrapolation, evidence = over_data
    points, law = extrapolation.points, extrapolation.law
    known = information(law, [np.array([float(p.dataset_size)]) for p in points], [p.spread for p in points])

    def then(size: float) -> float:
        slopes = gradient(law, np.array([size])) / 0.03
        return width(extrapolation, known + np.outer(slopes, slopes), evidence)

    now = width(extrapolation, known, evidence)
    assert then(96_000) < then(16_000) < now
    assert then(96_000) > 1, "the noise of the target run remains"


def test_the_gradient_is_that_of_the_law(over_data: tuple[Extrapolation, Evidence]) -> None:
    law = over_data[0].law
    slopes = gradient(law, np.array([64_000.0]))
    moved = law.problem.form.log_shape((law.theta + np.array([0.01, 0.0]))[None], law.centred([64_000.0]))[0, 0]
    still = law.problem.form.log_shape(law.theta[None], law.centred([64_000.0]))[0, 0]
    assert slopes[1] == pytest.approx((moved - still) / 0.01, rel=0.05)
    assert slopes[0] == 1.0


def started(write_study: WriteStudy, root: Path, target: dict[str, Any]) -> Path:
    """The tiny study with seven sizes, of which the larger ViT runs are still to be done."""

    def change(content: dict[str, Any]) -> None:
        content["datasets"]["fractals"]["train"] = 4096
        content["pretrain"]["sizes"] = [64, 128, 256, 512, 1024, 2048, 4096]
        content["transfer"]["epochs"] = [1]
        content["targets"] = [target]

    path = write_study(change)
    plan = make_plan(read_study(path), root)
    Store(root).write_plan(plan_file(plan, [], plan.datasets, ()))
    for run in plan.runs:
        cell = next(c for c in plan.cells if run in c.runs)
        size = cell.pretrain.config.data.size
        if size <= 1024:
            folder = Store(root).run(run.run_id)
            folder.begin(run_record(run.run_id))
            wobble = 1 + 0.01 * (size.bit_length() % 3 - 1)
            top1 = 1 - 0.7 * (size / 64) ** -0.3 * wobble
            metrics = {"eval/top1": top1, "eval/samples": 5000.0, "time/run_seconds": 1.0}
            folder.finish(run_result(run.run_id, metrics=metrics, core_hours=0.1, seconds=None, workers=1))
    return path


def test_next_names_affordable_runs_of_the_study(write_study: WriteStudy, tmp_path: Path) -> None:
    path = started(write_study, tmp_path, {"variant": "V16/8", "dataset_size": 4096})
    arguments = ["next", str(path), "--storage", str(tmp_path), "--json", "--count", "50"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    advised = json.loads(result.output)
    assert advised == json.loads(CliRunner().invoke(app, arguments).output), "deterministic"
    assert any(run["in_study"] and run["run"].startswith("V16/8 on 2,048 images") for run in advised)
    assert not any("4,096" in run["run"] for run in advised), "the target itself is not a candidate"
    assert all(1 < run["then"] < run["now"] and run["core_hours"] > 0 for run in advised)
    worth = [run["gain"] / run["core_hours"] for run in advised]
    assert worth == sorted(worth, reverse=True)


def test_next_without_targets_or_rows(write_study: WriteStudy, tmp_path: Path) -> None:
    path = started(write_study, tmp_path, {"variant": "V16/8", "dataset_size": 4096})
    file = read_study(path)
    with pytest.raises(UserError, match="no finished row on any task"):
        advice.advise(file, Store(tmp_path), [], file.study.targets[0])
    rows = results.collect(tmp_path, "tiny")
    view = views(rows, file.study.claims, {})[0]
    few = gather(rows[rows["dataset_size"] <= 128], view, file.study.claims)
    with pytest.raises(UserError, match="no forecast"):
        advice.advise(file, Store(tmp_path), [few], file.study.targets[0])


def test_next_of_a_study_that_trains_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nimports: [{name: t}]\ntargets: [{variant: g/14, dataset_size: 303M}]\n")
    file = read_study(path)
    with pytest.raises(UserError, match="trains nothing"):
        advice.advise(file, Store(tmp_path), [], file.study.targets[0])


def test_fit_prints_laws_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    good = [f"vit,{x},{0.5 * x**-0.3}" for x in COMPUTES]
    path.write_text("\n".join(["family,compute,loss", *good, "resnet,1,0.4", "resnet,10,0.3", "resnet,100,0.2"]))
    arguments = ["fit", str(path), "--x", "compute", "--y", "loss", "--by", "family", "--form", "M1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "c       0.3 " in result.output
    assert "no law: 3 distinct x" in result.output
    vit, resnet = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert vit["law"]["params"]["c"]["value"] == pytest.approx(0.3, abs=0.001)
    assert vit["law"]["params"]["c"]["low"] <= 0.3001
    assert vit["law"]["rollout"]["rmse"] < 0.01
    assert (resnet["law"], resnet["family"]) == (None, "resnet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--x", "computes", "--y", "loss"], "did you mean compute"),
        (["--x", "compute", "--y", "loss", "--form", "M22"], "did you mean M2"),
        (["--x", "compute", "--y", "note"], "is not a number"),
    ],
)
def test_fit_reports_unknown_columns_and_forms(arguments: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("compute,loss,note\n1,0.5,x\n2,0.4,y\n")
    result = CliRunner().invoke(app, ["fit", str(path), "--by", "", *arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
