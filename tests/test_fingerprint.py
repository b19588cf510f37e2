"""Run ids: they follow the meaning of a configuration, and stay the same from release to release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, WriteStudy
from pydantic import Field

from orchestrator.plan.fingerprint import canonical_json, run_id
from orchestrator.plan.make import Plan, make_plan
from orchestrator.spec.kinds import Kind, kind_of
from orchestrator.spec.study import read_study
from vitmodel.config.base import NEUTRAL as DECLARED
from vitmodel.config.base import Frozen, since
from vitmodel.config.objectives import MaeDecoder
from vitmodel.config.recipe import Recipe
from vitmodel.config.run import RunConfig

# Fields of 0.1, which are in every hash. Do not add to a line: a later field declares itself with `since`.
FIELDS_0_1 = {
    "RunConfig": "phase model image_size classes objective data seed parent steps recipe shots",
    "DataRef": "name identity size subset_seed lanes window eval_split",
    "Recipe": "preset optimizer lr layer_decay batch_size schedule warmup cooldown weight_decay beta1 beta2 momentum grad_clip "
    "dropout stochastic_depth label_smoothing augment flip randaugment_layers randaugment_magnitude mixup cutmix ema precision",
    "ViTConfig": "width depth mlp_dim heads pooling gelu layer_norm_eps pre_logits mixer window family variant patch",
    "HybridConfig": "width depth mlp_dim heads pooling gelu layer_norm_eps pre_logits mixer window family variant stages "
    "stem_width groups patch",
    "ResNetConfig": "family variant stages width block stem groups",
    "CnnConfig": "family variant architecture width_factor stem",
    "Supervised": "kind",
    "MaskedPatch": "kind corrupted masked other",
    "Mae": "kind masked decoder",
    "MaeDecoder": "width depth heads",
}
# Ids of 0.1, as its stores have them: study and label of the run.
IDS_0_1 = {
    ("quickstart", "pretrain R16 fractals 18,000 6 epochs"): "pretrain-f64b6ed4d808",
    ("quickstart", "pretrain V64/8 fractals 18,000 6 epochs"): "pretrain-19893b481497",
    ("scaling", "pretrain H/14 jft300m 303,000,000 14 epochs"): "pretrain-95b1643d958d",
    ("scaling", "pretrain R200x3 jft300m 303,000,000 14 epochs"): "pretrain-8d0e8ab5163c",
    ("scaling", "pretrain R50+L/16 jft300m 303,000,000 14 epochs"): "pretrain-791352781f17",
    ("objectives", "pretrain V64/8 masked_patch fractals 18,000 6 epochs"): "pretrain-a54fa2a660d1",
}
CHILDREN_0_1 = {  # ids of runs that start from these
    "quickstart": {"finetune-9fd351c675da", "finetune-9027c5679312", "probe-1f949b5cfcd0", "probe-41d14f795c20"},
    "scaling": {"finetune-d6e19f8dedca", "finetune-4b1bbd0d1e63", "probe-287a34e33a44", "probe-75676268cf46"},
    "objectives": {"finetune-1dd11f2c5de9", "probe-116a75b37033"},
}


def plan_of(path: Path, storage: Path) -> Plan:
    return make_plan(read_study(path), storage)


NEUTRAL = {
    "study name": lambda c: c.update(name="other"),
    "workers": lambda c: c.update(resources={"workers": 2, "zero_stage": 2}),
    "micro-batch": lambda c: c.update(resources={"micro_batch": 8}),
    "budget": lambda c: c.update(budget={"max_runs": 100}),
    "failure policy": lambda c: c.update(on_failure={"retries": 9}),
    "more sizes": lambda c: c["pretrain"].update(sizes=[64, 128, 256]),
    "default written out": lambda c: c["pretrain"].update(window=8192),
    "variant's name": lambda c: c["pretrain"]["models"][0].update(variant="My ViT"),
}
MEANINGFUL = {
    "seed": lambda c: c.update(seeds=[1]),
    "width": lambda c: c["pretrain"]["models"][0].update(width=32),
    "learning rate": lambda c: c["pretrain"]["recipe"]["vit"].update(lr=0.1),
    "data": lambda c: c["datasets"]["fractals"].update(variation=0.1),
    "length": lambda c: c["pretrain"].update(lengths=[{"epochs": 3}]),
    "order": lambda c: c["pretrain"].update(window=16),
}


@pytest.mark.parametrize("change", NEUTRAL)
def test_ids_are_equal_if_the_meaning_is_equal(change: str, write_study: WriteStudy, tmp_path: Path) -> None:
    before = {run.run_id for run in plan_of(write_study(), tmp_path).runs}
    after = {run.run_id for run in plan_of(write_study(NEUTRAL[change]), tmp_path).runs}
    assert before <= after


@pytest.mark.parametrize("change", MEANINGFUL)
def test_ids_change_with_the_meaning(change: str, write_study: WriteStudy, tmp_path: Path) -> None:
    def vit_runs(plan: Plan) -> set[str]:
        return {run.run_id for run in plan.runs if run.config.model.family == "vit"}

    before, after = plan_of(write_study(), tmp_path), plan_of(write_study(MEANINGFUL[change]), tmp_path)
    assert not vit_runs(before) & vit_runs(after)


def test_ids_survive_json(write_study: WriteStudy, tmp_path: Path) -> None:
    for run in plan_of(write_study(), tmp_path).runs:
        assert run_id(RunConfig.model_validate_json(run.config.model_dump_json())) == run.run_id


def test_what_has_no_stable_form_is_refused() -> None:
    assert canonical_json({"b": 1, "a": (2.0, None)}) == '{"a":[2.0,null],"b":1}'
    with pytest.raises(ValueError, match="finite"):
        canonical_json({"a": float("nan")})
    with pytest.raises(TypeError, match="set"):
        canonical_json({"a": {1}})


@pytest.mark.parametrize("study", CHILDREN_0_1)
def test_ids_are_those_of_the_first_release(study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITSCALE_DATA", raising=False)
    plan = plan_of(ROOT / f"studies/{study}.yaml", tmp_path)
    ids = {run.label: run.run_id for run in plan.runs}
    assert {label: ids[label] for name, label in IDS_0_1 if name == study} == {
        label: id_ for (name, label), id_ in IDS_0_1.items() if name == study
    }
    assert CHILDREN_0_1[study] <= {run.run_id for run in plan.runs}


def configurations(kind: Kind) -> Iterator[type[Frozen]]:
    """All models that a configuration is made of."""
    for member in kind.members:
        if member.model:
            yield member.model  # type: ignore[misc]
            for field in member.model.model_fields.values():
                yield from configurations(kind_of(field))
        elif member.element:
            yield from configurations(member.element)


def test_a_later_field_declares_its_neutral_value() -> None:
    for model in configurations(kind_of(RunConfig)):
        fields = {name for name, field in model.model_fields.items() if DECLARED not in (field.json_schema_extra or {})}
        first = set(FIELDS_0_1.get(model.__name__, "").split())
        assert fields == (first or fields), f"{model.__name__}: declare later fields with json_schema_extra=since(...)"


class LaterDecoder(MaeDecoder):
    norm: str = Field(default="post", json_schema_extra=since("0.3", neutral="pre"))


class LaterRecipe(Recipe):
    label_noise: float = Field(default=0.0, json_schema_extra=since("0.2", neutral=0))
    marks: tuple[float, ...] = Field(default=(), json_schema_extra=since("0.2", neutral=[]))
    decoder: LaterDecoder | None = Field(default=None, json_schema_extra=since("0.2", neutral=None))


class LaterRun(RunConfig):
    recipe: LaterRecipe | None = None
    teacher: str | None = Field(default=None, json_schema_extra=since("0.2", neutral=None))


def test_a_later_field_changes_the_id_only_where_it_is_not_neutral(write_study: WriteStudy, tmp_path: Path) -> None:
    first = next(run.config for run in plan_of(write_study(), tmp_path).runs if run.config.phase == "pretrain")
    assert first.recipe is not None

    def later(*, teacher: str | None = None, **recipe: object) -> str:
        content = {**first.model_dump(), "teacher": teacher}
        return run_id(LaterRun.model_validate({**content, "recipe": {**content["recipe"], **recipe}}))

    assert later() == later(label_noise=0.0, marks=()) == run_id(first)
    assert later(lr=2 * first.recipe.lr) != run_id(first)
    small = {"width": 8, "depth": 1, "heads": 2}
    others = [
        later(teacher="run"),
        later(label_noise=0.1),
        later(marks=(0.5,)),
        later(decoder=small),
        later(decoder={**small, "norm": "pre"}),  # its default is not its neutral value
    ]
    assert len({*others, run_id(first)}) == len(others) + 1
