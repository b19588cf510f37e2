"""Objectives without labels: exact masks, targets computed by hand, real training, and weights that a fine-tune can use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, Change, Pairs, WriteStudy
from safetensors.torch import load_file
from test_training import CutError, config, losses, recipe, train
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.plan.make import make_plan
from orchestrator.plan.runs import Run
from orchestrator.spec.study import read_study
from vitmodel.config.base import UserError
from vitmodel.config.families.hybrid import HybridConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import named_model
from vitmodel.config.objectives import Mae, MaeDecoder, MaskedPatch, Objective
from vitmodel.config.presets import resolve_recipe
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.masks import patch_order
from vitmodel.data.order import Batch
from vitmodel.data.shards import pack
from vitmodel.flops.count import count_params, forward_flops, train_flops
from vitmodel.flops.objectives import complete, corruption, visible_patches
from vitmodel.models import masked, masked_targets
from vitmodel.models.build import build, build_for_training
from vitmodel.training.checkpoint import CheckpointPolicy
from vitmodel.training.engine import make_optimizer, set_learning_rate
from vitmodel.weights.header import WEIGHTS_FILE
from vitmodel.weights.interchange import export_weights, import_weights
from vitmodel.weights.native import save_weights

VIT = ViTConfig(family="vit", variant="v", width=32, depth=2, mlp_dim=64, heads=2, patch=4)
GAP = VIT.model_copy(update={"pooling": "gap"})
AXIAL = GAP.model_copy(update={"mixer": "axial"})
HYBRID = HybridConfig(
    family="hybrid", variant="h", width=32, depth=2, mlp_dim=64, heads=2, stages=(1, 1), stem_width=8, groups=2, pooling="gap"
)
MAE = Mae(decoder=MaeDecoder(width=24, depth=1, heads=2))
PATCH = MaskedPatch()
OBJECTIVES: dict[str, Objective] = {"mae": MAE, "masked_patch": PATCH}
CASES = [(MAE, VIT), (MAE, GAP), (PATCH, VIT), (PATCH, GAP), (PATCH, AXIAL), (PATCH, HYBRID)]
NAMES = ["mae", "mae gap", "masked", "masked gap", "masked axial", "masked hybrid"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "digits"
    pack(DigitsConfig(generate="digits", image_size=16), root)
    return root


def images_and_order(batch: int = 8, size: int = 32, patches: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    order = patch_order(Batch(np.arange(batch), np.zeros(batch, dtype=np.int64)), 0, patches)
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1, torch.from_numpy(order)


def test_masks_are_a_function_of_seed_epoch_and_sample() -> None:
    samples, epochs = np.array([5, 9, 5, 9]), np.array([0, 0, 1, 1])
    whole = patch_order(Batch(samples, epochs), 3, 49)
    assert (np.sort(whole, axis=1) == np.arange(49)).all()
    for place in range(4):  # for any batch, and any position of the sample in it
        alone = patch_order(Batch(samples[place : place + 1], epochs[place : place + 1]), 3, 49)
        assert (alone[0] == whole[place]).all()
    assert len({tuple(row) for row in whole}) == 4
    assert (patch_order(Batch(samples, epochs), 4, 49) != whole).any()
    assert patch_order(Batch(np.array([1]), np.array([0])), 0, 8)[0].tolist() == PINNED


PINNED = [0, 2, 7, 4, 6, 1, 5, 3]  # a change here means that old runs cannot be resumed


def test_every_patch_is_hidden_equally_often() -> None:
    order = patch_order(Batch(np.arange(4000), np.zeros(4000, dtype=np.int64)), 0, 16)
    counts = np.bincount(order[:, 4:].ravel(), minlength=16)
    assert np.abs(counts / 4000 - 0.75).max() < 0.03  # four standard deviations


@pytest.mark.parametrize(
    ("patches", "counts", "visible"),
    [(196, (78, 10, 10), 49), (16, (6, 1, 1), 4), (256, (102, 13, 13), 64), (4, (2, 0, 0), 1), (49, (19, 2, 3), 12)],
)
def test_numbers_of_hidden_patches_are_exact(patches: int, counts: tuple[int, ...], visible: int) -> None:
    assert corruption(MaskedPatch(), patches) == counts
    assert sum(counts) == patches // 2
    assert visible_patches(Mae(), patches) == visible


def test_corrupted_embeddings_are_mask_other_or_their_own() -> None:
    module = build_for_training(PATCH, VIT, 32, 10, seed=0)
    assert isinstance(module, masked.MaskedPatchPredictor)
    _, order = images_and_order()
    patches = torch.randn(8, 64, 32)
    changed = module._corrupt(patches, order)
    for image in range(8):
        mask, other = order[image, :26].tolist(), order[image, 26:29].tolist()  # 80% and 10% of 32
        for place in range(64):
            row = changed[image, place]
            if place in mask:
                assert torch.equal(row, module.mask_token[0, 0])
            elif place in other:
                match = [t for t in range(64) if torch.equal(row, patches[image, t])]
                assert len(match) == 1
                assert match[0] != place
            else:
                assert torch.equal(row, patches[image, place])


def test_an_autoencoder_encodes_visible_patches_alone() -> None:
    module = build_for_training(MAE, VIT, 32, 10, seed=0).eval()
    images, order = images_and_order()
    token_counts: list[int] = []
    module.encoder.blocks[0].register_forward_hook(lambda _, inputs, output: token_counts.append(inputs[0].shape[1]))
    module(images, order)
    assert token_counts == [17], "16 of 64 patches and the class token"
    tiles = masked_targets.patch_pixels(images, 4)
    hidden = masked.put(tiles, order[:, 16:], torch.randn(8, 48, 48))
    changed = hidden.view(8, 8, 8, 4, 4, 3).permute(0, 5, 1, 3, 2, 4).reshape(8, 3, 32, 32)
    assert torch.equal(masked_targets.patch_pixels(changed, 4), hidden)
    predictions = []
    module.pixels.register_forward_hook(lambda _, inputs, output: predictions.append(output))
    module(images, order), module(changed, order)
    assert torch.equal(*predictions), "what is hidden cannot change what is predicted"


def test_targets_by_hand() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    colours, normalised = masked_targets.colour_classes(images, 4), masked_targets.normalised_patches(images, 4)
    for image in range(2):
        for number, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            tile = pixels[image, row : row + 4, column : column + 4].astype(np.float64)
            red, green, blue = (int(tile[..., c].mean() / 255 * 8) for c in range(3))
            assert colours[image, number] == 64 * red + 8 * green + blue
            flat = (tile.reshape(-1) - tile.mean()) / np.sqrt(tile.var(ddof=1) + 1e-6 * 127.5**2)
            assert np.allclose(normalised[image, number].numpy(), flat, atol=1e-4)
    assert masked_targets.colour_classes(torch.ones(1, 3, 4, 4), 4).item() == 511
    assert masked_targets.colour_classes(-torch.ones(1, 3, 4, 4), 4).item() == 0


def test_the_losses_by_hand() -> None:
    """From predictions to the loss, in numpy."""
    images, order = images_and_order()
    grabbed: list[torch.Tensor] = []
    for objective, layer, hidden in ((MAE, "pixels", order[:, 16:]), (PATCH, "colours", order[:, :32])):
        module = build_for_training(objective, VIT, 32, 10, seed=0)
        getattr(module, layer).register_forward_hook(lambda _, inputs, output: grabbed.append(output.detach()))
        got, predicted = module(images, order).detach(), grabbed.pop().double().numpy()
        for image in range(8):
            if objective is MAE:
                target = masked_targets.normalised_patches(images, 4)[image, hidden[image]].double().numpy()
                expected = ((predicted[image] - target) ** 2).mean()
            else:
                target = masked_targets.colour_classes(images, 4)[image, hidden[image]].numpy()
                chances = np.exp(predicted[image]) / np.exp(predicted[image]).sum(axis=1, keepdims=True)
                expected = -np.log(chances[np.arange(32), target]).mean()
            assert got[image].item() == pytest.approx(expected, rel=1e-5)


def test_positions_of_the_decoder_differ_between_patches() -> None:
    positions = masked_targets.sine_positions(16, (3, 5))
    assert positions.shape == (15, 16)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.1
    assert torch.equal(positions[0, :8], positions[4, :8]), "equal in one half"
    assert torch.equal(positions[0, 8:], positions[10, 8:]), "equal in the other half"


LARGE = [(objective, variant) for objective in (Mae(), PATCH) for variant in ("Ti/16", "B/16", "L/16", "H/14")]


@pytest.mark.parametrize(("objective", "variant"), LARGE)
def test_counts_of_named_models(objective: Objective, variant: str) -> None:
    """Parameters to the unit, FLOPs within 1% of torch's counter."""
    model = named_model(variant)
    full = complete(objective, model)
    with torch.device("meta"):
        module = build_for_training(full, model, 224, 1000, seed=0)
        patches = module.encoder.grid[0] ** 2
        images, order = torch.zeros(1, 3, 224, 224), torch.arange(patches)[None]
    assert sum(p.numel() for p in module.parameters()) == count_params(model, 224, 1000, full)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        module(images, order)
    assert forward_flops(model, 224, 1000, full) == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert train_flops(model, 224, 1000, 7, full) == 21 * forward_flops(model, 224, 1000, full)


@pytest.mark.parametrize(("objective", "model"), CASES, ids=NAMES)
def test_counts_of_small_models(objective: Objective, model: ViTConfig) -> None:
    size = 32
    module = build_for_training(objective, model, size, 10, seed=0)
    images, order = images_and_order(1, size, module.encoder.grid[0] ** 2)
    assert sum(p.numel() for p in module.parameters()) == count_params(model, size, 10, objective)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        module(images, order)
    assert forward_flops(model, size, 10, objective) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_known_counts_of_the_paper() -> None:
    """The official code's modules have 329,541,888 and 111,907,840 parameters, the decoder's fixed positions among them."""
    for variant, official in (("L/16", 329_541_888), ("B/16", 111_907_840)):
        model = named_model(variant)
        assert count_params(model, 224, 1000, complete(Mae(), model)) == official - 197 * 512
    large = named_model("L/16")
    share = forward_flops(large, 224, 1000, complete(Mae(), large)) / forward_flops(large, 224, 1000)
    assert 0.25 < share < 0.4, "a quarter of the encoder's work, and the decoder's"


@pytest.mark.parametrize(("objective", "model"), CASES, ids=NAMES)
def test_every_parameter_gets_a_gradient(objective: Objective, model: ViTConfig) -> None:
    module = build_for_training(objective, model, 32, 10, seed=0)
    for name, parameter in module.named_parameters():
        if name == "colours.weight" or name.endswith("norms.2.weight"):
            torch.nn.init.normal_(parameter)  # zero at first, as every head and residual branch: nothing gets past them then
    images, order = images_and_order(8, 32, module.encoder.grid[0] ** 2)
    loss = module(images, order)
    assert loss.shape == (8,)
    loss.mean().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("name", "falls_to"), [("mae", 0.65), ("masked_patch", 0.4)])
def test_both_learn_and_transfer(name: str, falls_to: float, digits: Path, tmp_path: Path) -> None:
    objective = OBJECTIVES[name]
    result, curve = train(digits, tmp_path / "parent", config(steps=700, objective=objective))
    assert curve[700] < falls_to * curve[min(curve)]
    assert result["eval/loss"] < falls_to * curve[min(curve)]
    assert result["eval/samples"] == 723
    assert "eval/top1" not in result
    weights = tmp_path / "parent" / WEIGHTS_FILE
    encoder = build(VIT, 16, 10)
    assert set(load_file(weights)) == {key for key in encoder.state_dict() if not key.startswith("head.")}
    child = config(steps=170, phase="finetune", parent="p", recipe=recipe(lr=1e-3))
    warm = train(digits, tmp_path / "warm", child, parent_weights=weights)[0]["eval/top1"]
    cold = train(digits, tmp_path / "cold", child)[0]["eval/top1"]
    assert warm > cold + 0.05, "what was learned without labels helps to learn with them"
    probe = config(phase="probe", parent="p", shots=10, steps=0, recipe=None)
    assert train(digits, tmp_path / "probe", probe, parent_weights=weights)[0]["eval/top1"] > 0.5


@pytest.mark.parametrize("name", OBJECTIVES)
def test_resume_is_exact_to_the_bit(name: str, digits: Path, tmp_path: Path) -> None:
    run = config(objective=OBJECTIVES[name], recipe=recipe(augment="shift", layer_decay=0.8))
    unbroken = train(digits, tmp_path / "unbroken", run)[1]
    reports: list[dict[str, float]] = []

    def cut(entry: dict[str, float]) -> None:
        if entry["step"] > 30:
            raise CutError
        reports.append(entry)

    with pytest.raises(CutError):
        train(digits, tmp_path / "broken", run, checkpoint=CheckpointPolicy(seconds=0.0), report=cut)
    result, rest = train(digits, tmp_path / "broken", run)
    assert 0 < result["start_step"] <= 30
    assert {**losses(reports), **rest} == unbroken
    assert (tmp_path / "broken" / WEIGHTS_FILE).read_bytes() == (tmp_path / "unbroken" / WEIGHTS_FILE).read_bytes()


def test_bf16_and_activation_checkpointing(digits: Path, tmp_path: Path) -> None:
    plain = train(digits, tmp_path / "plain", config(objective=MAE))[1]
    again = train(digits, tmp_path / "checkpointed", config(objective=MAE), activation_checkpointing=True)[1]
    assert np.allclose(list(plain.values()), list(again.values()), rtol=1e-5)
    half = train(digits, tmp_path / "half", config(objective=MAE, recipe=recipe(precision="bf16")))[1]
    assert np.allclose(list(plain.values()), list(half.values()), rtol=0.02)
    assert {t.dtype for t in load_file(tmp_path / "half" / WEIGHTS_FILE).values()} == {torch.float32}


@pytest.mark.parametrize(("name", "zero_stage"), [("mae", 3), ("masked_patch", 2)])
def test_two_workers_hide_the_same_patches(name: str, zero_stage: int, digits: Path, tmp_path: Path, pairs: Pairs) -> None:
    run: dict[str, Any] = {"steps": 24, "objective": OBJECTIVES[name]}
    alone_result, alone = train(digits, tmp_path / "alone", config(**run))
    result, two = pairs.train(config(**run), digits, tmp_path / "two", micro_batch=16, zero_stage=zero_stage)
    assert np.allclose(two, list(alone.values()), rtol=2e-3, atol=2e-3)
    assert result["eval/loss"] == pytest.approx(alone_result["eval/loss"], rel=2e-3)
    assert (tmp_path / "two" / WEIGHTS_FILE).stat().st_size == (tmp_path / "alone" / WEIGHTS_FILE).stat().st_size


def using(objective: Any, **keys: Any) -> Change:
    """The tiny study with these objectives and only its ViT, with patches of 4 pixels."""

    def change(content: dict[str, Any]) -> None:
        del content["pretrain"]["models"][1]
        content["pretrain"]["models"][0]["patch"] = 4
        content["pretrain"].update(objective=objective, **keys)

    return change


def runs_of(study: Path, storage: Path) -> list[Run]:
    return list(make_plan(read_study(study), storage).runs)


def test_objectives_are_an_axis(write_study: WriteStudy, tmp_path: Path) -> None:
    both = ["supervised", {"kind": "mae", "masked": 0.5, "recipe": {"lr": 1e-3}, "lengths": [{"epochs": 4}]}]
    runs = runs_of(write_study(using(both)), tmp_path)
    pretrains = {run.run_id: run for run in runs if run.config.phase == "pretrain"}
    kinds = [run.config.objective.kind for run in pretrains.values()]
    assert sorted(kinds) == ["mae", "mae", "supervised", "supervised"]
    for run in runs:
        if run.config.parent:
            assert run.config.objective.kind == "supervised"
            assert run.config.parent in pretrains
    mae = next(run for run in pretrains.values() if run.config.objective.kind == "mae")
    assert isinstance(mae.config.objective, Mae)
    assert mae.config.objective.masked == 0.5
    assert mae.config.objective.decoder is not None, "the plan decides the decoder: it belongs to the identity"
    assert mae.length == "4 epochs"
    assert mae.config.recipe is not None
    assert mae.config.recipe.lr == 1e-3
    assert mae.train_flops == 3 * mae.forward_flops * mae.examples_seen
    alone = {run.run_id for run in runs_of(write_study(using("supervised")), tmp_path)}
    assert alone <= {run.run_id for run in runs}, "the supervised runs stay what they were"
    cut = [{"objective": "mae", "size": 128}]
    assert len(runs_of(write_study(using(both, exclude=cut)), tmp_path)) == len(runs) * 3 // 4


def test_a_recipe_with_another_preset_starts_afresh(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(using({"kind": "mae", "recipe": {"preset": "mae_pretrain", "batch_size": 64}}, lanes=8))
    recipe_of = runs_of(study, tmp_path)[0].config.recipe
    assert recipe_of is not None
    assert (recipe_of.preset, recipe_of.warmup, recipe_of.beta2) == ("mae_pretrain", 0.05, 0.95)
    assert recipe_of.lr == pytest.approx(1.5e-4 * 64 / 256)


def resnet_too(content: dict[str, Any]) -> None:
    content["pretrain"]["objective"] = ["supervised", "mae"]


def model_keys(**keys: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        using("mae")(content)
        content["pretrain"]["models"][0].update(keys)

    return change


REFUSED: dict[str, tuple[Change, str]] = {
    "unknown": (
        using("mea"),
        r"line \d+: pretrain.objective: unknown objective 'mea', did you mean mae.*masked_patch",
    ),
    "unknown key": (using({"kind": "mae", "ratio": 0.5}), r"line \d+: .*ratio"),
    "resnet": (resnet_too, r"line \d+: pretrain.objective\[1\]: .*R4 \(resnet\).*exclude: \[\{model: R4, objective: mae\}\]"),
    "mixer": (model_keys(mixer="axial", pooling="gap"), r"line \d+: .*does not support mixer axial.*mixer: full"),
    "pre-logits": (model_keys(pre_logits=8), r"line \d+: .*pre-logits layer.*pre_logits: 0"),
    "one patch": (model_keys(patch=16), r"line \d+: .*masks 1 of the 1 patches"),
    "labels": (
        using({"kind": "mae", "recipe": {"label_smoothing": 0.1}}),
        r"line \d+: .*no labels.*label_smoothing: 0",
    ),
    "shares": (
        using({"kind": "masked_patch", "masked": 0.9, "other": 0.2}),
        r"line \d+: .*their sum must not exceed 1",
    ),
    "decoder": (
        using({"kind": "mae", "decoder": {"width": 30, "depth": 1, "heads": 4}}),
        r"line \d+: .*heads 4 must divide",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unsupported_combinations_are_refused_with_their_line(case: str, write_study: WriteStudy, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        runs_of(write_study(change), tmp_path)


def test_layer_decay_needs_an_encoder() -> None:
    with pytest.raises(UserError, match="R50x1 does not have"):
        resolve_recipe("mae_imagenet_finetune", named_model("R50x1"), {})
    assert resolve_recipe("mae_imagenet_finetune", named_model("L/16"), {}).lr == pytest.approx(4e-3)


def test_layer_decay_scales_every_group() -> None:
    """As the paper's table: the head at the full rate, each layer below at three quarters of the one above."""
    module = build(VIT, 16, 10, seed=0)
    optimizer = make_optimizer(module, recipe(layer_decay=0.75, weight_decay=0.1))
    names = {id(p): name for name, p in module.named_parameters()}
    scales = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert set(scales) == set(names.values())
    expected = {"head.": 1.0, "norm.": 1.0, "blocks.1.": 0.75, "blocks.0.": 0.75**2, "patch_embed.": 0.75**3}
    for start, scale in {**expected, "pos_embed": 0.75**3, "cls_token": 0.75**3}.items():
        assert [scales[name] for name in scales if name.startswith(start) and scales[name] != pytest.approx(scale)] == [], start
    engine = SimpleNamespace(optimizer=optimizer)
    set_learning_rate(engine, 0.5)
    assert all(group["lr"] == 0.5 * group["lr_scale"] for group in optimizer.param_groups)
    without = make_optimizer(module, recipe(weight_decay=0.1)).param_groups
    assert [(group["lr_scale"], group["weight_decay"]) for group in without] == [(1.0, 0.1), (1.0, 0.0)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_tokens_and_positions_are_never_decayed(name: str) -> None:
    module = build_for_training(OBJECTIVES[name], VIT, 16, 10, seed=0)
    free = make_optimizer(module, recipe(weight_decay=0.1)).param_groups[1]
    assert free["weight_decay"] == 0
    names = {key for key, p in module.named_parameters() if any(p is other for other in free["params"])}
    assert {"mask_token", "encoder.cls_token", "encoder.pos_embed"} <= names
    assert not any(key.endswith("weight") and "norm" not in key for key in names)


def test_an_encoder_without_a_head_is_exported(tmp_path: Path) -> None:
    """As what other codebases leave without one: with a zero head of one class."""
    module = build_for_training(MAE, VIT, 16, 10, seed=0)
    weights = masked.encoder_weights(module.state_dict())
    save_weights(weights, tmp_path / "encoder.safetensors", VIT)
    model, state = import_weights(tmp_path / "encoder.safetensors")
    assert model == VIT
    assert set(state) - set(weights) == {"head.weight", "head.bias"}
    export_weights(state, model, tmp_path / "timm.safetensors", "timm")
    again = import_weights(tmp_path / "timm.safetensors", VIT)[1]
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert not again["head.weight"].any()


def test_the_imagenet_studies_are_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITSCALE_DATA", str(tmp_path))
    overfit = runs_of(ROOT / "studies/imagenet_overfit.yaml", tmp_path)
    recipes = {run.config.model.variant: run.config.recipe for run in overfit if run.config.phase == "pretrain"}
    strong, plain = recipes["L/16 regularised"], recipes["L/16"]
    assert strong is not None
    assert plain is not None
    assert (strong.preset, strong.mixup, strong.cutmix, strong.ema) == ("mae_imagenet_scratch", 0.8, 1.0, 0.9999)
    assert (plain.preset, plain.mixup, plain.lr) == ("vit_paper_imagenet", 0.0, 3e-3)
    pretrain, finetune = runs_of(ROOT / "studies/imagenet_mae.yaml", tmp_path)
    assert pretrain.config.objective == complete(Mae(), named_model("L/16"))
    assert pretrain.config.recipe is not None
    assert pretrain.config.recipe.lr == pytest.approx(2.4e-3)
    assert finetune.config.recipe is not None
    assert finetune.config.recipe.layer_decay == 0.75
