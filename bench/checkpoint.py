"""Cost of checkpoints and guards for a training, with a model whose shard takes more than a second to write.

    python bench/checkpoint.py [--width 1024 --depth 8 --rounds 3]

Runs the same steps with and without a checkpoint in turn. The extra time of one checkpoint, divided by the default interval of
10 minutes, is its share of training time. Guards: the time of their checks in each step, divided by the time of a step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.recipe import Recipe
from vitmodel.models.build import build
from vitmodel.training import checkpoint
from vitmodel.training.checkpoint import CheckpointPolicy, Writer
from vitmodel.training.coordination import Coordinator
from vitmodel.training.engine import ensure_process_group, leave_process_group, make_engine
from vitmodel.training.watchdog import StallWatchdog

INTERVAL_SECONDS, TARGET, GUARDS_TARGET = 600.0, 0.03, 0.01


def make(width: int, depth: int) -> tuple[Any, Callable[[], None]]:
    """An engine, and one step of it."""
    model = ViTConfig(family="vit", variant="bench", width=width, depth=depth, mlp_dim=4 * width, heads=8, patch=16)
    recipe = Recipe(preset="bench", optimizer="adamw", lr=1e-4, batch_size=2, schedule="constant", warmup=0.0)
    engine = make_engine(build(model, 32, 10, seed=0), recipe, micro_batch=2, workers=1, zero_stage=0)
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])

    def step() -> None:
        engine.backward(torch.nn.functional.cross_entropy(engine(images), labels))
        engine.step()

    return engine, step


def block(step: Callable[[], None], seconds: float, before: Callable[[], None] | None = None) -> tuple[float, int]:
    """Call `before`, then make steps for at least `seconds`; returns (seconds, steps)."""
    started, count = time.perf_counter(), 0
    if before:
        before()
    while time.perf_counter() - started < seconds:
        step()
        count += 1
    return time.perf_counter() - started, count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ensure_process_group()
    engine, step = make(options.width, options.depth)
    for _ in range(3):
        step()
    with tempfile.TemporaryDirectory(prefix="vsc") as name:
        folder = Path(name)
        writer, write, writing = Writer(folder, 1, 0, 1), checkpoint.write_tensors, []

        def timed(path: Path, tensors: Any) -> Any:
            started = time.perf_counter()
            facts = write(path, tensors)
            writing.append((time.perf_counter() - started, facts["bytes"]))
            return facts

        checkpoint.write_tensors = timed
        extra = []
        writer.save(engine, {}, {"step": 0})  # the first also allocates its host memory
        writer.finish()
        for number in range(1, options.rounds + 1):
            seconds, steps = block(step, 8.0)
            plain = seconds / steps
            seconds, steps = block(step, 8.0, lambda number=number: writer.save(engine, {}, {"step": number}))
            writer.finish()
            extra.append(seconds - steps * plain)
        cost = statistics.median(extra)
        print(f"shard   {writing[-1][1] / 2**20:.0f} MiB, {statistics.median(w for w, _ in writing):.2f} s to write and hash")
        print(f"extra   {cost:.2f} s of training time per checkpoint (rounds: {', '.join(f'{e:.2f}' for e in extra)})")
        print(f"ratio   checkpoints / training = {cost / INTERVAL_SECONDS:.4f} at the default interval (target: {TARGET})")
        with StallWatchdog(900.0, folder / "stacks.txt", lambda: None) as watchdog:
            coordinator = Coordinator(
                policy=CheckpointPolicy(),
                writer=writer,
                save=lambda step, losses: None,
                workers=1,
                should_stop=lambda: False,
                is_current=lambda: True,
                reset_watchdog=watchdog.reset,
            )
            losses, norm = [torch.zeros(())] * 100, torch.ones(())
            started = time.perf_counter()
            for number in range(1, 10_001):
                torch.where((norm >= 0) & (norm < torch.inf), losses[0], torch.nan)  # the check of gradients in train_step
                if coordinator.is_due(number) or number % 100 == 0:
                    torch.stack(losses).double().tolist()
                    coordinator.synchronise(number, [], is_last=False)
            guards = (time.perf_counter() - started) / 10_000
    print(
        f"guards  {guards * 1e6:.1f} us per step; relative to a step of 4 ms (the smallest models here): {guards / 0.004:.4f}"
    )
    print(f"ratio   guards / training = {guards / plain:.6f} with this model (target: {GUARDS_TARGET})")
    leave_process_group()


if __name__ == "__main__":
    main()
