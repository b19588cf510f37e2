"""The contract of every model family; and a new family takes three files, those of docs/models.md, "Add an architecture"."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, WriteStudy, clean_environment
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.spec.pretrain import FamilyRecipes, RecipeSpec
from vitmodel.config.base import UserError
from vitmodel.config.models import FAMILIES, NAMED_VARIANTS, ModelConfig, check_image_size, named_model
from vitmodel.flops.count import activation_bytes, count_params, forward_flops, list_variants
from vitmodel.models.build import build
from vitmodel.models.classifier import Classifier

FILES = {"family.py": "vitmodel/config/families/mlp.py", "module.py": "vitmodel/models/mlp.py"}  # the third is the table
TABLE = "vitmodel/config/models.py"
each_family = pytest.mark.parametrize("name", FAMILIES)


def smallest(name: str) -> tuple[ModelConfig, int]:
    """The published variant of a family with the fewest parameters, and an image size that it supports."""
    rows = {size: [row for row in list_variants(size) if row.family == name] for size in (32, 64, 224)}
    size = next(size for size in rows if rows[size])
    return named_model(min(rows[size], key=lambda row: row.params).variant), size


@each_family
def test_names_and_configuration(name: str) -> None:
    family = FAMILIES[name]
    for variant, source in family.published.items():
        model = named_model(variant)
        assert type(model) is family.config
        assert (model.family, model.variant, NAMED_VARIANTS[variant]) == (name, variant, source)
        assert TypeAdapter(ModelConfig).validate_json(model.model_dump_json()) == model
    assert all(named_model(variant).family == name for variant in family.unpublished)
    assert family.named("no such name") is None


@each_family
def test_an_image_without_pixels_is_refused(name: str) -> None:
    with pytest.raises(UserError):
        check_image_size(smallest(name)[0], 0)


@each_family
def test_counts_are_those_of_the_module(name: str) -> None:
    model, size = smallest(name)
    with torch.device("meta"):
        module, image = build(model, size, 10).eval(), torch.empty(1, 3, size, size)
    assert isinstance(module, Classifier)
    assert sum(parameter.numel() for parameter in module.parameters()) == count_params(model, size, 10)
    assert any(True for _ in module.buffers()) == FAMILIES[name].has_statistics
    head = sum(parameter.numel() for parameter in module.head.parameters())
    assert count_params(model, size, 10) - count_params(model, size, 0) == head
    with FlopCounterMode(display=False) as counter:
        module(image)
    assert forward_flops(model, size, 10) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert activation_bytes(model, size, 4) == 2 * activation_bytes(model, size, 2) > 0


@each_family
def test_the_module_trains(name: str) -> None:
    """A zero head, a gradient for every parameter, features for the head, weights that depend on the seed only."""
    model, size = smallest(name)
    module, same = build(model, size, 10, seed=0).train(), build(model, size, 10, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), same.state_dict().values(), strict=True))
    images = torch.randn(2, 3, size, size)
    assert not module(images).any()
    torch.nn.init.normal_(module.head.get_parameter("weight"))
    logits = module(images)
    assert torch.allclose(module.head(module.features(images)), logits, atol=1e-5)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    module.activation_checkpointing = True
    torch.testing.assert_close(module(images), logits)


def test_the_study_file_has_a_recipe_for_each_family() -> None:
    assert list(FamilyRecipes.model_fields) == list(FAMILIES)
    recipes = FamilyRecipes.model_validate({name: {"lr": 0.1} for name in FAMILIES})
    assert all(recipes.of(name) == RecipeSpec(lr=0.1) for name in FAMILIES)


def add_to_table(path: Path) -> None:
    """The three lines of docs/models.md."""
    text = path.read_text()
    for old, new in (
        ("from vitmodel.config.families.resnet import", "from vitmodel.config.families.mlp import MLP, MlpConfig\n"),
        (" | CnnConfig,", " | CnnConfig | MlpConfig,"),
        ('"cnn": CNN}', '"cnn": CNN, "mlp": MLP}'),
    ):
        assert text.count(old) == 1, f"docs/models.md and this test have to follow {TABLE}: {old}"
        text = text.replace(old, new + old if new.endswith("\n") else new)
    path.write_text(text)


def test_a_new_family_takes_three_files(write_study: WriteStudy, tmp_path: Path) -> None:
    """A copy of both packages, with the example of tests/new_family: the contract above, and a study from file to weights."""
    for package in ("vitmodel", "orchestrator"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for example, path in FILES.items():
        shutil.copy(ROOT / "tests/new_family" / example, tmp_path / path)
    add_to_table(tmp_path / TABLE)

    def change(content: dict[str, Any]) -> None:
        content["pretrain"]["models"] = ["MLP-64", {"family": "mlp", "variant": "wide", "width": 512}]
        content["pretrain"]["recipe"] = {"mlp": {**content["pretrain"]["recipe"]["resnet"], "preset": "micro_resnet"}}
        content["transfer"]["recipe"] = {"preset": "micro_resnet_finetune"}

    environment = {**clean_environment(), "PYTHONPATH": f"{tmp_path}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    assert str(tmp_path) in run("-c", "import vitmodel; print(vitmodel.__path__)"), "the copy is imported"
    study = str(write_study(change))
    models = json.loads(run("-m", "orchestrator.cli", "models", "--json"))
    assert [row["family"] for row in models if row["variant"] == "MLP-512"] == ["mlp"]
    plan = json.loads(run("-m", "orchestrator.cli", "plan", study, "--json", "--storage", "store"))
    assert {row["family"] for row in plan["runs"]} == {"mlp"}
    checked = run("-m", "orchestrator.cli", "check", study, "--storage", "store").splitlines()
    assert [line.endswith("passes") for line in checked if "loss" in line] == [True, True]
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-k", "mlp or recipe_for")
    assert "5 passed" in run("-m", "pytest", *options, str(ROOT / "tests/test_families.py"))
