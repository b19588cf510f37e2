"""Training for real, through DeepSpeed on the CPU: it learns, it splits batches exactly, it resumes to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Pairs, clean_environment

from vitmodel.config.families.resnet import ResNetConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.recipe import Recipe
from vitmodel.config.run import DataRef, RunConfig
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.reader import Dataset
from vitmodel.data.shards import pack
from vitmodel.training.checkpoint import CheckpointPolicy
from vitmodel.training.context import Context
from vitmodel.training.evaluate import evaluate
from vitmodel.training.loop import DivergedError, log_interval
from vitmodel.training.probe import PENALTIES, LinearProbe, first_shots
from vitmodel.training.run import execute
from vitmodel.weights.header import WEIGHTS_FILE


class CutError(Exception):
    """Ends a training in its middle, as a kill would."""


VIT = ViTConfig(family="vit", variant="v", width=32, depth=2, mlp_dim=64, heads=2, patch=4)
EAGER = CheckpointPolicy(seconds=0.0)  # at every meeting of the workers
RESNET = ResNetConfig(family="resnet", variant="r", stages=(1, 1), width=8, block="basic", stem="stride2", groups=2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "digits"
    pack(DigitsConfig(generate="digits", image_size=16), root)
    return root


def recipe(**keys: Any) -> Recipe:
    base = {"preset": "t", "optimizer": "adamw", "lr": 3e-3, "batch_size": 64, "schedule": "cosine", "warmup": 0.1}
    return Recipe.model_validate({**base, "grad_clip": 1.0, **keys})


def config(steps: int = 60, **keys: Any) -> RunConfig:
    data = DataRef(name="d", identity="i", size=1074, lanes=8, window=256, eval_split="test")
    base: dict[str, Any] = {"phase": "pretrain", "model": VIT, "image_size": 16, "classes": 10, "data": data, "seed": 0}
    return RunConfig.model_validate({**base, "steps": steps, "recipe": recipe(), **keys})


def losses(metrics: list[dict[str, float]]) -> dict[float, float]:
    return {entry["step"]: entry["train/loss"] for entry in metrics}


def train(root: Path, folder: Path, run: RunConfig, **context: Any) -> tuple[dict[str, float], dict[float, float]]:
    folder.mkdir(exist_ok=True)
    reports: list[dict[str, float]] = []
    keys = {"micro_batch": 64, "report": reports.append, **context}
    result = execute(run, Context(folder=folder, data_root=root, **keys))
    return result, losses(reports)


@pytest.mark.parametrize("model", [VIT, RESNET], ids=["vit", "resnet"])
def test_both_families_learn_real_digits(model: ViTConfig | ResNetConfig, digits: Path, tmp_path: Path) -> None:
    result, curve = train(digits, tmp_path, config(steps=170, model=model))
    assert result["eval/top1"] > 0.85
    assert result["eval/samples"] == 723
    assert curve[170] < 0.5 * curve[min(curve)]
    assert (tmp_path / WEIGHTS_FILE).exists()


def test_bf16_learns_too(digits: Path, tmp_path: Path) -> None:
    """The precision of a GPU, on the CPU; the saved weights are the fp32 masters."""
    from safetensors.torch import load_file

    result, _ = train(digits, tmp_path, config(steps=170, recipe=recipe(precision="bf16")))
    assert result["eval/top1"] > 0.85
    weights = load_file(tmp_path / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert any((tensor != tensor.bfloat16().float()).any() for tensor in weights.values())


def test_same_run_same_bits(digits: Path, tmp_path: Path) -> None:
    first, second = (train(digits, tmp_path / name, config()) for name in "ab")
    assert first[1] == second[1]
    assert first[0]["eval/loss"] == second[0]["eval/loss"]
    assert (tmp_path / "a" / WEIGHTS_FILE).read_bytes() == (tmp_path / "b" / WEIGHTS_FILE).read_bytes()


def test_accumulation_leaves_the_batch_as_it_is(digits: Path, tmp_path: Path) -> None:
    whole = train(digits, tmp_path / "whole", config())[1]
    parts = train(digits, tmp_path / "parts", config(), micro_batch=16)[1]
    assert np.allclose(list(whole.values()), list(parts.values()), rtol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_resume_is_exact_to_the_bit(dropout: float, digits: Path, tmp_path: Path) -> None:
    run = config(recipe=recipe(dropout=dropout, augment="shift"))
    unbroken_result, unbroken = train(digits, tmp_path / "unbroken", run)
    reports: list[dict[str, float]] = []

    def cut(entry: dict[str, float]) -> None:
        if entry["step"] > 30:
            raise CutError
        reports.append(entry)

    folder = tmp_path / "broken"
    with pytest.raises(CutError):
        execute(run, Context(folder=folder, data_root=digits, micro_batch=64, checkpoint=EAGER, report=cut))
    result, rest = train(digits, folder, run)
    assert 0 < result["start_step"] <= 30
    assert {**losses(reports), **rest} == unbroken
    assert result["eval/loss"] == unbroken_result["eval/loss"]
    assert (folder / WEIGHTS_FILE).read_bytes() == (tmp_path / "unbroken" / WEIGHTS_FILE).read_bytes()


@pytest.mark.parametrize("damage", ["incomplete", "flipped byte"])
def test_a_damaged_checkpoint_is_skipped(damage: str, digits: Path, tmp_path: Path) -> None:
    unbroken = train(digits, tmp_path / "unbroken", config())[0]
    train(digits, tmp_path / "again", config(), checkpoint=EAGER)
    newest = sorted((tmp_path / "again/checkpoints").iterdir())[-1]
    if damage == "incomplete":
        (newest / "COMPLETE").unlink()
    else:
        shard = next(newest.glob("*.safetensors"))
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    result = train(digits, tmp_path / "again", config())[0]
    assert 0 < result["start_step"] < int(newest.name[5:14])
    assert result["eval/loss"] == unbroken["eval/loss"]


def test_a_diverging_run_reports_the_step(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"not finite at step \d+; last finite loss") as caught:
        train(digits, tmp_path, config(recipe=recipe(optimizer="sgd", lr=1e30, warmup=0, grad_clip=0)))
    assert caught.value.step <= 10


def test_finetune_and_probe_start_from_the_pretrained(digits: Path, tmp_path: Path) -> None:
    train(digits, tmp_path / "parent", config(steps=170))
    weights = tmp_path / "parent" / WEIGHTS_FILE
    child = config(steps=16, phase="finetune", parent="p")
    warm = train(digits, tmp_path / "warm", child, parent_weights=weights)[0]
    cold = train(digits, tmp_path / "cold", child)[0]
    assert warm["eval/loss"] < cold["eval/loss"]
    finer = config(steps=16, phase="finetune", parent="p", image_size=24)
    assert train(digits, tmp_path / "finer", finer, parent_weights=weights)[0]["eval/loss"] < cold["eval/loss"]
    assert not (tmp_path / "warm" / WEIGHTS_FILE).exists()
    probe = config(phase="probe", parent="p", shots=10, steps=0, recipe=None)
    result = train(digits, tmp_path / "probe", probe, parent_weights=weights)[0]
    assert result["eval/top1"] > 0.7


WORKER = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from vitmodel.config.run import RunConfig
from vitmodel.training.engine import leave_process_group
from vitmodel.training.context import Context
from vitmodel.training.run import execute
spec = json.loads(Path(sys.argv[1]).read_text())
reports = []
result = execute(RunConfig.model_validate_json(json.dumps(spec["config"])), Context(folder=Path(spec["folder"]),
    data_root=Path(spec["data"]), micro_batch=spec["micro_batch"], zero_stage=spec["zero_stage"], report=reports.append))
if torch.distributed.get_rank() == 0:
    Path(spec["folder"], "out.json").write_text(json.dumps({"result": result, "losses": [e["train/loss"] for e in reports]}))
leave_process_group()
"""


def by_torchrun(digits: Path, tmp_path: Path, run: RunConfig) -> tuple[dict[str, float], list[float]]:
    """The run by two processes of torchrun over gloo, in the folder `two`: its result and its losses."""
    folder = tmp_path / "two"
    folder.mkdir()
    spec = {"config": run.model_dump(mode="json"), "folder": str(folder), "data": str(digits)}
    (tmp_path / "spec.json").write_text(json.dumps({**spec, "micro_batch": 16, "zero_stage": 0}))
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "worker.py"), str(tmp_path / "spec.json")],
        env={**clean_environment(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads((folder / "out.json").read_text())
    return outcome["result"], outcome["losses"]


@pytest.fixture(scope="module")
def alone(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float], list[float]]:
    folder = tmp_path_factory.mktemp("alone")
    result, curve = train(digits, folder, config(steps=24))
    return folder, result, list(curve.values())


@pytest.mark.parametrize("zero_stage", ["torchrun", 0, 1, 2, 3])
def test_two_workers_train_the_same_batches(
    zero_stage: int | str, alone: tuple[Path, dict[str, float], list[float]], digits: Path, tmp_path: Path, pairs: Pairs
) -> None:
    """No Ray: two processes over gloo against one, in every ZeRO stage; once as torchrun starts them."""
    folder, alone_result, losses_alone = alone
    if zero_stage == "torchrun":
        result, two = by_torchrun(digits, tmp_path, config(steps=24))
    else:
        result, two = pairs.train(config(steps=24), digits, tmp_path / "two", micro_batch=16, zero_stage=zero_stage)
    assert np.allclose(two, losses_alone, rtol=2e-3, atol=2e-3)
    assert result["eval/samples"] == alone_result["eval/samples"]
    assert (tmp_path / "two" / WEIGHTS_FILE).stat().st_size == (folder / WEIGHTS_FILE).stat().st_size


@pytest.mark.parametrize(("precision", "zero_stage"), [("fp32", 0), ("fp32", 3), ("bf16", 1)])
def test_nothing_is_compiled(precision: str, zero_stage: int) -> None:
    """No compiler is needed at run time: the PATH holds none, and the engine still starts."""
    code = (
        f"precision, stage = {precision!r}, {zero_stage};"
        "from vitmodel.training.engine import *; import torch; ensure_process_group();"
        "from vitmodel.config.recipe import Recipe;"
        "r = Recipe(preset='t', optimizer='adamw', lr=1.0, batch_size=2, schedule='constant', warmup=0.0, precision=precision);"
        "e = make_engine(torch.nn.Linear(2, 2), r, micro_batch=2, workers=1, zero_stage=stage); print(type(e).__name__)"
    )
    environment = {**clean_environment(), "PATH": "/nowhere", "TORCH_EXTENSIONS_DIR": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("DeepSpeedEngine"), done.stderr[-2000:]


def test_evaluation_counts_each_sample_once(digits: Path) -> None:
    data = Dataset(digits, "test", 16)

    def right(images: torch.Tensor) -> torch.Tensor:
        """Knows the answers, in order."""
        start = right.evaluated  # type: ignore[attr-defined]
        right.evaluated = min(start + len(images), data.size)  # type: ignore[attr-defined]
        places = np.minimum(np.arange(start, start + len(images)), data.size - 1)
        return torch.nn.functional.one_hot(torch.from_numpy(data.labels[places]), 10).float() * 50

    for batch_size in (1, 64, 723, 1000):
        right.evaluated = 0  # type: ignore[attr-defined]
        result = evaluate(right, data, batch_size=batch_size)
        assert result["eval/samples"] == 723
        assert result["eval/top1"] == 1.0


def test_probe_in_closed_form() -> None:
    torch.manual_seed(0)
    centres = torch.randn(4, 20) * 3
    labels = torch.arange(40) % 4
    probe = LinearProbe(centres[labels] + torch.randn(40, 20), labels, 4)
    test = torch.arange(400) % 4
    scores = probe(centres[test] + torch.randn(400, 20))
    assert (scores.argmax(1) == test).float().mean() > 0.97
    x, y = centres[labels].double() + torch.randn(40, 20), torch.eye(4, dtype=torch.float64)[labels] * 2 - 1
    probe = LinearProbe(x, labels, 4)
    z = (x - probe.mean) / probe.scale
    direct = torch.linalg.solve(z.T @ z + probe.penalty * len(z) * torch.eye(20), z.T @ (y - y.mean(0)))
    assert torch.allclose(direct, probe.weight_DK, atol=1e-8)


def test_the_penalty_of_a_probe_has_the_least_leave_one_out_error() -> None:
    torch.manual_seed(0)
    labels = torch.arange(24) % 3
    x = torch.randn(3, 8)[labels].double() + torch.randn(24, 8)
    probe = LinearProbe(x, labels, 3)
    z = torch.cat([(x - probe.mean) / probe.scale, torch.ones(24, 1)], dim=1)
    y = torch.eye(3, dtype=torch.float64)[labels] * 2 - 1

    def error(penalty: float) -> float:
        ridge = torch.diag(torch.tensor([penalty * 24] * 8 + [0.0], dtype=torch.float64))  # the intercept is free
        errors = []
        for left_out in range(24):
            rest = torch.arange(24) != left_out
            weights = torch.linalg.solve(z[rest].T @ z[rest] + ridge, z[rest].T @ y[rest])
            errors.append((z[left_out] @ weights - y[left_out]).square().sum())
        return float(sum(errors))

    assert probe.penalty == min(PENALTIES, key=error)


def test_shots_are_balanced_and_first() -> None:
    labels = np.array([0, 1, 1, 0, 2, 2, 0, 1, 2])
    assert sorted(first_shots(labels, 3, 2)) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="class 0 has fewer than 4"):
        first_shots(labels, 3, 4)


def test_log_interval_depends_on_length_alone() -> None:
    assert [log_interval(steps) for steps in (1, 40, 80, 4000, 10**6)] == [1, 1, 2, 100, 100]
