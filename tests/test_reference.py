"""The reference page agrees with the schema; every key has a meaning, and an example that is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, WriteStudy
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.spec.describe import as_tuples
from orchestrator.spec.forms import allowed, example, example_of
from orchestrator.spec.kinds import fits, keys_of, kind_of
from orchestrator.spec.pretrain import ModelEntry, RecipeSpec
from orchestrator.spec.reference import OBJECTIVES, SECTIONS, meanings, reference_page
from orchestrator.spec.schema import Study
from orchestrator.spec.study import read_study
from vitmodel.config.models import FAMILIES
from vitmodel.config.presets import PRESETS
from vitmodel.config.recipe import Recipe

MODELS: list[type[BaseModel]] = [
    Study,
    ModelEntry,
    *(model for models in SECTIONS.values() for _, model in models),
    *(model for _, model in OBJECTIVES),
    *(family.config for family in FAMILIES.values()),
]
# written in a short form, which becomes the form of the schema when a file is read
SHORT_FORMS = {"pretrain": "a section", "models": "names", "objective": "a name", "init": "a path", "datasets": "a section"}


def fields() -> Iterator[tuple[type[BaseModel], str, FieldInfo]]:
    for model in MODELS:
        for name, field in keys_of(model).items():
            yield model, name, field


def of_yaml(text: str) -> Any:
    return as_tuples(YAML(typ="safe").load(text))


def test_the_page_is_what_the_schema_gives() -> None:
    assert (ROOT / "docs/reference.md").read_text() == reference_page(), "run: vitscale reference > docs/reference.md"
    assert CliRunner().invoke(app, ["reference"]).stdout == reference_page()


def test_the_page_has_every_section_preset_and_family() -> None:
    page = reference_page()
    described = {model for models in SECTIONS.values() for _, model in models}
    for name, field in keys_of(Study).items():
        inner = {member.model for member in kind_of(field).members} - {None}
        inner |= {kind.element.model} - {None} if (kind := kind_of(field)).element else set()
        assert f"| `{name}` |" in page
        assert inner <= described, name
    for name in PRESETS:
        assert f"| `{name}` |" in page
    for name in FAMILIES:
        assert f"### Family {name}\n" in page
    for name in keys_of(RecipeSpec):
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("model", dict.fromkeys(MODELS), ids=lambda model: model.__name__)
def test_every_key_has_a_meaning_and_a_text_of_what_is_allowed(model: type[BaseModel]) -> None:
    texts = meanings(model)
    for name, field in keys_of(model).items():
        assert texts.get(name, "").endswith("."), f"{model.__name__}.{name}: a docstring below the field states its meaning"
        assert "..." not in allowed(kind_of(field)).replace("{generate: fractals, ...}", "").replace("NAME, ...}", "")


def test_every_recipe_key_has_a_meaning_and_the_type_of_the_recipe() -> None:
    texts = meanings(Recipe)
    for name, field in keys_of(RecipeSpec).items():
        single, several = kind_of(field).members
        assert texts[name].endswith(".")
        assert several.element == single
        assert name == "preset" or single == kind_of(Recipe.model_fields[name]), name


def test_every_example_is_accepted() -> None:
    for model, name, field in [*fields(), *((RecipeSpec, name, field) for name, field in keys_of(RecipeSpec).items())]:
        if name in SHORT_FORMS and model.__name__ in ("Study", "Pretrain", "ModelEntry"):
            continue
        assert fits(kind_of(field), of_yaml(example_of(field))), f"{model.__name__}.{name}: {example_of(field)}"
        written = kind_of(field).written
        assert written is None or fits(kind_of(field), of_yaml(example(kind_of(field)))), written


def test_examples_of_short_forms_are_accepted(write_study: WriteStudy) -> None:
    def study(content: dict[str, Any]) -> None:
        content["datasets"] |= of_yaml(example_of(Study.model_fields["datasets"]))
        content["pretrain"] = dict(of_yaml(example_of(Study.model_fields["pretrain"])))
        content["pretrain"]["models"] = [*of_yaml(example_of(keys_of(Study)["pretrain"]))["models"], entry]
        content["pretrain"]["objective"] = "mae"

    entry = dict(of_yaml(ModelEntry.written.example))
    models = read_study(write_study(study)).study.pretrain.models
    assert [model.model.variant for model in models] == ["S/16", "S/16 pooling=gap"]


def test_an_outdated_page_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "made_up", {"lr": 1.0})
    assert "`made_up`" in reference_page()
    assert (ROOT / "docs/reference.md").read_text() != reference_page()
    assert Path(ROOT / "docs/reference.md").exists()
