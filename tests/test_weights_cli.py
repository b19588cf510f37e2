"""`vitscale weights` and `vitscale models`: what they write, print and refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from records import run_record, run_result
from test_flops import MICRO_HYBRID
from test_weights import BIT, PRE, VIT, random_state, written
from typer.testing import CliRunner, Result

from orchestrator.cli import app
from orchestrator.store.layout import Store
from orchestrator.store.records import as_json
from vitmodel.config.base import UserError
from vitmodel.config.models import NAMED_VARIANTS, ModelConfig
from vitmodel.files import write_json
from vitmodel.models.build import build
from vitmodel.weights.interchange import export_weights, import_weights
from vitmodel.weights.native import save_weights, saved_model
from vitmodel.weights.verify import fixed_images, logit_difference, module, verify_file


def vitscale(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    error = vitscale(*arguments).exception
    assert isinstance(error, UserError)
    return str(error)


def run_in_store(root: Path, model: ModelConfig, run_id: str = "pretrain-0123456789ab", with_model: bool = True) -> str:
    """A finished pretraining in a store."""
    folder = Store(root).run(run_id).path
    write_json(folder / "config.json", as_json(run_record(run_id, model=model)))
    write_json(folder / "result.json", as_json(run_result(run_id)))
    save_weights(random_state(model), folder / "model.safetensors", model if with_model else None)
    return run_id


def test_models_lists_every_named_variant_without_torch() -> None:
    code = "import sys; from orchestrator.cli import app; app(['models', '--json'], standalone_mode=False);"
    code += "assert not {'torch', 'ray', 'pandas'} & set(sys.modules)"
    rows = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert {row["variant"] for row in rows} == set(NAMED_VARIANTS)
    assert all(set(row) == {"variant", "family", "params", "forward_flops", "source"} for row in rows)
    known = {row["variant"]: row for row in rows}
    assert known["B/16"]["params"] == 86_567_656
    assert known["B/16"]["forward_flops"] == pytest.approx(35.1e9, rel=0.01), "ViT-B/16: 17.6 GMAC"


def test_models_at_another_size_lists_the_models_left_out() -> None:
    output = vitscale("models", "--image-size", 48).output
    assert "B/16" in output
    assert "not for images of 48 px: AlexNet, B/32, G/14" in output
    nothing = vitscale("models", "--image-size", 0)
    assert (nothing.exit_code, "Invalid value for '--image-size'" in nothing.output) == (2, True)


@pytest.mark.parametrize("layout", ["official", "hf"])
def test_import_writes_a_file_that_contains_its_model(layout: str, tmp_path: Path) -> None:
    source, dest = written(tmp_path, VIT, layout), tmp_path / "new" / "ours.safetensors"  # type: ignore[arg-type]
    done = vitscale("weights", "import", source, dest)
    assert done.exit_code == 0
    assert "width 32, depth 2, heads 4, patch 8, cls, GELU tanh" in done.output
    config, state = import_weights(dest)
    assert saved_model(dest) == config
    expected = random_state(VIT)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_timm_files_need_a_model_where_no_shape_determines_the_heads(tmp_path: Path) -> None:
    source, dest = written(tmp_path, VIT, "timm"), tmp_path / "ours.safetensors"
    assert "does not store the number of heads" in vitscale("weights", "import", source, dest).output
    model = tmp_path / "tiny.json"
    model.write_text(VIT.model_dump_json(exclude={"variant"}))
    done = vitscale("weights", "import", source, dest, "--model", model)
    assert "heads 4" in done.output
    assert "note" not in done.output
    config = saved_model(dest)
    assert config == VIT.model_copy(update={"variant": "tiny", "gelu": "erf"}), "the file decides on its GELU"
    model.write_text("{}")
    assert "must state its family" in refusal("weights", "import", source, dest, "--model", model)


@pytest.mark.parametrize("with_model", [True, False])
def test_export_of_a_run(with_model: bool, tmp_path: Path) -> None:
    """Also of stores whose files do not contain their model yet."""
    run_in_store(tmp_path, PRE, with_model=with_model)
    done = vitscale("weights", "export", "pretrain-01", tmp_path / "w.npz", "--layout", "official", "--storage", tmp_path)
    assert done.exit_code == 0, done.exception
    _, state = import_weights(tmp_path / "w.npz")
    assert all(torch.equal(state[name], tensor) for name, tensor in random_state(PRE).items())


def test_export_notes_settings_that_another_codebase_does_not_support(tmp_path: Path) -> None:
    source = written(tmp_path, VIT, "official")
    done = vitscale("weights", "export", source, tmp_path / "t.safetensors", "--layout", "timm")
    assert "timm computes with gelu erf, these weights with tanh" in done.output


def test_which_run_is_meant(tmp_path: Path) -> None:
    run_in_store(tmp_path, VIT)
    run_in_store(tmp_path, VIT, "pretrain-0123ffffffff")
    export = ("--layout", "official", "--storage", tmp_path)
    assert "2 run ids begin with 'pretrain-0123'" in refusal("weights", "export", "pretrain-0123", tmp_path / "a.npz", *export)
    assert "no file or run 'x'" in refusal("weights", "export", "x", tmp_path / "a.npz", *export)
    Store(tmp_path).run("finetune-00").path.mkdir()
    assert "finetune-00 has no weights" in refusal("weights", "export", "finetune", tmp_path / "a.npz", *export)
    assert "a name that ends in .npz" in refusal("weights", "export", "pretrain-01234", tmp_path / "a.bin", *export)


def test_verify_finds_what_is_wrong(tmp_path: Path) -> None:
    whole = vitscale("weights", "verify", written(tmp_path, VIT, "official"))
    assert (whole.exit_code, "official bit for bit, timm bit for bit, hf bit for bit" in whole.output) == (0, True)
    arrays = dict(np.load(tmp_path / "w.npz"))
    arrays["head/bias"][1] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    broken = vitscale("weights", "verify", tmp_path / "nan.npz")
    assert (broken.exit_code, "head.bias has values that are not finite" in broken.output) == (1, True)
    report = refusal("weights", "verify", tmp_path / "w.npz", "--model", "Ti/16")
    for part in (
        "w.npz: weights of another architecture",
        "Transformer/encoder_norm/bias is (32,), expected (192,)",
        "missing",
    ):
        assert part in report
    assert "no such file" in refusal("weights", "verify", tmp_path / "none")


@pytest.mark.parametrize("model", [BIT, MICRO_HYBRID], ids=lambda model: model.family)
def test_verify_knows_every_family(model: ModelConfig, tmp_path: Path) -> None:
    report = verify_file(written(tmp_path, model, "timm"), model)
    assert report.problems == ()
    assert report.round_trips == {"official": True, "timm": True}


def test_two_files_are_compared_by_their_logits(tmp_path: Path) -> None:
    model = VIT.model_copy(update={"variant": "Small"})
    state = {name: 0.3 * tensor for name, tensor in random_state(model).items()}
    for layout, name in (("official", "a.npz"), ("hf", "folder"), (None, "ours.safetensors")):
        export_weights(state, model, tmp_path / name, layout)  # type: ignore[arg-type]
    same = vitscale("weights", "verify", tmp_path / "a.npz", tmp_path / "folder")
    assert same.exit_code == 0
    assert "logits differ by at most" in same.output
    state["head.bias"] = state["head.bias"] + 0.01
    export_weights(state, model, tmp_path / "other.safetensors")
    other = vitscale("weights", "verify", tmp_path / "ours.safetensors", tmp_path / "other.safetensors")
    assert (other.exit_code, "differ by more than the tolerance" in other.output) == (1, True)
    assert vitscale("weights", "verify", tmp_path / "a.npz", tmp_path / "other.safetensors", "--tolerance", 1).exit_code == 0
    with pytest.raises(UserError, match="classes: 5 and 6"):
        logit_difference((model, state), (model, random_state(model, 6)))


def test_the_module_of_a_file_computes_what_the_trained_one_does() -> None:
    state = random_state(PRE)
    trained = build(PRE, 32, 5)
    trained.load_state_dict(state)
    images = fixed_images(32)
    assert images.shape == (2, 3, 32, 32)
    assert images.abs().max() <= 1
    assert torch.equal(trained.eval()(images), module(PRE, state)(images))


def test_a_file_of_ours_is_not_taken_for_another_model(tmp_path: Path) -> None:
    save_weights(random_state(VIT), tmp_path / "m.safetensors", VIT)
    import_weights(tmp_path / "m.safetensors", VIT.model_copy(update={"variant": "any name"}))
    with pytest.raises(UserError, match="the file contains another model \\(vit\\): heads is 4, not 8"):
        import_weights(tmp_path / "m.safetensors", VIT.model_copy(update={"heads": 8}))


def test_big_vision_files(tmp_path: Path) -> None:
    """Layers stacked in one tensor, positions at the top level and none for the class token."""
    state = random_state(VIT)
    state["pos_embed"][:, 0] = 0
    export_weights(state, VIT, tmp_path / "w.npz", "official")
    arrays, stacked = dict(np.load(tmp_path / "w.npz")), {}
    names = {"Attention_1/": "Attention_0/", "LayerNorm_2/": "LayerNorm_1/", "MlpBlock_3/": "MlpBlock_0/"}
    for name, array in arrays.items():
        linen = name
        for old, new in names.items():
            linen = linen.replace(old, new)
        if "encoderblock_1" not in name:
            parts = [array, arrays.get(name.replace("encoderblock_0", "encoderblock_1"))]
            stacked["params/" + linen.replace("encoderblock_0", "encoderblock")] = np.stack(parts) if "block" in name else array  # type: ignore[arg-type]
    stacked["params/pos_embedding"] = stacked.pop("params/Transformer/posembed_input/pos_embedding")[:, 1:]
    np.savez(tmp_path / "big.npz", **stacked)
    config, back = import_weights(tmp_path / "big.npz")
    assert config == VIT.model_copy(update={"variant": "big"})
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_hugging_face_encoder_has_a_pooler_and_no_head(tmp_path: Path) -> None:
    """ViTModel by itself: its pooler is the official pre-logits layer; the head is zero."""
    model = VIT.model_copy(update={"pre_logits": 32})
    state = random_state(model)
    names = {"vit.pooler.dense.weight": "pre_logits.weight", "vit.pooler.dense.bias": "pre_logits.bias"}
    plain = random_state(VIT)
    export_weights({**plain, **{n: state[n] for n in plain if n not in ("head.weight",)}}, VIT, tmp_path / "f", "hf")
    from safetensors.torch import load_file, save_file

    tensors = {name.removeprefix("vit."): tensor for name, tensor in load_file(tmp_path / "f/model.safetensors").items()}
    tensors = {name: tensor for name, tensor in tensors.items() if "classifier" not in name}
    tensors |= {name.removeprefix("vit."): state[own] for name, own in names.items()}
    save_file(tensors, tmp_path / "f/model.safetensors")
    config, back = import_weights(tmp_path / "f")
    assert config == model.model_copy(update={"variant": "f"})
    assert torch.equal(back["pre_logits.weight"], state["pre_logits.weight"])
    assert torch.equal(back["blocks.1.attn.qkv.weight"], state["blocks.1.attn.qkv.weight"])
    assert back["head.weight"].shape == (1, 32)
    assert not back["head.weight"].any()


def test_torch_files_of_a_training_script(tmp_path: Path) -> None:
    source = written(tmp_path, VIT, "timm")
    from safetensors.torch import load_file

    torch.save({"model": load_file(source)}, tmp_path / "deit.pth")
    _, back = import_weights(tmp_path / "deit.pth", VIT)
    assert torch.equal(back["head.weight"], random_state(VIT)["head.weight"])
