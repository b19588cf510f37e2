"""The average of the weights: that of a loop by hand, in every ZeRO stage, and the same to the bit after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Pairs
from safetensors.torch import load_file
from test_training import VIT, config, recipe, train

from vitmodel.config.families.cnn import CnnConfig
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.shards import pack
from vitmodel.training.averaging import decay_at
from vitmodel.training.checkpoint import CheckpointPolicy
from vitmodel.training.context import Context
from vitmodel.training.engine import ensure_process_group, make_engine
from vitmodel.training.run import execute
from vitmodel.weights.header import WEIGHTS_FILE

CNN = CnnConfig(family="cnn", variant="c", architecture="mobilenetv2", width_factor=0.25, stem="small")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "digits"
    pack(DigitsConfig(generate="digits", image_size=16), root)
    return root


def test_decay_forgets_the_start() -> None:
    assert decay_at(0.99, 0) == 0.0
    assert decay_at(0.99, 1) == 0.1
    assert decay_at(0.99, 10**6) == 0.99
    assert decay_at(0.0, 5) == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("precision", "zero_stage"), [("fp32", 0), ("bf16", 1), ("fp32", 3)])
def test_the_average_is_that_of_a_loop_by_hand(optimizer: str, precision: str, zero_stage: int) -> None:
    from vitmodel.training import averaging
    from vitmodel.training.engine import full_weights, set_learning_rate

    ensure_process_group()
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Linear(4, 3))
    chosen = recipe(optimizer=optimizer, batch_size=2, ema=0.9, precision=precision)
    engine = make_engine(module, chosen, micro_batch=2, workers=1, zero_stage=zero_stage)
    wanted: dict[str, torch.Tensor] = {}
    for step in range(12):
        decay = decay_at(0.9, step)
        averaging.set_decay(engine, decay)
        set_learning_rate(engine, 0.1)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        engine.backward(engine(torch.randn(2, 5).to(dtype)).float().square().sum())
        engine.step()
        now = full_weights(engine)
        wanted = {name: decay * wanted.get(name, value) + (1 - decay) * value for name, value in now.items()}
    last = {name: value.clone() for name, value in full_weights(engine).items()}
    averaging.use_average(engine)
    for name, value in full_weights(engine).items():
        assert torch.allclose(value, wanted[name], atol=1e-6)
        assert not torch.allclose(value, last[name], atol=1e-3)
    x = torch.randn(2, 5)
    by_hand = (x @ wanted["0.weight"].T + wanted["0.bias"]) @ wanted["1.weight"].T + wanted["1.bias"]
    tolerance = 0.05 if precision == "bf16" else 1e-5
    assert torch.allclose(engine(x.to(dtype)).float(), by_hand, atol=tolerance, rtol=tolerance), "the forward pass, too"
    engine.destroy()


def cut_run(root: Path, folder: Path, run: Any, zero_stage: int) -> None:
    """Train until past half, then stop with an error, leaving checkpoints."""

    class CutError(Exception):
        pass

    def cut(entry: dict[str, float]) -> None:
        if entry["step"] > 12:
            raise CutError

    keys: dict[str, Any] = {"micro_batch": 64, "checkpoint": CheckpointPolicy(seconds=0.0), "zero_stage": zero_stage}
    with pytest.raises(CutError):
        execute(run, Context(folder=folder, data_root=root, report=cut, **keys))


@pytest.mark.parametrize(("model", "zero_stage"), [("vit", 0), ("vit", 1), ("vit", 3), ("cnn", 0)])
def test_a_resume_keeps_the_average_to_the_bit(model: str, zero_stage: int, digits: Path, tmp_path: Path) -> None:
    chosen = recipe(ema=0.95, mixup=0.2, cutmix=1.0, randaugment_layers=1, augment="inception")
    keys = {"model": CNN} if model == "cnn" else {}
    run = config(steps=24, recipe=chosen, **keys)
    run = run.model_copy(update={"data": run.data.model_copy(update={"size": 512})})
    unbroken = train(digits, tmp_path / "unbroken", run, zero_stage=zero_stage)[0]
    (tmp_path / "broken").mkdir()
    cut_run(digits, tmp_path / "broken", run, zero_stage)
    result = train(digits, tmp_path / "broken", run, zero_stage=zero_stage)[0]
    assert 0 < result["start_step"] <= 12
    assert result["eval/loss"] == unbroken["eval/loss"]
    assert (tmp_path / "broken" / WEIGHTS_FILE).read_bytes() == (tmp_path / "unbroken" / WEIGHTS_FILE).read_bytes()
    if (model, zero_stage) == ("vit", 0):
        raw = run.model_copy(update={"recipe": recipe(**{**chosen.model_dump(exclude={"preset"}), "ema": 0.0})})
        train(digits, tmp_path / "raw", raw)
        plain, averaged = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("raw", "unbroken"))
        assert plain.keys() == averaged.keys()
        assert any(not torch.allclose(plain[name], averaged[name], atol=1e-4) for name in plain)


@pytest.mark.parametrize(("model", "zero_stage"), [("vit", 2), ("cnn", 0)])
def test_two_workers_keep_one_average(model: str, zero_stage: int, digits: Path, tmp_path: Path, pairs: Pairs) -> None:
    """Over two processes: the averaged weights of one process, mixing included. For BatchNorm at a rate of nearly zero, so
    that its statistics, each worker's own until they are synchronised, are means over the same inputs.

    Two workers add gradients up in another order: 1e-7 after these steps, the same in every repetition. That is SGD's; AdamW
    divides by the gradient's size, and that of the keys' bias is rounding alone, so it parts by 5e-5, average or not.
    """
    chosen = recipe(ema=0.9, mixup=0.2, optimizer="sgd", lr=1e-8 if model == "cnn" else 0.05)
    run = config(steps=8, model=CNN if model == "cnn" else VIT, recipe=chosen)
    train(digits, tmp_path / "alone", run, micro_batch=64)
    folder = tmp_path / "two"
    pairs.train(run, digits, folder, micro_batch=32, zero_stage=zero_stage)
    one, other = (load_file(path / WEIGHTS_FILE) for path in (tmp_path / "alone", folder))
    for name in ["blocks.0.norm.running_mean"] if model == "cnn" else one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
