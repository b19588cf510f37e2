"""Analysis of a ViT: arrays against their definitions, their figures, the command, and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from records import plan_file, run_record, run_result
from test_flops import CIFAR_RESNET, MICRO_HYBRID, MIXERS
from test_weights_cli import refusal, vitscale
from torch import Tensor, nn

from orchestrator.report import model_figures
from orchestrator.store.layout import Store
from orchestrator.store.records import as_json
from vitmodel import inspect
from vitmodel.config.base import UserError
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import ModelConfig
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.shards import pack
from vitmodel.files import write_json
from vitmodel.models.build import build
from vitmodel.weights.native import save_weights
from vitmodel.weights.verify import fixed_images

CLS = ViTConfig(family="vit", variant="cls", width=32, depth=3, mlp_dim=48, heads=4, patch=8)
GAP = CLS.model_copy(update={"pooling": "gap", "variant": "gap"})


def module_of(model: ModelConfig, size: int | tuple[int, int] = 32) -> nn.Module:
    """A module whose attention is far from uniform."""
    module = build(model, size, 5, seed=0)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if "qkv" in name or "pos_embed" in name:
                tensor.mul_(4)
    return module


def weights_by_hand(module: nn.Module, images: Tensor) -> list[Tensor]:
    """Attention of each layer (B, H, T, T), from the encoder's equations one by one."""
    vit: object = module
    x = vit.patch_embed(images)  # type: ignore[attr-defined]
    if vit.cls_token is not None:  # type: ignore[attr-defined]
        x = torch.cat([vit.cls_token.expand(len(images), -1, -1), x], dim=1)  # type: ignore[attr-defined]
    x, layers = x + vit.pos_embed, []  # type: ignore[attr-defined]
    for block in vit.blocks:  # type: ignore[attr-defined]
        B, T, D = x.shape
        q, k, v = (t.view(B, T, 4, D // 4).transpose(1, 2) for t in block.attn.qkv(block.norm1(x)).chunk(3, dim=-1))
        weights = F.softmax(q @ k.transpose(2, 3) / (D // 4) ** 0.5, dim=-1)
        layers.append(weights)
        x = x + block.attn.proj((weights @ v).transpose(1, 2).reshape(B, T, D))
        x = x + block.mlp(block.norm2(x))
    return layers


@pytest.mark.parametrize("model", [CLS, GAP, MICRO_HYBRID], ids=lambda model: model.variant)
def test_attention_is_what_the_encoder_computes(model: ModelConfig) -> None:
    module, images = module_of(model).double(), fixed_images(32).double()
    with torch.no_grad():
        expected = weights_by_hand(module, images)
    attention = inspect.attention_weights(module, images)
    tokens = expected[0].shape[-1]
    assert attention.shape == (len(expected), 2, 4, tokens, tokens)
    for layer, weights in enumerate(expected):
        np.testing.assert_allclose(attention[layer], weights, atol=1e-7)


def test_the_module_is_left_as_it_was() -> None:
    module, images = module_of(CLS).train(), fixed_images(32)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    inspect.attention_rollout(module, images)
    with pytest.raises(RuntimeError):
        inspect.attention_rollout(module, images[:, :2])
    assert module.training
    assert not any(layer._forward_hooks for layer in module.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_filters_are_the_principal_components_of_the_embedding() -> None:
    """Filters with a mean and three known directions of decreasing strength: the components are in that order."""
    module = build(CLS, 32, 5, seed=0)
    axes = torch.linalg.qr(torch.randn(3 * 8 * 8, 3, generator=torch.Generator().manual_seed(0))).Q.T
    strengths = torch.linalg.qr(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)) + torch.tensor([9.0, 0, 0, 0])).Q
    mixing = strengths[:, 1:] - strengths[:, 1:].mean(dim=0)
    with torch.no_grad():
        flat = 5.0 + (mixing * torch.tensor([100.0, 10.0, 1.0])) @ axes
        module.patch_embed.proj.weight.copy_(flat.view(32, 3, 8, 8))  # type: ignore[union-attr, operator]
    filters = inspect.patch_filters(module)
    assert filters.shape == (28, 8, 8, 3)
    flattened = filters.transpose(0, 3, 1, 2).reshape(28, -1)
    np.testing.assert_allclose(np.linalg.norm(flattened, axis=1), 1, atol=1e-5)
    assert abs(float(flattened[0] @ axes[0].numpy())) > 0.99
    largest = np.take_along_axis(flattened, np.abs(flattened).argmax(axis=1)[:, None], axis=1)
    assert (largest > 0).all()


def test_position_similarity_is_a_cosine_on_the_grid() -> None:
    module = module_of(CLS, (32, 48))
    similarity = inspect.position_similarity(module)
    assert similarity.shape == (4, 6, 4, 6)
    grid = module.pos_embed.detach()[0, 1:]  # type: ignore[index]
    expected = F.cosine_similarity(grid[1 * 6 + 2], grid[3 * 6 + 5], dim=0)
    assert similarity[1, 2, 3, 5] == pytest.approx(float(expected), abs=1e-5)
    assert similarity[2, 3, 2, 3] == pytest.approx(1)


def test_distance_of_uniform_attention_and_of_attention_to_the_own_patch() -> None:
    """Even attention over a grid of 4 x 4 patches of 8 px: 8 times the mean distance of two cells. To the own patch: 0."""
    module, images = build(CLS, 32, 5, seed=0), fixed_images(32)
    with torch.no_grad():
        module.blocks[0].attn.qkv.weight.zero_()  # type: ignore[union-attr]
    cells = np.stack(np.meshgrid(range(4), range(4)), axis=-1).reshape(-1, 2)
    even = 8 * np.linalg.norm(cells[:, None] - cells[None], axis=-1).mean()
    distances = inspect.mean_attention_distance(module, images)
    assert distances.shape == (3, 4)
    np.testing.assert_allclose(distances[0], even, rtol=1e-5)

    attention = np.broadcast_to(np.eye(17, dtype=np.float32), (2, 4, 17, 17))
    by_hand = inspect.attention_weights(module, images)[1][:, :, 1:, 1:]
    by_hand = by_hand / by_hand.sum(axis=-1, keepdims=True)
    distance = 8 * np.linalg.norm(cells[:, None, ::-1] - cells[None, :, ::-1], axis=-1)
    np.testing.assert_allclose(distances[1], (by_hand * distance).sum(-1).mean(axis=(0, 2)), rtol=1e-5)
    assert (attention[:, :, 1:, 1:] * distance).sum() == 0


@pytest.mark.parametrize("model", [CLS, GAP], ids=lambda model: model.variant)
def test_rollout_multiplies_half_attention_and_half_residual(model: ModelConfig) -> None:
    module, images = module_of(model).double(), fixed_images(32).double()
    tokens = 17 if model is CLS else 16
    expected = torch.eye(tokens).double().expand(2, -1, -1)
    with torch.no_grad():
        for weights in weights_by_hand(module, images):
            expected = (0.5 * weights.mean(dim=1) + 0.5 * torch.eye(tokens)) @ expected
    read = expected[:, 0, 1:] if model is CLS else expected.mean(dim=1)
    rollout = inspect.attention_rollout(module, images)
    assert rollout.shape == (2, 4, 4)
    np.testing.assert_allclose(rollout, read.reshape(2, 4, 4), atol=1e-6)
    if model is GAP:
        np.testing.assert_allclose(rollout.sum(axis=(1, 2)), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "analyse", "message"),
    [
        (MIXERS[0], inspect.attention_rollout, "this one has WindowAttention"),
        (MIXERS[1], inspect.mean_attention_distance, "this one has AxialAttention"),
        (MIXERS[3], inspect.attention_weights, "this one has TokenMlp"),
        (CIFAR_RESNET, inspect.attention_rollout, "ResNet has no patches and no attention"),
        (MICRO_HYBRID, lambda module, _: inspect.patch_filters(module), "its patches are of a feature map"),
    ],
    ids=lambda value: getattr(value, "variant", None) or getattr(value, "__name__", "message"),
)
def test_what_is_not_defined_is_refused(model: ModelConfig, analyse: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        analyse(build(model, 32, 5, seed=0), fixed_images(32))  # type: ignore[operator]


def test_an_image_is_bright_where_attention_is_high() -> None:
    image = np.full((32, 32, 3), 200, np.uint8)
    weights = np.zeros((4, 4), np.float32)
    weights[1, 2] = 1
    light = model_figures.weighted_image(image, weights)
    assert light[12, 20, 0] == 179, "half a pixel off the centre of the patch, both ways: 0.12 + 0.88 x (15/16)^2"
    assert light[28, 4, 0] < 30


def test_figures_draw_what_they_are_given() -> None:
    figure = model_figures.distances(np.array([[3.0, 5.0], [8.0, 4.0]], np.float32), 32, 1, "V $x$")
    (dots,) = [c for c in figure.axes[0].collections if len(c.get_offsets()) == 4]
    assert sorted(map(tuple, np.asarray(dots.get_offsets()).tolist())) == [(1, 3), (1, 5), (2, 4), (2, 8)]
    assert figure.texts[0].get_text() == "Mean attention distance, V $x$"
    similarity = np.random.default_rng(0).uniform(-1, 1, (2, 3, 2, 3)).astype(np.float32)
    assert len(model_figures.positions(similarity).axes) == 2
    figure = model_figures.filters(np.random.default_rng(0).normal(size=(9, 4, 4, 3)).astype(np.float32))
    (shown,) = figure.axes[0].images
    assert float(np.min(shown.get_array())) == 0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A pretraining on digits, in a plan."""
    root = tmp_path / "store"
    pack(DigitsConfig(generate="digits", image_size=32), root / "data/digits-1")
    run = Store(root).run("pretrain-0123456789ab").path
    record = run_record(run.name, model=CLS, image_size=32, classes=10)
    record = record.model_copy(
        update={
            "config": record.config.model_copy(update={"data": record.config.data.model_copy(update={"eval_split": "test"})}),
            "facts": record.facts.model_copy(update={"dataset": "digits"}),
        }
    )
    write_json(run / "config.json", as_json(record))
    write_json(run / "result.json", as_json(run_result(run.name)))
    plan = plan_file(record.facts, datasets={"digits": str(root / "data/digits-1")})
    write_json(root / "studies/s/plan.json", as_json(plan))
    save_weights(module_of(CLS).state_dict(), run / "model.safetensors", CLS)
    return root


def test_the_command_writes_figures_and_arrays(store: Path, tmp_path: Path) -> None:
    done = vitscale("inspect", "pretrain-01", "--storage", store, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    kinds = ("filters", "positions", "distances", "rollout")
    names = {"arrays.npz", *(f"{kind}{suffix}" for kind in kinds for suffix in (".png", ".svg"))}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all(str(tmp_path / "out" / name) in done.output.replace("\n", " ") for name in names)
    arrays = np.load(tmp_path / "out/arrays.npz", allow_pickle=False)
    assert (int(arrays["averaged_images"]), arrays["images"].shape, arrays["rollout"].shape) == (128, (1, 32, 32, 3), (1, 4, 4))
    np.testing.assert_array_equal(arrays["positions"], inspect.position_similarity(module_of(CLS)))


def test_images_of_the_user(store: Path, tmp_path: Path) -> None:
    for number, size in enumerate(((60, 40), (20, 80))):
        Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(tmp_path / f"{number}.png")
    images = ("--image", tmp_path / "0.png", "--image", tmp_path / "1.png")
    vitscale("inspect", "pretrain-01", "--storage", store, "--out", tmp_path / "out", *images)
    arrays = np.load(tmp_path / "out/arrays.npz")
    assert arrays["rollout"].shape == (2, 4, 4)
    weights = store / "runs/pretrain-0123456789ab/model.safetensors"
    assert "no dataset of these weights is available here" in refusal("inspect", weights)
    (tmp_path / "text.png").write_text("no image")
    assert "text.png: not a readable image" in refusal("inspect", weights, "--image", tmp_path / "text.png")


def test_models_with_undefined_figures_are_reported(tmp_path: Path) -> None:
    """A hybrid has no filters of pixels, a window mixer no attention between all patches; a ResNet has nothing."""
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "i.png")
    results = {}
    for model in (MICRO_HYBRID, MIXERS[0], CIFAR_RESNET):
        save_weights(build(model, 32, 5, seed=0).state_dict(), tmp_path / f"{model.family}{model.variant}.safetensors", model)
        arguments = ("inspect", tmp_path / f"{model.family}{model.variant}.safetensors", "--image", tmp_path / "i.png")
        results[model.variant] = vitscale(*arguments, "--out", tmp_path / model.variant)
    assert "no filters: the patch filters of a hybrid" in results["h"].output
    assert "no rollout: needs a model with full attention" in results["window"].output
    assert {path.name for path in (tmp_path / "window").glob("*.png")} == {"filters.png", "positions.png"}
    assert "has no patches and no attention" in str(results["c"].exception)
    assert not (tmp_path / "c").exists()
