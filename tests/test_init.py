"""Weights from a file in place of a pretraining: planned without torch, identified by content, distinguished in rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import WriteStudy, clean_environment, run_study
from test_weights import MICRO_HYBRID, VIT, random_state

from orchestrator import results
from orchestrator.execution.launch import make_orders
from orchestrator.plan.make import Plan, make_bundles, make_plan
from orchestrator.plan.records import run_facts
from orchestrator.plan.render import plan_as_text
from orchestrator.report import tables
from orchestrator.spec.study import read_study
from orchestrator.store.layout import Store
from vitmodel.config.base import UserError
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.run import DataRef, RunConfig
from vitmodel.training.context import Context
from vitmodel.training.run import execute
from vitmodel.weights.header import content_hash, read_header
from vitmodel.weights.interchange import export_weights
from vitmodel.weights.native import saved_model
from vitmodel.weights.recognise import Layout

SMALL = VIT.model_copy(update={"pre_logits": 20})


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "small.npz"
    export_weights({name: 0.2 * tensor for name, tensor in random_state(SMALL).items()}, SMALL, path, "official")
    return path


def only(*models: Any) -> Callable[[dict[str, Any]], None]:
    """The tiny study with these models alone, and no keys of pretraining."""

    def change(content: dict[str, Any]) -> None:
        content["pretrain"] = {"models": list(models)}
        content["transfer"]["recipe"] = {"preset": "micro_vit_finetune"}

    return change


def planned(write_study: WriteStudy, change: Callable[[dict[str, Any]], None], tmp_path: Path) -> Plan:
    return make_plan(read_study(write_study(change)), tmp_path / "store")


def refusal(write_study: WriteStudy, change: Callable[[dict[str, Any]], None]) -> str:
    with pytest.raises(UserError) as caught:
        read_study(write_study(change))
    assert caught.value.line
    return str(caught.value)


def test_a_study_of_imported_weights_alone(write_study: WriteStudy, npz: Path, tmp_path: Path) -> None:
    """One import, no pretraining; the file decides on GELU and pooling; fine-tunes have no pre-logits layer."""
    (cell,) = planned(write_study, only({"init": str(npz)}), tmp_path).cells
    start = cell.pretrain
    assert (start.config.phase, start.config.steps, start.train_flops, start.pretrain_flops) == ("import", 0, 0, None)
    model = start.config.model
    assert isinstance(model, ViTConfig)
    assert (model.width, model.heads, model.gelu, model.pre_logits) == (32, 4, "tanh", 20)
    assert start.run_id.startswith("import-")
    assert [run.config.phase for run in cell.children] == ["finetune", "finetune", "probe"]
    assert all(run.config.parent == start.run_id and run.pretrain_flops is None for run in cell.children)
    assert [run.config.model.pre_logits for run in cell.children] == [0, 0, 20]  # type: ignore[union-attr]
    assert cell.children[-1].config.image_size == 32, "a probe uses images of the size that the weights were trained with"


def test_the_identity_is_the_content(write_study: WriteStudy, npz: Path, tmp_path: Path) -> None:
    """Not the name or the folder; a changed value, or another interpretation of it, makes another run."""

    def run_id(path: Path, **keys: Any) -> str:
        return planned(write_study, only({"init": str(path), **keys}), tmp_path).cells[0].pretrain.run_id

    moved = tmp_path / "elsewhere" / "other.npz"
    moved.parent.mkdir()
    moved.write_bytes(npz.read_bytes())
    assert run_id(npz) == run_id(moved) == run_id(npz, variant="any name")
    arrays = dict(np.load(npz))
    arrays["head/bias"][0] += 1
    np.savez(moved, **arrays)
    assert run_id(npz) != run_id(moved)


def test_an_import_is_shared_by_all_seeds_next_to_trained_models(write_study: WriteStudy, npz: Path, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["seeds"] = [0, 1]
        content["pretrain"]["models"].append({"init": str(npz), "variant": "Small"})

    plan = planned(write_study, change, tmp_path)
    cells = {cell.pretrain.config.phase: cell for cell in plan.cells}
    assert len(plan.cells) == 2 * 2 * 2 + 1
    assert [run.config.seed for run in cells["import"].children] == [0, 0, 0, 1, 1, 1]
    bundles = make_bundles(plan.cells, {plan.cells[0].pretrain.placement.group: 1})
    assert "8 pretrainings and 1 imported models shared by" in plan_as_text(plan, bundles, 0)
    facts = run_facts(cells["import"].pretrain)
    assert (facts.dataset_size, facts.epochs, facts.pretrain_flops) == (None, None, None)
    orders = make_orders(read_study(write_study(change)).study, plan, bundles[0], Store(tmp_path))
    assert {run.data_root for run in orders.runs if run.config.phase == "import"} == {str(npz)}


@pytest.mark.parametrize(("layout", "name"), [(None, "m.safetensors"), ("hf", "folder"), ("timm", "t.safetensors")])
def test_every_layout_can_start_a_study(layout: Layout | None, name: str, write_study: WriteStudy, tmp_path: Path) -> None:
    export_weights(random_state(VIT), VIT, tmp_path / name, layout)
    entry: dict[str, Any] = {"init": str(tmp_path / name)}
    if layout == "timm":  # its shapes do not show the heads
        assert "does not show the number of heads" in refusal(write_study, only(entry))
        entry |= {"family": "vit", "variant": "v", "width": 32, "depth": 2, "mlp_dim": 48, "heads": 4, "patch": 8}
    model = planned(write_study, only(entry), tmp_path).cells[0].pretrain.config.model
    assert isinstance(model, ViTConfig)
    assert (model.width, model.heads, model.gelu) == (32, 4, "erf" if layout == "timm" else "tanh")


def test_planning_with_weights_needs_no_torch(write_study: WriteStudy, npz: Path) -> None:
    study = write_study(only({"init": str(npz)}))
    code = f"""
import sys
from pathlib import Path
from orchestrator.plan.make import make_plan
from orchestrator.spec.study import read_study
make_plan(read_study(Path({str(study)!r})), Path('x'))
print([m for m in ('ray', 'torch', 'mlflow', 'pandas') if m in sys.modules])"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"init": "none.npz"}, "no such file or folder"),
        ({"init": "NPZ", "model": "S/16"}, "small.npz: the file holds 22,589 values, S/16 has 21,"),
        ({"init": "NPZ", "model": "R50x1"}, "another architecture"),
        ({"init": "NPZ", "lengths": [{"epochs": 1}]}, "a model with imported weights is not pretrained"),
        ({"init": "NPZ", "recipe": {"lr": 0.1}}, "models[0].recipe: a model with imported weights is not pretrained"),
        (
            {"init": "NPZ", "model": "Ti/16", "gelu": "erf"},
            "models[0].gelu: gelu is tanh in small.npz, not erf (allowed: tanh)",
        ),
        ({"init": "weights.pth"}, "convert it with `vitscale weights import`"),
        ({"init": "objects.npz"}, "bad contains Python objects, which need allow_pickle=True"),
        ({"init": "text.npz"}, "the file must contain tensors only"),
        ({"init": "other.npz"}, "unknown layout: no supported codebase has a tensor 'weight'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused(entry: dict[str, Any], reason: str, write_study: WriteStudy, npz: Path, tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no weights")
    (tmp_path / "weights.pth").touch()
    np.savez(tmp_path / "objects.npz", bad=np.array([{}], dtype=object))
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    init = str(npz) if entry["init"] == "NPZ" else str(tmp_path / entry["init"])
    message = refusal(write_study, only({**entry, "init": init}))
    assert reason in message
    assert "tiny.yaml, line " in message
    assert "pretrain.models[0]" in message


def test_a_pretraining_still_needs_its_keys(write_study: WriteStudy, npz: Path) -> None:
    both = only({"init": str(npz)}, "S/16")
    assert "pretrain.data: required key is missing" in refusal(write_study, both)


def test_a_hybrid_is_known_by_its_name(write_study: WriteStudy, tmp_path: Path) -> None:
    export_weights(random_state(MICRO_HYBRID), MICRO_HYBRID, tmp_path / "h.npz", "official")
    keys = {**MICRO_HYBRID.model_dump(mode="json"), "variant": "micro"}
    for decided in ("gelu", "layer_norm_eps", "pooling", "pre_logits"):
        keys.pop(decided)
    plan = planned(write_study, only({**keys, "init": str(tmp_path / "h.npz")}), tmp_path)
    assert plan.cells[0].pretrain.params == sum(t.numel() for t in random_state(MICRO_HYBRID).values())
    assert "name the model" in refusal(write_study, only({"init": str(tmp_path / "h.npz")}))


def test_headers_describe_the_tensors(npz: Path, tmp_path: Path) -> None:
    shapes, metadata = read_header(npz)
    assert shapes == {name: array.shape for name, array in np.load(npz).items()}
    assert metadata == {}
    export_weights(random_state(VIT), VIT, tmp_path / "m.safetensors")
    shapes, metadata = read_header(tmp_path / "m.safetensors")
    assert shapes == {name: tuple(tensor.shape) for name, tensor in random_state(VIT).items()}
    assert ViTConfig.model_validate_json(metadata["model"]) == VIT


def test_a_file_that_changed_since_the_plan_is_refused(npz: Path, tmp_path: Path) -> None:
    data = DataRef(name="small.npz", identity=content_hash(npz), size=0, lanes=1, window=1, eval_split="")
    config = RunConfig(phase="import", model=SMALL, image_size=32, classes=5, data=data, seed=0)
    execute(config, Context(folder=tmp_path, data_root=npz))
    assert saved_model(tmp_path / "model.safetensors") == SMALL
    npz.write_bytes(npz.read_bytes() + b"\0")
    with pytest.raises(UserError, match="the file has changed since the study was planned"):
        execute(config, Context(folder=tmp_path, data_root=npz))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fine_tunes_from_a_file_end_to_end(write_study: WriteStudy, npz: Path, tmp_path: Path) -> None:
    """Through Ray: rows say that nothing was pretrained here, and that its cost is not known."""
    study = write_study(only({"init": str(npz), "variant": "Small"}))
    done = run_study(study, tmp_path / "store", env=clean_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ViT from imported weights on digits" in done.stdout
    frame = results.collect(tmp_path / "store", "tiny")
    assert list(frame["phase"]) == ["import", "finetune", "finetune", "probe"]
    assert set(frame["status"]) == {"DONE"}
    assert frame[["dataset_size", "epochs", "pretrain_flops", "upstream_top1"]].isna().all(axis=None)
    assert set(frame["length"]) == {"imported"}
    assert pd.isna(frame["top1"][0])
    assert frame["top1"][1:].between(0, 1).all()
    store = Store(tmp_path / "store")
    assert saved_model(store.run(frame["run_id"][0]).path / "model.safetensors") is not None
    assert "unknown" in tables.results_text(frame)
