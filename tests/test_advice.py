"""`vitscale next` names what narrows a forecast most for its cost; `vitscale fit` prints laws of any table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import WriteStudy
from test_findings import asking, curve_rows, frame
from typer.testing import CliRunner

from orchestrator import results
from orchestrator.cli import app
from orchestrator.plan.make import make_plan
from orchestrator.plan.render import plan_as_data
from orchestrator.spec.claims import Target
from orchestrator.spec.study import read_study
from orchestrator.store.layout import Store
from orchestrator.verdicts import advice, evidence
from orchestrator.verdicts.advice import gradient, information, width
from orchestrator.verdicts.forecast import Aim, Way, ways
from vitmodel.config.base import UserError
from vitmodel.files import write_json

COMPUTES = np.geomspace(1, 1e3, 8)


@pytest.fixture(scope="module")
def way() -> tuple[Way, evidence.Evidence]:
    """A law along data, of seven sizes, for a target at twice the largest."""
    study = asking(check=())
    rows = frame(curve_rows([1000, 2000, 4000, 8000, 16000, 32000, 64000]))
    found = evidence.gather(rows, evidence.views(rows, study.claims, {})[0], study.claims)
    target = Target(variant="S/16", dataset_size=128_000)
    choices, _ = ways(found, Aim(target=target, family="vit", params=10**6, epochs=6.0, pretrain_flops=1e18))
    return next(one for one in choices if one.by == "data"), found


def test_a_run_near_the_target_teaches_more_than_one_far_away(way: tuple[Way, evidence.Evidence]) -> None:
    law, found = way
    inform = information(law.law, [np.array([float(p.dataset_size)]) for p in law.points], [p.spread for p in law.points])

    def then(size: float) -> float:
        slopes = gradient(law.law, np.array([size])) / 0.03
        return width(law, inform + np.outer(slopes, slopes), found)

    now = width(law, inform, found)
    assert then(96_000) < then(16_000) < now
    assert then(96_000) > 1, "the noise of the run itself stays"


def test_the_linearised_law_is_the_law(way: tuple[Way, evidence.Evidence]) -> None:
    law = way[0].law
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
    write_json(root / "studies" / "tiny" / "plan.json", plan_as_data(plan, []))
    for run in plan.runs:
        cell = next(c for c in plan.cells if run in c.runs)
        size = cell.pretrain.config.data.size
        if size <= 1024:
            folder = Store(root).run(run.run_id)
            folder.begin({})
            wobble = 1 + 0.01 * (size.bit_length() % 3 - 1)
            folder.finish(
                {
                    "metrics": {
                        "eval/top1": 1 - 0.7 * (size / 64) ** -0.3 * wobble,
                        "eval/samples": 5000,
                        "time/run_seconds": 1.0,
                    },
                    "workers": 1,
                    "zero_stage": 0,
                    "gpu_hours": 0.0,
                    "core_hours": 0.1,
                    "cpus_per_worker": 1,
                    "gpus_per_worker": 0,
                    "peak_flops": 1e9,
                }
            )
    return path


def test_next_names_affordable_runs_of_the_study(write_study: WriteStudy, tmp_path: Path) -> None:
    path = started(write_study, tmp_path, {"variant": "V16/8", "dataset_size": 4096})
    arguments = ["next", str(path), "--storage", str(tmp_path), "--json", "--count", "50"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    found = json.loads(said.output)
    assert found == json.loads(CliRunner().invoke(app, arguments).output), "deterministic"
    assert any(one["in_study"] and one["run"].startswith("V16/8 on 2,048 images") for one in found)
    assert not any("4,096" in one["run"] for one in found), "the target itself is no advice"
    assert all(1 < one["then"] < one["now"] and one["core_hours"] > 0 for one in found)
    worth = [one["gain"] / one["core_hours"] for one in found]
    assert worth == sorted(worth, reverse=True)


def test_next_without_targets_or_rows(write_study: WriteStudy, tmp_path: Path) -> None:
    path = started(write_study, tmp_path, {"variant": "V16/8", "dataset_size": 4096})
    file = read_study(path)
    with pytest.raises(UserError, match="nothing to forecast from"):
        advice.advise(file, Store(tmp_path), [], file.study.targets[0])
    rows = results.collect(tmp_path, "tiny")
    views = evidence.views(rows, file.study.claims, {})
    few = evidence.gather(rows[rows["dataset_size"] <= 128], views[0], file.study.claims)
    with pytest.raises(UserError, match="no forecast"):
        advice.advise(file, Store(tmp_path), [few], file.study.targets[0])


def test_next_of_a_study_that_trains_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nimports: [{name: t}]\ntargets: [{variant: g/14, dataset_size: 303M}]\n")
    file = read_study(path)
    with pytest.raises(UserError, match="trains nothing"):
        advice.advise(file, Store(tmp_path), [], file.study.targets[0])


# --- fit ------------------------------------------------------------------------------------------------------


def test_fit_prints_laws_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    good = [f"vit,{x},{0.5 * x**-0.3}" for x in COMPUTES]
    path.write_text("\n".join(["family,compute,loss", *good, "resnet,1,0.4", "resnet,10,0.3", "resnet,100,0.2"]))
    arguments = ["fit", str(path), "--x", "compute", "--y", "loss", "--by", "family", "--form", "M1"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "c       0.3 " in said.output
    assert "no law: 3 distinct x" in said.output
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
def test_fit_refuses(arguments: list[str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("compute,loss,note\n1,0.5,x\n2,0.4,y\n")
    said = CliRunner().invoke(app, ["fit", str(path), "--by", "", *arguments])
    assert isinstance(said.exception, UserError)
    assert message in str(said.exception)
