"""The plan: which runs, what they share, what they cost, and that two calls give the same bytes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, WriteStudy, run_study, study_command

from orchestrator.plan import budget
from orchestrator.plan.make import Plan, make_bundles, make_plan
from orchestrator.plan.render import totals
from orchestrator.plan.runs import LAUNCH_SECONDS, WorkerGroup
from orchestrator.spec.schema import Resources
from orchestrator.spec.study import read_study
from vitmodel.config.base import UserError
from vitmodel.config.models import named_model
from vitmodel.config.presets import PRESETS, resolve_recipe

PAPER = list(csv.DictReader((ROOT / "tests/data/vit_paper_table6.csv").open()))


def plan_of(path: Path, storage: Path) -> Plan:
    return make_plan(read_study(path), storage)


@pytest.fixture(scope="module")
def scaling() -> Plan:
    return plan_of(ROOT / "studies/scaling.yaml", Path("runs"))


@pytest.mark.parametrize("row", PAPER, ids=lambda r: f"{r['model']}-{r['pretrain_epochs']}")
def test_pretraining_flops_of_the_papers_table_6(scaling: Plan, row: dict[str, str]) -> None:
    variant = row["model"].replace("ViT-", "").replace("ResNet", "R").replace("R50x1+", "R50+")
    runs = [
        cell.pretrain
        for cell in scaling.cells
        if cell.pretrain.config.model.variant == variant
        and cell.pretrain.config.data.size == 303_000_000
        and cell.pretrain.length == f"{row['pretrain_epochs']} epochs"
    ]
    assert len(runs) == 1
    tolerance = 0.025 if row["family"] == "vit" else 0.05
    assert runs[0].train_flops / 1e18 == pytest.approx(float(row["exaflops"]), rel=tolerance)


def test_recipes_of_the_papers_table_3(scaling: Plan) -> None:
    rates = {c.pretrain.config.model.variant: c.pretrain.config.recipe for c in scaling.cells}
    assert rates["B/16"].lr == 8e-4
    assert rates["L/16"].lr == 4e-4
    assert rates["H/14"].lr == 3e-4
    assert rates["R50x1"].lr == 1e-3
    for recipe in rates.values():
        assert (recipe.batch_size, recipe.warmup, recipe.schedule, recipe.weight_decay) == (4096, 10_000, "linear", 0.1)


def test_scaling_plans_without_ray_or_torch(tmp_path: Path) -> None:
    """How long it takes: bench/plan.py."""
    probe = "import sys; from orchestrator.study import main; code = main(sys.argv[1:]); "
    probe += "print([m for m in ('ray', 'torch', 'mlflow', 'pandas') if m in sys.modules], file=sys.stderr); sys.exit(code)"
    command = [sys.executable, "-c", probe, str(ROOT / "studies/scaling.yaml"), "--plan", "--storage", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "sharing saves a factor of" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_two_calls_are_equal_byte_for_byte(tmp_path: Path) -> None:
    for arguments in (["--plan"], ["--plan", "--json"]):
        command = study_command(ROOT / "studies/quickstart.yaml", tmp_path, *arguments)
        first, second = (subprocess.check_output(command) for _ in range(2))
        assert first == second
    data = json.loads(second)
    assert data["totals"]["runs"] == len(data["runs"]) == 72
    assert data["totals"]["cells"] == 12


def test_children_share_their_pretraining(write_study: WriteStudy, tmp_path: Path) -> None:
    plan = plan_of(write_study(), tmp_path)
    assert len(plan.cells) == 4
    assert len(plan.runs) == 16
    for cell in plan.cells:
        assert {child.config.parent for child in cell.children} == {cell.pretrain.run_id}
    facts = totals(plan, [])
    trained = sum(run.train_flops for run in plan.runs)
    pretrains = sum(cell.pretrain.train_flops for cell in plan.cells)
    assert facts.sharing_saves == pytest.approx((trained + 2 * pretrains) / trained, abs=1e-3)


AXES: dict[str, tuple[dict[str, Any], int]] = {
    "grid": ({}, 4),
    "zip": ({"combine": "zip"}, 2),
    "include": ({"include": [{"model": "R4", "size": 200}]}, 5),
    "include what is selected": ({"include": [{"model": "R4", "size": 128, "epochs": 2.0}]}, 4),
    "exclude model": ({"exclude": [{"model": "R4"}]}, 2),
    "exclude cell": ({"exclude": [{"model": "R4", "size": 128}]}, 3),
    "same size written twice": ({"sizes": [128, "50%", 256]}, 4),
}


@pytest.mark.parametrize("case", AXES)
def test_axes(case: str, write_study: WriteStudy, tmp_path: Path) -> None:
    change, cells = AXES[case]
    assert len(plan_of(write_study(lambda c: c["pretrain"].update(change)), tmp_path).cells) == cells


def test_seeds_are_an_axis(write_study: WriteStudy, tmp_path: Path) -> None:
    plan = plan_of(write_study(lambda c: c.update(seeds=[0, 1, 2])), tmp_path)
    assert len(plan.cells) == 12
    assert {run.config.seed for run in plan.runs} == {0, 1, 2}


def test_bundles_fill_the_slots_and_keep_cells_whole(write_study: WriteStudy, tmp_path: Path) -> None:
    plan = plan_of(write_study(lambda c: c.update(seeds=list(range(4)))), tmp_path)
    group = plan.cells[0].pretrain.placement.group
    assert 2 <= sum(cell.seconds for cell in plan.cells) / LAUNCH_SECONDS < 4
    bundles = make_bundles(plan.cells, {group: 4})
    assert len(bundles) == 2, "a group that trains for less than its launch takes should share one"
    assert sorted(c.pretrain.run_id for b in bundles for c in b.cells) == sorted(c.pretrain.run_id for c in plan.cells)
    assert max(b.seconds for b in bundles) < 1.3 * min(b.seconds for b in bundles)
    assert len(make_bundles(plan.cells, {group: 1}, "cell")) == len(plan.cells)


def test_separate_fine_tunes_are_bundles_after_their_pretraining(write_study: WriteStudy, tmp_path: Path) -> None:
    plan = make_plan(read_study(write_study()), tmp_path)
    bundles = make_bundles(plan.cells, {plan.cells[0].pretrain.placement.group: 4}, "run")
    first, then = bundles[:4], bundles[4:]
    assert [bundle.runs for bundle in first] == [(cell.pretrain,) for cell in plan.cells]
    assert all(not bundle.after for bundle in first)
    assert sorted(run.run_id for bundle in bundles for run in bundle.runs) == sorted(run.run_id for run in plan.runs)
    assert all(run.config.parent == bundle.after for bundle in then for run in bundle.runs)
    assert sorted({tuple(run.config.phase for run in bundle.runs) for bundle in then}) == [("finetune",), ("probe",)]


def test_large_cells_are_their_own_bundles(scaling: Plan) -> None:
    group = scaling.cells[0].pretrain.placement.group
    assert len(make_bundles(scaling.cells, {group: 1})) == len(scaling.cells)


def test_global_batch_is_exact(scaling: Plan) -> None:
    for run in scaling.runs:
        if run.config.recipe:
            placement = run.placement
            assert placement.micro_batch * placement.accumulation * placement.group.workers == run.config.recipe.batch_size
            assert placement.memory_bytes < 80e9


def test_a_model_that_fits_nowhere_is_refused() -> None:
    model = named_model("G/14")
    recipe = resolve_recipe("vit_paper_i21k", model, {})
    with pytest.raises(UserError, match="G/14 does not fit into 1 x tpuv3"):
        budget.group_for(model, 224, 1000, recipe, Resources(device="tpuv3", workers=1))
    fitting = budget.group_for(model, 224, 1000, recipe, Resources(device="tpuv3"))
    assert fitting.workers > 1
    assert fitting.zero_stage > 0


@pytest.mark.parametrize(
    ("nodes", "count"),
    [([{"CPU": 2.0}], 1), ([{"CPU": 4.0}], 2), ([{"CPU": 3.0}, {"CPU": 1.0}], 2), ([{"CPU": 1.0}] * 8, 4)],
)
def test_slots(nodes: list[dict[str, float]], count: int) -> None:
    assert budget.slots(WorkerGroup(workers=2, cpus_per_worker=1, gpus_per_worker=0, zero_stage=0), nodes) == count


def test_a_study_for_64_gpus_is_refused_on_this_machine_before_anything_runs(tmp_path: Path, write_study: WriteStudy) -> None:
    study = write_study(lambda c: c.update(resources={"workers": 32, "gpus_per_worker": 1}))
    done = run_study(study, tmp_path / "runs")
    assert done.returncode == 2
    assert "pretrain-" in done.stderr
    assert "needs 32 workers x 1 GPU" in done.stderr
    assert "the largest node has 0 GPU" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_over_budget_exits_4(tmp_path: Path, write_study: WriteStudy) -> None:
    study = write_study(lambda c: c.update(resources={"gpus_per_worker": 1, "wait_minutes": 1.0}, budget={"gpu_hours": 1e-9}))
    done = run_study(study, tmp_path / "runs")
    assert done.returncode == 4, done.stderr
    assert "GPU-hours" in done.stderr


def test_a_limit_in_money_is_converted_to_gpu_hours(tmp_path: Path, write_study: WriteStudy) -> None:
    limit = {"cost": 1e-9, "price_per_gpu_hour": 2.0}
    study = write_study(lambda c: c.update(resources={"gpus_per_worker": 1, "wait_minutes": 1.0}, budget=limit))
    done = run_study(study, tmp_path / "runs")
    assert done.returncode == 4, done.stderr
    assert "the limit is 1e-09, 5e-10 GPU-hours at 2 each" in done.stderr
    with pytest.raises(UserError, match=r"line \d+: budget: .*needs price_per_gpu_hour"):
        read_study(write_study(lambda c: c.update(budget={"cost": 5})))


def test_the_plan_has_a_price_and_a_stated_device(tmp_path: Path, write_study: WriteStudy) -> None:
    study = write_study(lambda c: c.update(resources={"device": "h100"}, budget={"price_per_gpu_hour": 3.0}))
    facts = totals(plan_of(study, tmp_path), [])
    assert facts.cost == pytest.approx(3 * facts.gpu_hours, abs=0.01)
    text = run_study(study, tmp_path, "--plan").stdout
    assert "at 3 per GPU-hour" in text
    assert "assuming  h100: 9.89e+14 FLOP/s" in text


def test_every_preset_resolves() -> None:
    for preset in PRESETS:
        assert resolve_recipe(preset, named_model("B/16"), {}, examples=1000).preset == preset
    with pytest.raises(UserError, match="no learning rate for Ti/16"):
        resolve_recipe("vit_paper_jft", named_model("Ti/16"), {})
