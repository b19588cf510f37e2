"""Weights through every layout and back, bit for bit; what does not fit is named; nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_flops import CIFAR_RESNET, MICRO_CNNS, MICRO_HYBRID, MIXERS
from torch import Tensor

from vitmodel.config.base import UserError
from vitmodel.config.families.resnet import ResNetConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import ModelConfig, named_model
from vitmodel.models.build import build
from vitmodel.weights.interchange import export_weights, import_weights
from vitmodel.weights.layouts import entries_of
from vitmodel.weights.native import load_for_transfer, save_weights, saved_model
from vitmodel.weights.recognise import LAYOUTS, Layout

VIT = ViTConfig(family="vit", variant="vit", width=32, depth=2, mlp_dim=48, heads=4, patch=8)
GAP = VIT.model_copy(update={"pooling": "gap"})
PRE = VIT.model_copy(update={"pre_logits": 20})
BIT = ResNetConfig(family="resnet", variant="bit", stages=(2, 1), width=8, groups=4)
STEM_ONLY = MICRO_HYBRID.model_copy(update={"stages": (), "patch": 2})
CASES: list[tuple[ModelConfig, Layout]] = [
    *((VIT, layout) for layout in LAYOUTS),
    (GAP, "official"),
    (GAP, "timm"),
    (PRE, "official"),
    *((model, layout) for model in (MICRO_HYBRID, STEM_ONLY, BIT) for layout in ("official", "timm")),
]
SUFFIX = {"official": "w.npz", "timm": "w.safetensors", "hf": "folder"}


def random_state(model: ModelConfig, classes: int = 5) -> dict[str, Tensor]:
    """Every tensor random, so that no two can be mixed up."""
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in build(model, 32, classes).state_dict().items()}


def written(tmp_path: Path, model: ModelConfig, layout: Layout) -> Path:
    path = tmp_path / SUFFIX[layout]
    export_weights(random_state(model), model, path, layout)
    return path


@pytest.mark.parametrize(("model", "layout"), CASES, ids=lambda value: getattr(value, "variant", value))
def test_round_trip_is_bit_exact(model: ModelConfig, layout: Layout, tmp_path: Path) -> None:
    state = random_state(model)
    path = written(tmp_path, model, layout)
    config, back = import_weights(path, model)
    assert config.variant == model.variant
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    again = tmp_path / "again" / SUFFIX[layout]
    again.parent.mkdir()
    export_weights(back, config, again, layout)
    if layout == "official":
        first, second = np.load(path), np.load(again)
        assert first.files == second.files
        assert all(np.array_equal(first[name], second[name]) for name in first.files)
    if layout == "hf":
        assert (path / "config.json").read_text() != ""
        path, again = path / "model.safetensors", again / "model.safetensors"
    if layout != "official":
        assert path.read_bytes() == again.read_bytes()


def test_files_of_vitscale_contain_their_model(tmp_path: Path) -> None:
    for model in (VIT, MIXERS[0], MICRO_HYBRID, CIFAR_RESNET, *MICRO_CNNS):
        state = random_state(model)
        export_weights(state, model, tmp_path / "m.safetensors")
        assert saved_model(tmp_path / "m.safetensors") == model
        config, back = import_weights(tmp_path / "m.safetensors")
        assert config == model
        assert all(torch.equal(back[name], state[name]) for name in state)


def official_vit(depth: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of PRE, of 5 classes at 32 px, in the words of the published npz files (parity.md, section 4)."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, 32),
        "embedding/kernel": (8, 8, 3, 32),
        "embedding/bias": (32,),
        "Transformer/posembed_input/pos_embedding": (1, 17, 32),
        "Transformer/encoder_norm/scale": (32,),
        "Transformer/encoder_norm/bias": (32,),
        "pre_logits/kernel": (32, 20),
        "pre_logits/bias": (20,),
        "head/kernel": (20, 5),
        "head/bias": (5,),
    }
    for number in range(depth):
        block = f"Transformer/encoderblock_{number}"
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (32,), f"{block}/{norm}/bias": (32,)}
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}/{part}/kernel": (32, 4, 8), f"{attention}/{part}/bias": (4, 8)}
        shapes |= {f"{attention}/out/kernel": (4, 8, 32), f"{attention}/out/bias": (32,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (32, 48), f"{block}/MlpBlock_3/Dense_0/bias": (48,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (48, 32), f"{block}/MlpBlock_3/Dense_1/bias": (32,)}
    return shapes


def official_bit() -> dict[str, tuple[int, ...]]:
    """Every tensor of BIT, of 5 classes, likewise: units of (block, unit, width before, width within)."""
    shapes: dict[str, tuple[int, ...]] = {
        "resnet/root_block/standardized_conv2d/kernel": (7, 7, 3, 8),
        "resnet/group_norm/gamma": (64,),
        "resnet/group_norm/beta": (64,),
        "resnet/head/conv2d/kernel": (1, 1, 64, 5),
        "resnet/head/conv2d/bias": (5,),
    }
    for block, number, before, within in ((1, 1, 8, 8), (1, 2, 32, 8), (2, 1, 32, 16)):
        unit, after = f"resnet/block{block}/unit{number:02d}", 4 * within
        kernels = {"a": (1, 1, before, within), "b": (3, 3, within, within), "c": (1, 1, within, after)}
        if number == 1:
            kernels["a/proj"] = (1, 1, before, after)
        shapes |= {f"{unit}/{part}/standardized_conv2d/kernel": kernel for part, kernel in kernels.items()}
        for part, width in (("a", before), ("b", within), ("c", within)):
            shapes |= {f"{unit}/{part}/group_norm/gamma": (width,), f"{unit}/{part}/group_norm/beta": (width,)}
    return shapes


@pytest.mark.parametrize(("model", "shapes"), [(PRE, official_vit(2)), (BIT, official_bit())], ids=["vit", "bit"])
def test_every_official_name_shape_and_type(model: ModelConfig, shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    arrays = np.load(written(tmp_path, model, "official"), allow_pickle=False)
    assert {name: arrays[name].shape for name in arrays.files} == shapes
    assert {arrays[name].dtype for name in arrays.files} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("model", "layout", "name", "shape"),
    [
        (MICRO_HYBRID, "official", "block2/unit1/conv_proj/kernel", (1, 1, 32, 64)),
        (MICRO_HYBRID, "official", "block2/unit2/gn3/bias", (64,)),
        (MICRO_HYBRID, "timm", "patch_embed.backbone.stages.1.blocks.0.downsample.norm.weight", (64,)),
        (MICRO_HYBRID, "timm", "patch_embed.backbone.stem.conv.weight", (8, 3, 7, 7)),
        (STEM_ONLY, "timm", "patch_embed.backbone.conv.weight", (8, 3, 7, 7)),
        (BIT, "official", "resnet/block1/unit02/b/standardized_conv2d/kernel", (3, 3, 8, 8)),
        (BIT, "official", "resnet/block2/unit01/a/proj/standardized_conv2d/kernel", (1, 1, 32, 64)),
        (BIT, "official", "resnet/head/conv2d/kernel", (1, 1, 64, 5)),
        (BIT, "timm", "stages.1.blocks.0.downsample.conv.weight", (64, 32, 1, 1)),
        (BIT, "timm", "head.fc.weight", (5, 64, 1, 1)),
        (VIT, "hf", "vit.encoder.layer.1.attention.attention.key.weight", (32, 32)),
        (VIT, "hf", "vit.encoder.layer.0.intermediate.dense.weight", (48, 32)),
        (VIT, "hf", "classifier.weight", (5, 32)),
    ],
)
def test_foreign_names_and_shapes(
    model: ModelConfig, layout: Layout, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = written(tmp_path, model, layout)
    tensors = np.load(path) if layout == "official" else load_file(path / "model.safetensors" if path.is_dir() else path)
    assert tuple(tensors[name].shape) == shape


def test_query_key_and_value_are_not_swapped(tmp_path: Path) -> None:
    """The official kernels applied as the official code applies them: einsum over (width, heads, head width)."""
    state, arrays = random_state(VIT), np.load(written(tmp_path, VIT, "official"))
    x = torch.randn(3, 32)
    packed = (x @ state["blocks.0.attn.qkv.weight"].T + state["blocks.0.attn.qkv.bias"]).view(3, 3, 4, 8)
    prefix = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1"
    for number, name in enumerate(("query", "key", "value")):
        kernel, bias = (torch.from_numpy(arrays[f"{prefix}/{name}/{part}"]) for part in ("kernel", "bias"))
        assert torch.allclose(torch.einsum("nd,dhe->nhe", x, kernel) + bias, packed[:, number], atol=1e-5)
    y, kernel = torch.randn(3, 4, 8), torch.from_numpy(arrays[f"{prefix}/out/kernel"])
    assert torch.allclose(
        torch.einsum("nhe,hed->nd", y, kernel), y.flatten(1) @ state["blocks.0.attn.proj.weight"].T, atol=1e-4
    )


@pytest.mark.parametrize(("layout", "gelu", "eps"), [("official", "tanh", 1e-6), ("timm", "erf", 1e-6), ("hf", "tanh", 1e-6)])
def test_a_plain_vit_is_recognised(layout: Layout, gelu: str, eps: float, tmp_path: Path) -> None:
    config, _ = import_weights(written(tmp_path, VIT, layout))
    assert isinstance(config, ViTConfig)
    assert (config.width, config.depth, config.mlp_dim, config.patch) == (32, 2, 48, 8)
    assert config.heads == (1 if layout == "timm" else 4), "timm's shapes do not show the heads: one each 64 channels"
    assert (config.gelu, config.layer_norm_eps) == (gelu, eps), "Hugging Face's folder says it itself"


def test_named_sizes_are_recognised(tmp_path: Path) -> None:
    model = named_model("Ti/16").model_copy(update={"gelu": "erf", "layer_norm_eps": 1e-12})
    export_weights(build(model, 32, 3, seed=0).state_dict(), model, tmp_path / "f", "hf")
    (tmp_path / "f/config.json").unlink()
    assert import_weights(tmp_path / "f")[0] == model, "the class default of Hugging Face is 1e-12 and erf"


def test_newer_names_are_read(tmp_path: Path) -> None:
    state = random_state(VIT)
    arrays = dict(np.load(written(tmp_path, VIT, "official")))
    changes = {"Attention_1/": "Attention_0/", "LayerNorm_2/": "LayerNorm_1/", "MlpBlock_3/": "MlpBlock_0/"}
    renamed = {}
    for name, array in arrays.items():
        linen = name
        for old, new in changes.items():
            linen = linen.replace(old, new)
        renamed[f"opt/target/{linen}"] = array
    np.savez(tmp_path / "linen.npz", **renamed)
    _, back = import_weights(tmp_path / "linen.npz")
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_published_hybrids_have_norms_of_four_dimensions(tmp_path: Path) -> None:
    arrays = dict(np.load(written(tmp_path, MICRO_HYBRID, "official")))
    wide = {name: a[None, None, None] if "gn_root" in name else a for name, a in arrays.items()}
    np.savez(tmp_path / "old.npz", **wide)
    assert torch.equal(
        import_weights(tmp_path / "old.npz", MICRO_HYBRID)[1]["patch_embed.backbone.norm.weight"],
        torch.from_numpy(arrays["gn_root/scale"]),
    )


def test_imported_weights_start_a_finetune(tmp_path: Path) -> None:
    config, state = import_weights(written(tmp_path, PRE, "official"))
    save_weights(state, tmp_path / "m.safetensors", config)
    child = build(config.model_copy(update={"pre_logits": 0}), 48, 3, seed=0)
    load_for_transfer(child, tmp_path / "m.safetensors")
    assert torch.equal(child.state_dict()["blocks.1.mlp.fc1.weight"], state["blocks.1.mlp.fc1.weight"])
    assert not child.head.weight.any()


def test_a_file_with_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", cls=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="allow_pickle=False"):
        import_weights(tmp_path / "bad.npz")
    torch.save({"w": Path("/")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="the file must contain tensors only"):
        import_weights(tmp_path / "bad.pth")
    torch.save({"w": 3}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="w is not a tensor"):
        import_weights(tmp_path / "bad.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    with pytest.raises(UserError, match=r"cut.safetensors"):
        import_weights(tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"allowed: .npz"):
        import_weights(tmp_path / "weights.h5")
    with pytest.raises(UserError, match="no such file"):
        import_weights(tmp_path / "none.npz")


def test_the_report_names_keys_and_shapes_of_the_file(tmp_path: Path) -> None:
    arrays = dict(np.load(written(tmp_path, VIT, "official")))
    block = "Transformer/encoderblock_1"
    del arrays[f"{block}/MlpBlock_3/Dense_0/bias"]
    arrays["extra"] = np.zeros(3, np.float32)
    arrays["head/kernel"] = arrays["head/kernel"].T
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(UserError) as caught:
        import_weights(tmp_path / "odd.npz", VIT)
    for part in (f"missing {block}/MlpBlock_3/Dense_0/bias", "unexpected extra", "head/kernel is (5, 32), expected (32, 5)"):
        assert part in str(caught.value)


def test_impossible_position_embeddings(tmp_path: Path) -> None:
    arrays = dict(np.load(written(tmp_path, VIT, "official")))
    arrays["Transformer/posembed_input/pos_embedding"] = np.zeros((1, 16, 32), np.float32)
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(UserError, match="pos_embed: the position embedding has 16 tokens, not a square grid plus 1 other"):
        import_weights(tmp_path / "odd.npz")


@pytest.mark.parametrize(
    ("model", "layout", "field"),
    [
        (MIXERS[0], "timm", "mixer window"),
        (GAP, "hf", "pooling gap"),
        (PRE, "timm", "pre_logits True"),
        (MICRO_HYBRID, "hf", "family hybrid"),
        (CIFAR_RESNET, "official", "does not support c"),
        (MICRO_CNNS[0], "timm", "family cnn"),
    ],
    ids=lambda value: getattr(value, "variant", value),
)
def test_models_that_a_layout_does_not_support(model: ModelConfig, layout: Layout, field: str) -> None:
    with pytest.raises(UserError, match=field):
        entries_of(model, layout)


def test_unknown_layouts(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weight=np.zeros(3, np.float32))
    with pytest.raises(UserError, match=r"has a tensor 'weight' \(allowed: official, timm, hf\)"):
        import_weights(tmp_path / "other.npz")
    with pytest.raises(UserError, match="not a plain ViT"):
        import_weights(written(tmp_path, BIT, "official"))


def test_hugging_face_folder_states_its_configuration(tmp_path: Path) -> None:
    config = json.loads((written(tmp_path, VIT, "hf") / "config.json").read_text())
    expected = {"hidden_act": "gelu_pytorch_tanh", "image_size": 32, "patch_size": 8, "num_labels": 5, "layer_norm_eps": 1e-6}
    assert {key: config[key] for key in expected} == expected
