"""Presets against their papers, the hyper-rule as a table of cases, and recipes as axes of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import WriteStudy

from orchestrator.plan.make import Plan, make_plan
from orchestrator.plan.render import run_facts
from orchestrator.spec.pretrain import RecipeSpec
from orchestrator.spec.study import read_study
from vitmodel.config.base import UserError
from vitmodel.config.hyperrule import bit_hyperrule, hyperrule_resolution
from vitmodel.config.models import named_model
from vitmodel.config.presets import resolve_recipe
from vitmodel.config.recipe import Recipe


def plan_of(path: Path) -> Plan:
    return make_plan(read_study(path), Path("runs"))


def test_a_study_has_every_key_of_a_recipe() -> None:
    assert set(RecipeSpec.model_fields) == set(Recipe.model_fields)


AUGREG = {  # Steiner et al. 2021: RandAugment (layers, magnitude) and mixup
    "none": (0, 0, 0.0),
    "light1": (2, 0, 0.0),
    "light2": (2, 10, 0.2),
    "medium1": (2, 15, 0.2),
    "medium2": (2, 15, 0.5),
    "strong1": (2, 20, 0.5),
    "strong2": (2, 20, 0.8),
}


# Dosovitskiy et al. 2021, Tables 3 and 4: schedule, weight decay, dropout, and the rate of each model.
PAPER = {
    "vit_paper_jft": ("linear", 0.1, 0.0, {"B/32": 8e-4, "B/16": 8e-4, "L/32": 6e-4, "L/16": 4e-4, "H/14": 3e-4}),
    "vit_paper_i21k": ("linear", 0.03, 0.1, {"B/16": 1e-3, "L/16": 1e-3}),
    "vit_paper_imagenet": ("cosine", 0.3, 0.1, {"B/16": 3e-3, "L/16": 3e-3}),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes(name: str) -> None:
    schedule, weight_decay, dropout, rates = PAPER[name]
    for variant, rate in rates.items():
        recipe = resolve_recipe(name, named_model(variant), {})
        values = (recipe.schedule, recipe.weight_decay, recipe.dropout, recipe.lr)
        assert values == (schedule, weight_decay, dropout, rate)
        assert (recipe.optimizer, recipe.batch_size, recipe.warmup, recipe.beta1, recipe.beta2) == (
            "adamw",
            4096,
            10_000,
            0.9,
            0.999,
        )
    tune = resolve_recipe("vit_finetune", named_model("B/16"), {})
    assert (tune.optimizer, tune.momentum, tune.batch_size, tune.weight_decay, tune.schedule) == (
        "sgd",
        0.9,
        512,
        0.0,
        "cosine",
    )
    assert (tune.grad_clip, tune.lr in (0.003, 0.01, 0.03, 0.06)) == (1.0, True)


def test_the_recipe_of_small_data_is_strongly_regularised() -> None:
    recipe = resolve_recipe("small_data", named_model("S/16"), {})
    assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing, recipe.stochastic_depth) == (0.8, 1.0, 0.1, 0.1)
    assert (recipe.randaugment_layers, recipe.randaugment_magnitude) == (2, 9)
    assert (recipe.weight_decay, recipe.ema, recipe.batch_size) == (0.3, 0.999, 512)


def test_a_finer_grid_in_transfer(write_study: WriteStudy) -> None:
    """`resolution` of the transfer, for a ViT and for a hybrid: their fine-tunes see larger images and count more FLOPs."""

    def change(content: dict[str, Any]) -> None:
        size = {"width": 16, "depth": 1, "mlp_dim": 32, "heads": 2}
        hybrid = {"family": "hybrid", "variant": "H", "stages": [1, 1], "stem_width": 8, "groups": 2, **size}
        content["pretrain"] |= {"models": [content["pretrain"]["models"][0], hybrid], "sizes": [128]}
        content["pretrain"]["recipe"] = {"preset": "micro_vit", "batch_size": 32}
        content["transfer"]["resolution"] = 48

    for cell in plan_of(write_study(change)).cells:
        assert cell.pretrain.config.image_size == 16
        tunes = [run for run in cell.children if run.config.phase == "finetune"]
        assert {run.config.image_size for run in tunes} == {48}
        assert all(run.forward_flops > 3 * cell.pretrain.forward_flops for run in tunes)


@pytest.mark.parametrize("name", AUGREG)
def test_augreg(name: str) -> None:
    recipe = resolve_recipe(f"augreg_{name}", named_model("B/16"), {})
    assert (recipe.randaugment_layers, recipe.randaugment_magnitude, recipe.mixup) == AUGREG[name]
    assert (recipe.batch_size, recipe.lr, recipe.schedule, recipe.warmup, recipe.grad_clip) == (
        4096,
        1e-3,
        "cosine",
        10_000,
        1.0,
    )


HYPERRULE = [  # examples, steps, warm-up, mixup: Kolesnikov et al. 2020, section 3.3
    (1, 500, 100, 0.0),
    (19_999, 500, 100, 0.0),
    (20_000, 10_000, 500, 0.1),
    (50_000, 10_000, 500, 0.1),
    (499_999, 10_000, 500, 0.1),
    (500_000, 20_000, 500, 0.1),
    (1_281_167, 20_000, 500, 0.1),
]


@pytest.mark.parametrize(("examples", "steps", "warmup", "mixup"), HYPERRULE)
def test_hyperrule(examples: int, steps: int, warmup: int, mixup: float) -> None:
    assert bit_hyperrule(examples) == (steps, warmup, mixup)
    recipe = resolve_recipe("bit_hyperrule", named_model("R50x1"), {}, examples=examples)
    assert (recipe.warmup, recipe.mixup, recipe.schedule, recipe.lr, recipe.batch_size) == (warmup, mixup, "step", 0.003, 512)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 0.0)
    assert resolve_recipe("bit_hyperrule", named_model("R50x1"), {"mixup": 0.3}, examples=examples).mixup == 0.3


@pytest.mark.parametrize(("image_size", "resolution"), [(28, 128), (95, 128), (96, 384), (500, 384)])
def test_hyperrule_resolution(image_size: int, resolution: int) -> None:
    assert hyperrule_resolution(image_size) == resolution


def test_a_study_by_the_hyperrule(write_study: WriteStudy) -> None:
    def change(content: dict[str, Any]) -> None:
        content["transfer"].update(epochs=[1, "hyperrule"], resolution="hyperrule", recipe={"preset": "bit_hyperrule"})
        content["transfer"]["recipe"].update(batch_size=64)

    tunes = [run for run in plan_of(write_study(change)).runs if run.config.phase == "finetune"]
    schedules = {(run.length, run.config.steps, run.config.image_size) for run in tunes}
    assert schedules == {("1 epochs", 16, 128), ("500 steps", 500, 128)}

    def without_size(content: dict[str, Any]) -> None:
        change(content)
        content["datasets"]["pets"] = {"url": "/nowhere", "train": 3680, "classes": 37}
        content["transfer"]["tasks"] = ["pets"]

    with pytest.raises(UserError, match="size of pets's images; state its image_size") as caught:
        plan_of(write_study(without_size))
    assert caught.value.line is not None


def vary(**keys: Any) -> Any:
    return lambda content: content["pretrain"]["recipe"]["vit"].update(keys)


def test_a_list_is_an_axis(write_study: WriteStudy) -> None:
    plan = plan_of(write_study(vary(weight_decay=[0.03, 0.1], mixup=[0, 0.2], dropout=0.1)))
    vit = [cell for cell in plan.cells if cell.pretrain.config.model.family == "vit"]
    recipes = {
        (c.pretrain.config.data.size, c.pretrain.config.recipe.weight_decay, c.pretrain.config.recipe.mixup) for c in vit
    }
    assert len(vit) == len(recipes) == 8
    assert {cell.pretrain.config.recipe.dropout for cell in vit} == {0.1}
    names = {run_facts(cell.pretrain).variant for cell in vit}
    assert names == {f"V16/8 weight_decay={w} mixup={m}" for w in ("0.03", "0.1") for m in ("0", "0.2")}
    for cell in vit:
        assert {child.variant for child in cell.children} == {cell.pretrain.variant}
    others = {run_facts(cell.pretrain).recipe for cell in plan.cells if cell not in vit}
    assert others == {""}


def test_one_value_changes_no_id_and_no_name(write_study: WriteStudy) -> None:
    plain, listed = plan_of(write_study(vary(weight_decay=0.1))), plan_of(write_study(vary(weight_decay=[0.1])))
    assert [run_facts(run) for run in plain.runs] == [run_facts(run) for run in listed.runs]


def test_a_list_in_transfer_is_a_task_each(write_study: WriteStudy) -> None:
    plan = plan_of(write_study(lambda c: c["transfer"]["recipe"].update(lr=[0.001, 0.01])))
    assert len(plan.cells) == 4
    tunes = [run for run in plan.runs if run.config.phase == "finetune"]
    assert len(tunes) == 4 * 2 * 2
    assert {run.recipe for run in tunes} == {"lr=0.001", "lr=0.01"}
    assert {run.variant for run in tunes} == {"V16/8", "R4"}


def test_presets_side_by_side(write_study: WriteStudy) -> None:
    """Two entries of one model that differ in their recipe; equal ones are refused."""

    def change(content: dict[str, Any], second: str) -> None:
        models = content["pretrain"]["models"]
        models[1] = {**models[0], "recipe": {"preset": second}, "lengths": [{"epochs": 1}]}
        models[0]["recipe"] = {"preset": "micro_vit"}

    names = {cell.pretrain.variant for cell in plan_of(write_study(lambda c: change(c, "micro_resnet"))).cells}
    assert names == {"V16/8 preset=micro_vit", "V16/8 preset=micro_resnet"}
    with pytest.raises(UserError, match="V16/8 is listed twice"):
        plan_of(write_study(lambda c: change(c, "micro_vit")))


def test_axes_of_recipes_are_cut(write_study: WriteStudy) -> None:
    def change(content: dict[str, Any]) -> None:
        vary(ema=[0.0, 0.9])(content)
        content["pretrain"]["exclude"] = [{"model": "V16/8", "size": 128, "recipe": "ema=0.9"}]

    assert len(plan_of(write_study(change)).cells) == 2 + 3


WRONG = {
    "value": (vary(dropout=1.5), "1.5 is out of range (allowed: a number from 0 to below 1", "dropout"),
    "value in a list": (vary(mixup=[0.2, -1.0]), "-1 is out of range (allowed: a number, 0 or more", "mixup[1]"),
    "unknown choice": (vary(schedule="cosinus"), "did you mean cosine?", "schedule"),
    "alone in its lane": (
        lambda c: (vary(mixup=0.2)(c), c["pretrain"].update(lanes=32)),
        "a batch of 32 has one image for each of 32 lanes",
        "lanes",
    ),
    "no residual branches": (
        lambda c: c["pretrain"]["recipe"]["resnet"].update(stochastic_depth=0.1),
        "resnet has no stochastic depth",
        "resnet",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_recipes_are_refused_before_anything_runs(case: str, write_study: WriteStudy) -> None:
    change, message, field = WRONG[case]
    with pytest.raises(UserError) as caught:
        plan_of(write_study(change))
    assert message in str(caught.value)
    assert caught.value.field.endswith(field)
    assert caught.value.line is not None


def test_mixing_leaves_two_samples_a_lane(write_study: WriteStudy) -> None:
    for mixup, lanes in ((0.0, 32), (0.2, 16)):
        runs = plan_of(write_study(vary(mixup=mixup))).runs
        assert {r.config.data.lanes for r in runs if r.config.phase == "pretrain" and r.config.model.family == "vit"} == {lanes}


def test_finetuning_drops_the_layer_before_the_head(write_study: WriteStudy) -> None:
    plan = plan_of(write_study(lambda c: c["pretrain"]["models"][0].update(pre_logits=16)))
    layers = {(run.config.phase, getattr(run.config.model, "pre_logits", 0)) for run in plan.runs}
    assert {("pretrain", 16), ("finetune", 0)} <= layers
    assert ("finetune", 16) not in layers
