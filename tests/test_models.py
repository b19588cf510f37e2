"""Every model alike: forward, backward, every parameter gets a gradient; and what transfer needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_flops import CIFAR_RESNET, MICRO_CNNS, MICRO_HYBRID, MICRO_RESNET, MICRO_VIT, MIXERS, PRE_LOGITS
from torch import Tensor, nn

from vitmodel.config.base import UserError
from vitmodel.config.families.resnet import ResNetConfig
from vitmodel.config.models import ModelConfig
from vitmodel.models.build import build
from vitmodel.models.cnn import BatchNorm, synchronise_statistics
from vitmodel.models.hybrid import StdConvSame, pad_same
from vitmodel.models.mixers import Attention, AxialAttention, WindowAttention, make_mixer
from vitmodel.models.resnet import StdConv2d
from vitmodel.models.vit import ViT
from vitmodel.training.engine import leave_process_group
from vitmodel.weights.native import load_for_transfer, resize_position_embedding, save_weights

CLS_VIT = MICRO_VIT.model_copy(update={"pooling": "cls", "gelu": "erf"})
BOTTLENECK = ResNetConfig(family="resnet", variant="b", stages=(1, 1), width=8, groups=4)
CLS_HYBRID = MICRO_HYBRID.model_copy(update={"stages": (1, 1, 1)})
MODELS: list[ModelConfig] = [
    MICRO_VIT,
    CLS_VIT,
    *MIXERS,
    PRE_LOGITS,
    MICRO_RESNET,
    CIFAR_RESNET,
    BOTTLENECK,
    CLS_HYBRID,
    *MICRO_CNNS,
]
IDS = ["vit-gap", "vit-cls", *(f"vit-{m.mixer}" for m in MIXERS), "vit-pre-logits"]
IDS += ["resnet-basic", "resnet-cifar", "resnet-bottleneck", "hybrid", *(m.variant for m in MICRO_CNNS)]


def filled(model: ModelConfig, image_size: int | tuple[int, int] = 32, **keys: float) -> nn.Module:
    """A module whose zero-initialised weights are random too: a zero head stops the gradient on purpose."""
    module = build(model, image_size, 7, seed=0, **keys)
    torch.manual_seed(1)
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return module


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_every_parameter_learns(config: ModelConfig) -> None:
    module = filled(config)
    logits = module(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 7)
    F.cross_entropy(logits, torch.arange(4)).backward()
    dead = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_same_seed_same_weights(config: ModelConfig) -> None:
    torch.manual_seed(1)
    first = build(config, 32, 7, seed=3).state_dict()
    torch.manual_seed(2)
    second, third = build(config, 32, 7, seed=3).state_dict(), build(config, 32, 7, seed=4).state_dict()
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert any(not torch.equal(first[n], third[n]) for n in first)


@pytest.mark.parametrize("config", MODELS, ids=IDS)
def test_checkpointing_changes_no_gradient(config: ModelConfig) -> None:
    images, grads = torch.randn(2, 3, 32, 32), []
    for enabled in (False, True):
        module = filled(config)
        module.activation_checkpointing = enabled
        module(images).square().sum().backward()
        grads.append([p.grad for p in module.parameters()] + [b.clone() for b in module.buffers()])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True)), "gradients, and BatchNorm's statistics"


@pytest.mark.parametrize("config", [CLS_VIT, PRE_LOGITS, CLS_HYBRID], ids=["vit", "pre-logits", "hybrid"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_leaves_out_tokens_that_nobody_uses(config: ModelConfig, checkpointed: bool) -> None:
    """Behind the last attention only the class token counts: same logits, same gradients, fewer tokens in the last MLP."""
    module, images, sides = filled(config), torch.randn(4, 3, 32, 32), []
    module.activation_checkpointing = checkpointed  # type: ignore[assignment]
    lengths: list[int] = []
    module.blocks[-1].mlp.register_forward_hook(lambda _, inputs, __: lengths.append(inputs[0].shape[1]))  # type: ignore[union-attr, index]
    for is_training in (True, False):
        module.train(is_training).zero_grad()
        logits = module(images)
        logits.square().sum().backward()
        sides.append([logits.detach(), *(parameter.grad for parameter in module.parameters())])
    for ours, whole in zip(*sides, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))
    assert lengths[0] == 1 < lengths[-1]


def test_head_starts_at_zero() -> None:
    assert not build(CLS_VIT, 32, 7, seed=0)(torch.randn(2, 3, 32, 32)).any()


def test_standardised_kernels() -> None:
    conv, calls = StdConv2d(3, 5, 3), {}
    original = F.conv2d
    try:
        F.conv2d = lambda x, weight, **k: calls.setdefault("w", weight) is None or original(x, weight, **k)
        conv(torch.randn(1, 3, 8, 8))
    finally:
        F.conv2d = original
    flat = calls["w"].flatten(1)
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


def test_resize_of_other_grids() -> None:
    """Against scipy-free first principles: a constant stays constant, each axis is resized by itself."""
    pos = torch.randn(1, 2 + 6 * 4, 8)
    wide = resize_position_embedding(pos, 2 + 3 * 8, 2, grid=(3, 8), old_grid=(6, 4))
    assert wide.shape == (1, 26, 8)
    assert torch.equal(wide[:, :2], pos[:, :2]), "two prefix tokens, untouched"
    swapped = pos[:, 2:].view(1, 6, 4, 8).transpose(1, 2).reshape(1, 24, 8)
    swapped = resize_position_embedding(torch.cat([pos[:, :2], swapped], 1), 26, 2, grid=(8, 3), old_grid=(4, 6))
    back = swapped[:, 2:].view(1, 8, 3, 8).transpose(1, 2).reshape(1, 24, 8)
    assert torch.allclose(back, wide[:, 2:], atol=1e-5)
    assert torch.allclose(
        resize_position_embedding(torch.ones(1, 25, 1), 50, 1, grid=(7, 7), old_grid=(4, 6)), torch.ones(1, 50, 1)
    )
    assert resize_position_embedding(pos, 26, 2, grid=(6, 4), old_grid=(6, 4)) is pos
    with pytest.raises(UserError, match="26 tokens, not a grid of 5 x 5 plus 2 other"):
        resize_position_embedding(pos, 26, 2, grid=(5, 5), old_grid=(6, 4))


@pytest.mark.parametrize("config", [CLS_VIT, CLS_HYBRID, MIXERS[1]], ids=["vit", "hybrid", "axial"])
def test_images_that_are_not_square(config: ModelConfig, tmp_path: Path) -> None:
    save_weights(build(config, 32, 7, seed=0).state_dict(), tmp_path / "m.safetensors")
    child = build(config, (64, 32), 3, seed=1)
    load_for_transfer(child, tmp_path / "m.safetensors")
    assert child(torch.randn(2, 3, 64, 32)).shape == (2, 3)


def test_transfer_drops_the_pre_logits_layer(tmp_path: Path) -> None:
    parent = build(PRE_LOGITS, 32, 7, seed=0)
    save_weights(parent.state_dict(), tmp_path / "m.safetensors")
    child = build(PRE_LOGITS.model_copy(update={"pre_logits": 0}), 32, 3, seed=1)
    load_for_transfer(child, tmp_path / "m.safetensors")
    assert torch.equal(child.norm.weight, parent.norm.weight)
    assert parent.features(torch.randn(1, 3, 32, 32)).abs().max() < 1, "tanh"


def test_mixing_over_tokens_is_tied_to_their_number(tmp_path: Path) -> None:
    save_weights(build(MIXERS[3], 32, 7, seed=0).state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"blocks.0.attn.fc1.weight is \(24, 16\), expected \(24, 64\)"):
        load_for_transfer(build(MIXERS[3], 64, 7), tmp_path / "m.safetensors")


@pytest.mark.parametrize("config", [m for m in MODELS if m != MIXERS[3]], ids=[i for i in IDS if i != "vit-mlp"])
def test_transfer_to_another_head_and_size(config: ModelConfig, tmp_path: Path) -> None:
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
    with pytest.raises(UserError, match=r"blocks.0.attn.qkv.weight is \(144, 48\), expected \(192, 64\)"):
        load_for_transfer(build(wider, 32, 7), tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"missing stem\.conv\.weight"):
        load_for_transfer(build(MICRO_RESNET, 32, 7), tmp_path / "m.safetensors")


def plain_vit(state: dict[str, Tensor], images: Tensor, *, patch: int, depth: int, heads: int, erf: bool) -> Tensor:
    """The paper's equations 1 to 4 in plain sums and products, from the definitions, without torch.nn."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).square().mean(-1, keepdim=True)
        return (x - mean) / (variance + 1e-6).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def dense(x: Tensor, name: str) -> Tensor:
        return torch.einsum("...i,oi->...o", x, state[f"{name}.weight"]) + state[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        inner = torch.erf(x / 2**0.5) if erf else torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))
        return x / 2 * (1 + inner)

    B, _, S, _ = images.shape
    cut = images.view(B, 3, S // patch, patch, S // patch, patch)
    x = torch.einsum("bcipjq,dcpq->bijd", cut, state["patch_embed.proj.weight"]).flatten(1, 2) + state["patch_embed.proj.bias"]
    if "cls_token" in state:
        x = torch.cat([state["cls_token"].expand(B, 1, -1), x], 1)
    x = x + state["pos_embed"]
    for block in (f"blocks.{number}" for number in range(depth)):
        q, k, v = dense(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").unflatten(-1, (3, heads, -1)).unbind(2)
        weights = torch.einsum("bthe,bshe->bhts", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        x = x + dense(torch.einsum("bhts,bshe->bthe", weights, v).flatten(2), f"{block}.attn.proj")
        x = x + dense(gelu(dense(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    x = norm(x, "norm")
    return dense(x[:, 0] if "cls_token" in state else x.mean(1), "head")


@pytest.mark.parametrize("config", [MICRO_VIT, CLS_VIT], ids=["gap-tanh", "cls-erf"])
def test_vit_is_the_papers_equations(config: ModelConfig) -> None:
    module, images = filled(config).double(), torch.randn(2, 3, 32, 32, dtype=torch.double)
    expected = plain_vit(module.state_dict(), images, patch=8, depth=3, heads=4, erf=config.gelu == "erf")
    assert torch.allclose(module(images), expected, atol=1e-10)


def assert_equals_masked_attention(mixer: Attention, allowed_TT: Tensor, grid: tuple[int, int]) -> None:
    """The mixer equals full attention under a mask."""
    full = Attention(16, 2).double()
    full.load_state_dict(mixer.double().state_dict())
    x = torch.randn(3, grid[0] * grid[1], 16, dtype=torch.double)
    assert torch.allclose(mixer(x), full(x, allowed_TT), atol=1e-12)


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_windows_are_full_attention_under_a_mask(shift: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij")
    windows = torch.stack([(rows + 4 - shift) // 4, (columns + 4 - shift) // 4]).flatten(1)
    same = (windows[:, :, None] == windows[:, None, :]).all(0)
    assert_equals_masked_attention(WindowAttention(16, 2, (8, 12), 4, shift), same, (8, 12))


@pytest.mark.parametrize("along_rows", [True, False])
def test_axial_is_full_attention_under_a_mask(along_rows: bool) -> None:
    places = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")[0 if along_rows else 1].flatten()
    assert_equals_masked_attention(AxialAttention(16, 2, (3, 5), along_rows), places[:, None] == places[None, :], (3, 5))


def test_axes_and_shifts_alternate() -> None:
    axial = [make_mixer(MIXERS[1], (4, 4), block).along_rows for block in range(3)]
    assert axial == [True, False, True]
    assert [make_mixer(MIXERS[0], (4, 4), block).shift for block in range(3)] == [0, 1, 0]
    assert make_mixer(MIXERS[0], (2, 2), 1).shift == 0, "a window that is the whole grid has no neighbours"


def test_pooling_of_a_map() -> None:
    x = torch.randn(1, 12, 2)
    y = make_mixer(MIXERS[2], (3, 4), 0)(x).view(3, 4, 2)
    grid = x.view(3, 4, 2)
    assert torch.allclose(y[1, 1], grid[0:3, 0:3].mean((0, 1)) - grid[1, 1], atol=1e-6)
    assert torch.allclose(y[0, 0], grid[0:2, 0:2].mean((0, 1)) - grid[0, 0], atol=1e-6), "only what is there is averaged"


@pytest.mark.parametrize(("size", "stride"), [(8, 2), (9, 2), (8, 1)])
def test_same_padding_and_standardisation_of_hybrids(size: int, stride: int) -> None:
    """The definition, pixel by pixel: output i covers inputs from i * stride - before on, before = total // 2."""
    conv, x = StdConvSame(2, 3, 3, stride).double(), torch.randn(1, 2, size, size, dtype=torch.double)
    kernel = conv.weight.detach()
    kernel = (kernel - kernel.mean((1, 2, 3), keepdim=True)) / (kernel.std((1, 2, 3), correction=0, keepdim=True) + 1e-5)
    out = -(-size // stride)
    before = max((out - 1) * stride + 3 - size, 0) // 2
    y = conv(x)
    assert y.shape[-1] == out
    for i, j in ((0, 0), (out - 1, out - 1), (1, 0)):
        total = torch.zeros(3, dtype=torch.double)
        for p in range(3):
            for q in range(3):
                r, c = i * stride + p - before, j * stride + q - before
                if 0 <= r < size and 0 <= c < size:
                    total += kernel[:, :, p, q] @ x[0, :, r, c]
        assert torch.allclose(y[0, :, i, j], total, atol=1e-12)
    assert pad_same(x, 1, 2) is x


@pytest.mark.parametrize("config", MODELS[:-1], ids=IDS[:-1])  # ResNet-50 is ResNet-34's code, and larger
def test_compiles_as_one_graph(config: ModelConfig) -> None:
    module, images = filled(config, stochastic_depth=0.1 if config.family == "vit" else 0.0), torch.randn(2, 3, 32, 32)
    module.eval()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(images), module(images), atol=1e-6)
    torch.compiler.reset()


def test_stochastic_depth_drops_whole_branches() -> None:
    module = filled(MICRO_VIT.model_copy(update={"depth": 5}), stochastic_depth=0.8)
    assert isinstance(module, ViT)
    assert [round(block.drop_path.rate, 6) for block in module.blocks] == [0, 0.2, 0.4, 0.6, 0.8]
    x = torch.ones(4000, 1, 1)
    dropped = module.blocks[3].drop_path(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.5}
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    assert module.eval().blocks[3].drop_path(x) is x
    with pytest.raises(UserError, match="resnet has no stochastic depth"):
        build(MICRO_RESNET, 32, 7, stochastic_depth=0.1)


@pytest.mark.parametrize("config", [CLS_VIT, CLS_HYBRID, MICRO_RESNET], ids=["vit", "hybrid", "resnet"])
def test_dropout_is_for_training(config: ModelConfig) -> None:
    plain, module, images = filled(config), filled(config, dropout=0.5), torch.randn(2, 3, 32, 32)
    module.load_state_dict(plain.state_dict())
    assert torch.equal(module.eval()(images), plain.eval()(images))
    module.train()
    assert not torch.equal(module(images), module(images)), "other units at every step"


def test_batch_norm_is_torchs() -> None:
    ours, theirs, x = BatchNorm(4).double(), nn.BatchNorm2d(4).double(), torch.randn(5, 4, 3, 3, dtype=torch.double) * 3 + 1
    for _ in range(2):
        assert torch.allclose(ours(x), theirs(x))
    assert torch.allclose(ours.running_var, theirs.running_var)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("config", [MICRO_RESNET, BOTTLENECK, CLS_HYBRID, MICRO_CNNS[2]], ids=lambda c: c.variant)
def test_images_in_the_memory_layout_of_decoders(config: ModelConfig) -> None:
    """Channels last in memory: oneDNN used to crash on some of these shapes in the backward pass."""
    images, module = torch.randn(4, 3, 64, 64), filled(config, 64)
    expected = module(images)
    logits = module(images.to(memory_format=torch.channels_last))
    logits.sum().backward()
    assert torch.allclose(logits, expected, atol=1e-5)


def test_statistics_stay_in_fp32() -> None:
    module = build(MICRO_CNNS[2], 32, 7, seed=0)
    with torch.no_grad():
        module.get_buffer("blocks.0.norm.running_mean").fill_(1 + 2**-12)
    module.bfloat16()
    assert {b.dtype for b in module.buffers()} == {torch.float32}
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert module.get_buffer("blocks.0.norm.running_mean")[0] == 1 + 2**-12, "not even rounded once"
    assert module(torch.randn(4, 3, 32, 32).bfloat16()).dtype == torch.bfloat16


def _synchronise(worker: int, address: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=worker, world_size=2)
    norm = BatchNorm(2)
    norm.running_mean.fill_(worker)
    norm.running_var.copy_(torch.tensor([1.0, 3.0 + 2 * worker]))
    synchronise_statistics(nn.Sequential(norm))
    torch.save((norm.running_mean, norm.running_var), Path(folder) / f"{worker}.pt")
    leave_process_group()


def test_statistics_are_averaged_over_workers(tmp_path: Path) -> None:
    synchronise_statistics(build(MICRO_CNNS[2], 32, 7))  # alone: nothing to do
    torch.multiprocessing.spawn(_synchronise, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    for worker in range(2):
        mean, var = torch.load(tmp_path / f"{worker}.pt")
        assert mean.tolist() == [0.5, 0.5]
        assert var.tolist() == [1.0, 4.0]
