"""Checkpoints of real groups of processes: written together, read by any number of workers, safe against kill and full disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, clean_environment
from group_worker import stop_after
from safetensors.torch import load_file, save_file

from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.recipe import Recipe
from vitmodel.config.run import DataRef, RunConfig
from vitmodel.data.generated import DigitsConfig
from vitmodel.data.shards import pack
from vitmodel.training.checkpoint import CheckpointPolicy, complete_checkpoints
from vitmodel.training.checkpoint_shard import is_intact, write_tensors
from vitmodel.training.context import Context
from vitmodel.training.coordination import StoppedError
from vitmodel.training.resume import CheckpointMismatchError
from vitmodel.training.run import execute
from vitmodel.training.sharded_state import RangeReader
from vitmodel.weights.header import WEIGHTS_FILE

VIT = ViTConfig(family="vit", variant="v", width=24, depth=1, mlp_dim=40, heads=2, patch=8)
STEPS, SAVE = 80, 13  # a log entry every second step: 13 lies between two
STAGES = (0, 1, 2, 3)
AVERAGED_STOP = 64  # of 80: the average at this step still contributes a quarter of the final one


def config(**recipe: Any) -> RunConfig:
    base = {"preset": "t", "optimizer": "adamw", "lr": 3e-3, "batch_size": 32, "schedule": "cosine", "warmup": 0.1}
    data = DataRef(name="d", identity="i", size=1000, lanes=4, window=256, eval_split="test")
    keys = {"grad_clip": 1.0, "weight_decay": 0.05, **recipe}
    return RunConfig(
        phase="pretrain", model=VIT, image_size=16, classes=10, data=data, seed=0, steps=STEPS,
        recipe=Recipe.model_validate({**base, **keys}),
    )  # fmt: skip


def averaged(ema: float = 0.95) -> RunConfig:
    """A run that saves the average of its weights. With SGD: Adam amplifies gradients that are zero up to rounding."""
    return config(ema=ema, optimizer="sgd", lr=0.1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "digits"
    pack(DigitsConfig(generate="digits", image_size=16), root)
    return root


def alone(run: RunConfig, folder: Path, data: Path, *, stage: int = 0, stop: float = 1e9, keep: int = 2) -> dict[int, float]:
    """One worker, in this process: the losses until `stop`."""
    reports: list[dict[str, float]] = []
    folder.mkdir(exist_ok=True)
    context = Context(
        folder=folder,
        data_root=data,
        micro_batch=16,
        zero_stage=stage,
        checkpoint=CheckpointPolicy(seconds=None, steps=SAVE, keep=keep),
        report=reports.append,
        should_stop=stop_after(reports, stop),
    )
    try:
        execute(run, context)
    except StoppedError:
        assert stop < STEPS
    return {int(entry["step"]): entry["train/loss"] for entry in reports}


def together(groups: list[tuple[int, list[dict[str, Any]]]], data: Path, tmp: Path) -> list[list[int]]:
    """Run these trainings in groups of processes over gloo, one group after the other. Returns the processes' exit codes."""
    content = [
        (
            workers,
            [
                {
                    "config": config().model_dump(mode="json"),
                    "data": str(data),
                    "micro_batch": 32 // workers,
                    "save_steps": SAVE,
                    **job,
                }
                for job in jobs
            ],
        )
        for workers, jobs in groups
    ]
    environment = {**clean_environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests/group_worker.py")]
    jobs_text = "".join(json.dumps(group) + "\n" for group in content)
    done = subprocess.run(command, env=environment, input=jobs_text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    codes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(codes) == len(groups), done.stderr[-3000:]
    (tmp / "stderr.txt").write_text(done.stderr)
    return codes


def outcome_of(folder: Path, name: str, worker: int = 0) -> dict[str, Any]:
    """What a worker of a group wrote about one training: how it ended, and its losses by step."""
    outcome: dict[str, Any] = json.loads(Path(f"{folder}-{name}-{worker}.json").read_text())
    return {"ended": outcome["ended"], "losses": {int(step): loss for step, loss in outcome["losses"].items()}}


@pytest.fixture(scope="module")
def unbroken(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    return alone(config(), tmp_path_factory.mktemp("unbroken"), digits)


@pytest.fixture(scope="module")
def groups(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    """The folder that groups of several sizes wrote to, and the exit codes of their processes.

    zeroN: two workers at ZeRO stage N, stopped at step 13. fourN: four workers that resumed from there. oneN: one worker that
    resumed from there, then two at the next stage. full: the disk was full at step 26. kill: killed during that save.
    averaged: with averaged weights. late: one worker whose checkpoint of step 13 was written after step 16 had been logged,
    and which was then killed.
    """
    tmp = tmp_path_factory.mktemp("groups")
    for name in (*(f"zero{stage}" for stage in STAGES), "full", "kill", "averaged", "late"):
        (tmp / name).mkdir()

    def job(folder: str, stage: int, name: str, stop: float, **keys: Any) -> dict[str, Any]:
        return {"folder": str(tmp / folder), "zero_stage": stage, "name": name, "stop": stop, **keys}

    first = [job(f"zero{stage}", stage, "a", 12) for stage in STAGES]
    first += [job("full", 1, "a", 12), job("full", 1, "b", 1e9, fault="full disk")]
    first += [job("averaged", 2, "a", AVERAGED_STOP, config=averaged().model_dump(mode="json")), job("kill", 2, "a", 12)]
    codes = together(
        [
            (2, first),
            (2, [job("kill", 2, "b", 1e9, fault="kill")]),
            (4, [job(f"four{stage}", stage, "b", 20, copy=str(tmp / f"zero{stage}")) for stage in STAGES]),
            (1, [job(f"one{stage}", stage, "b", 26, copy=str(tmp / f"zero{stage}")) for stage in STAGES]),
            (2, [job(f"one{stage}", (stage + 1) % 4, "c", 32) for stage in STAGES]),
            (1, [job("late", 0, "a", 1e9, fault="late")]),
        ],
        digits,
        tmp,
    )
    return tmp, codes


def check_curve(losses: dict[int, float], unbroken: dict[int, float]) -> None:
    assert losses
    assert all(abs(loss - unbroken[step]) <= 1e-3 for step, loss in losses.items())


def test_any_number_of_workers_resumes_at_any_stage(
    groups: tuple[Path, list[list[int]]], unbroken: dict[int, float], digits: Path
) -> None:
    """From 2 workers to 1 and to 4 at every stage, then from 1 to 2 at a stage other than that of the checkpoint."""
    folder, codes = groups
    assert [codes[group] for group in (0, 2, 3, 4)] == [[0, 0], [0] * 4, [0], [0, 0]], (folder / "stderr.txt").read_text()
    for stage in STAGES:
        assert outcome_of(folder / f"zero{stage}", "a")["ended"].startswith("StoppedError: stopped at step 13")
        check_curve(outcome_of(folder / f"zero{stage}", "a")["losses"], unbroken)
        for name, after, first in (("four", "b", 14), ("one", "b", 14), ("one", "c", 30)):
            losses = outcome_of(folder / f"{name}{stage}", after)["losses"]
            assert min(losses) == first
            check_curve(losses, unbroken)


def test_the_average_of_the_weights_resumes_with_another_number_of_workers(
    groups: tuple[Path, list[list[int]]], digits: Path, tmp_path: Path
) -> None:
    """Two workers at stage 2, then one at stage 0: the saved weights equal those of one worker throughout."""
    folder = groups[0] / "averaged"
    alone(averaged(), tmp_path, digits)
    assert min(alone(averaged(), folder, digits)) > AVERAGED_STOP
    whole, resumed = (load_file(path / WEIGHTS_FILE) for path in (tmp_path, folder))
    # Only the order of addition differs: 16 others (micro-batches, threads, stages) differ by 5e-7 to 6e-6 after 80 steps.
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=5e-5)
    (manifest,) = (path / "manifest.json" for path in complete_checkpoints(folder / "checkpoints")[-1:])
    assert "average" in json.loads(manifest.read_text())["optimizer"]["kinds"]
    alone(averaged(ema=0.0), tmp_path / "raw", digits)
    raw = load_file(tmp_path / "raw" / WEIGHTS_FILE)
    assert any(not torch.allclose(raw[name], resumed[name], atol=1e-3) for name in raw), "the average differs from the weights"


def test_a_manifest_describes_its_checkpoint(groups: tuple[Path, list[list[int]]]) -> None:
    (path,) = complete_checkpoints(groups[0] / "zero2/checkpoints")
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["step"], manifest["next_batch"], manifest["workers"], manifest["zero_stage"]) == (13, 13, 2, 2)
    assert len(manifest["losses"]) == 1
    assert manifest["fixed_batch_loss"] > 0
    assert sorted(path.iterdir()) == sorted(path / name for name in (*manifest["files"], "COMPLETE", "manifest.json"))
    assert all(is_intact(path / name, facts) for name, facts in manifest["files"].items())
    parts = [load_file(path / name) for name in manifest["files"]]
    sizes = [sum(tensor.numel() for tensor in part.values()) for part in parts]
    assert max(sizes) < 1.2 * min(sizes), "each worker writes its own part"


def test_a_full_disk_fails_all_workers_together(
    groups: tuple[Path, list[list[int]]], unbroken: dict[int, float], digits: Path
) -> None:
    folder = groups[0] / "full"
    ends = [outcome_of(folder, "b", worker)["ended"] for worker in (0, 1)]
    assert ends[0] == "CheckpointError: a checkpoint could not be written: on another worker"
    assert "File too large" in ends[1]
    assert outcome_of(folder, "b", 0)["losses"].keys() == outcome_of(folder, "b", 1)["losses"].keys()
    assert [path.name[:14] for path in complete_checkpoints(folder / "checkpoints")] == ["step-000000013"]
    losses = alone(config(), folder, digits, stop=20)
    assert min(losses) == 14
    check_curve(losses, unbroken)
    assert len(list((folder / "checkpoints").iterdir())) == 2, "the partly written checkpoint was removed"


def test_kill_9_during_a_save(groups: tuple[Path, list[list[int]]], unbroken: dict[int, float], digits: Path) -> None:
    folder, codes = groups[0] / "kill", groups[1]
    assert codes[1][1] == -signal.SIGKILL
    assert codes[1][0] != 0
    left = {path.name[:14] for path in (folder / "checkpoints").iterdir()}
    assert left == {"step-000000013", "step-000000026"}, "it was killed in the middle of its second save"
    assert [path.name[:14] for path in complete_checkpoints(folder / "checkpoints")] == ["step-000000013"]
    losses = alone(config(), folder, digits)
    assert min(losses) == 14
    check_curve(losses, unbroken)


def test_a_checkpoint_that_is_written_late_holds_the_losses_of_its_step(
    groups: tuple[Path, list[list[int]]], unbroken: dict[int, float], digits: Path
) -> None:
    """Training continues while a thread writes: later log entries are not part of the checkpoint."""
    folder, codes = groups[0] / "late", groups[1]
    assert codes[5] == [-signal.SIGKILL]
    (path,) = complete_checkpoints(folder / "checkpoints")
    assert len(json.loads((path / "manifest.json").read_text())["losses"]) == 1, "step 13's, not yet logged"
    losses = alone(config(), folder, digits)
    assert min(losses) == 14
    check_curve(losses, unbroken)


@pytest.mark.parametrize(("precision", "stage", "optimizer"), [("bf16", 1, "adamw"), ("bf16", 3, "adamw"), ("fp32", 2, "sgd")])
def test_the_same_group_resumes_to_the_bit(precision: str, stage: int, optimizer: str, digits: Path, tmp_path: Path) -> None:
    run = config(precision=precision, optimizer=optimizer)
    whole = alone(run, tmp_path / "whole", digits, stage=stage, stop=26)
    first = alone(run, tmp_path / "cut", digits, stage=stage, stop=12)
    losses = {**first, **alone(run, tmp_path / "cut", digits, stage=stage, stop=26)}
    steps = range(2, 27, 2)  # the step at which the workers stop depends on the clock: one or two steps after the last of these
    assert [losses[step] for step in steps] == [whole[step] for step in steps]


def test_retention_and_damaged_checkpoints(digits: Path, tmp_path: Path) -> None:
    alone(config(), tmp_path, digits, stop=64, keep=3)
    folder = tmp_path / "checkpoints"
    assert [path.name[5:14] for path in complete_checkpoints(folder)] == ["000000039", "000000052", "000000065"]
    newest = complete_checkpoints(folder)[-1]
    shard = next(newest.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert min(alone(config(), tmp_path, digits)) == 54
    assert (folder / f"damaged-{newest.name}").is_dir()


def test_weights_that_do_not_give_the_written_loss_are_refused(digits: Path, tmp_path: Path) -> None:
    """The checksums match, but the weights are those of another model: the loss on the fixed batch detects it."""
    alone(config(), tmp_path, digits, stop=12)
    (path,) = complete_checkpoints(tmp_path / "checkpoints")
    manifest = json.loads((path / "manifest.json").read_text())
    (name,) = manifest["files"]
    tensors = {key: tensor * 2 if key.startswith("weight") else tensor for key, tensor in load_file(path / name).items()}
    manifest["files"][name] = write_tensors(path / name, tensors)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointMismatchError, match="checkpoint-mismatch: fixed-batch loss differs by"):
        alone(config(), tmp_path, digits)


def test_a_shard_is_what_the_library_would_have_written(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(7), "b": torch.arange(3), "c": torch.randn(5).bfloat16(), "d": torch.empty(0)}
    facts = write_tensors(tmp_path / "ours.safetensors", tensors)
    save_file(tensors, tmp_path / "theirs.safetensors")
    assert is_intact(tmp_path / "ours.safetensors", facts)
    ours, theirs = (load_file(tmp_path / f"{who}.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


def test_a_range_is_read_from_pieces_of_any_size() -> None:
    values, reader = torch.arange(10), RangeReader()
    for start, end in ((4, 9), (0, 4), (9, 10)):
        reader.add("weight", "x", start, end - start, lambda a, b, part=values[start:end]: part[a:b])
    for start in range(10):
        for count in range(1, 11 - start):
            assert torch.equal(reader.read("weight", "x", start, count), values[start : start + count])
    with pytest.raises(KeyError, match="10 of 11 elements"):
        reader.read("weight", "x", 0, 11)
