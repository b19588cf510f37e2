"""Every model alike: forward, backward, every parameter gets a gradient; and what transfer needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_flops import CIFAR_RESNET, MICRO_RESNET, MICRO_VIT

from vitmodel.config import ResNetConfig, UserError, ViTConfig
from vitmodel.models.build import build
from vitmodel.models.resnet import StdConv2d
from vitmodel.models.weights import load_for_transfer, resize_position_embedding, save_weights

CLS_VIT = MICRO_VIT.model_copy(update={"pooling": "cls", "gelu": "erf"})
BOTTLENECK = ResNetConfig(family="resnet", variant="b", stages=(1, 1), width=8, groups=4)
MODELS = [MICRO_VIT, CLS_VIT, MICRO_RESNET, CIFAR_RESNET, BOTTLENECK]
IDS = ["vit-gap", "vit-cls", "resnet-basic", "resnet-cifar", "resnet-bottleneck"]


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_every_parameter_learns(config: ViTConfig | ResNetConfig) -> None:
    module = build(config, 32, 7, seed=0)
    torch.nn.init.normal_(module.head.weight)  # a zero head stops the gradient on purpose
    logits = module(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 7)
    F.cross_entropy(logits, torch.arange(4)).backward()
    dead = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_same_seed_same_weights(config: ViTConfig | ResNetConfig) -> None:
    torch.manual_seed(1)
    first = build(config, 32, 7, seed=3).state_dict()
    torch.manual_seed(2)
    second, third = build(config, 32, 7, seed=3).state_dict(), build(config, 32, 7, seed=4).state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert any(not torch.equal(first[n], third[n]) for n in first)


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_checkpointing_changes_no_gradient(config: ViTConfig | ResNetConfig) -> None:
    images, grads = torch.randn(2, 3, 32, 32), []
    for enabled in (False, True):
        module = build(config, 32, 7, seed=0)
        torch.nn.init.ones_(module.head.weight)
        module.activation_checkpointing = enabled
        module(images).square().sum().backward()
        grads.append([p.grad for p in module.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_head_starts_at_zero() -> None:
    assert not build(CLS_VIT, 32, 7, seed=0)(torch.randn(2, 3, 32, 32)).any()


def test_standardised_kernels() -> None:
    conv, seen = StdConv2d(3, 5, 3), {}
    original = F.conv2d
    try:
        F.conv2d = lambda x, weight, **k: seen.setdefault("w", weight) is None or original(x, weight, **k)
        conv(torch.randn(1, 3, 8, 8))
    finally:
        F.conv2d = original
    flat = seen["w"].flatten(1)
    assert torch.allclose(flat.mean(1), torch.zeros(5), atol=1e-6)
    assert torch.allclose(flat.var(1, unbiased=False), torch.ones(5), atol=1e-5)


def test_position_embedding_resize() -> None:
    pos = torch.randn(1, 17, 8)
    assert resize_position_embedding(pos, 17, 1) is pos
    larger = resize_position_embedding(pos, 50, 1)
    assert larger.shape == (1, 50, 8)
    assert torch.equal(larger[:, :1], pos[:, :1])
    ramp = torch.cat([torch.zeros(1, 1, 1), torch.arange(4.0).repeat_interleave(4).view(1, 16, 1)], dim=1)
    rows = resize_position_embedding(ramp, 65, 1)[0, 1:, 0].view(8, 8)
    assert torch.allclose(rows, rows[:, :1].expand(8, 8), atol=1e-5), "the grid's axes keep their meaning"
    assert (rows[1:, 0] > rows[:-1, 0] - 1e-4).all()
    with pytest.raises(UserError, match="square grid"):
        resize_position_embedding(pos, 20, 1)


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_transfer_to_another_head_and_size(config: ViTConfig | ResNetConfig, tmp_path: Path) -> None:
    parent = build(config, 32, 7, seed=0)
    save_weights(parent.state_dict(), tmp_path / "m.safetensors")
    child = build(config, 64, 3, seed=1)
    load_for_transfer(child, tmp_path / "m.safetensors")
    kept = [n for n in parent.state_dict() if not n.startswith(("head", "pos_embed"))]
    assert all(torch.equal(parent.state_dict()[n], child.state_dict()[n]) for n in kept)
    assert child(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_weights_of_another_architecture_are_named(tmp_path: Path) -> None:
    save_weights(build(CLS_VIT, 32, 7, seed=0).state_dict(), tmp_path / "m.safetensors")
    wider = CLS_VIT.model_copy(update={"width": 64})
    with pytest.raises(UserError, match=r"blocks.0.attn.qkv.weight is \(144, 48\), wanted \(192, 64\)"):
        load_for_transfer(build(wider, 32, 7), tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="missing stem.conv.weight"):
        load_for_transfer(build(MICRO_RESNET, 32, 7), tmp_path / "m.safetensors")
