"""DeepSpeed's share of a training step: the engine as we configure it compared with a bare loop around the same model.

    python bench/deepspeed_overhead.py                   ZeRO stages 0 to 2 at batch 128 and 8, one process, one core
    python bench/deepspeed_overhead.py --as-shipped      and the engine with its defaults

Both sides do forward, cross-entropy, backward, clipping to norm 1 and fused AdamW in fp32, from the same weights on the
same batches. If their losses differ, the benchmark fails. Steps alternate in random order; the median step counts. The
process has the allocator settings of our workers (vitmodel/training/allocator.py).
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.recipe import Recipe
from vitmodel.models.build import build
from vitmodel.training import allocator
from vitmodel.training.engine import ensure_process_group, import_deepspeed, make_engine, make_optimizer

MICRO = ViTConfig(family="vit", variant="micro/8", width=96, depth=6, mlp_dim=384, heads=3, patch=8)
IMAGE, CLASSES = 32, 1000
BATCHES = 8
# The relative tolerance of losses, and the number of steps compared. AdamW amplifies rounding: two bare loops that start one
# unit in the last place apart differ by 4e-7 after 400 steps and by 3e-4 after 450.
SAME_LOSS, COMPARED = 2e-6, 300

Step = Callable[[Tensor, Tensor], Tensor]


def recipe(batch: int) -> Recipe:
    return Recipe(
        preset="bench",
        optimizer="adamw",
        lr=1e-4,
        batch_size=batch,
        schedule="constant",
        warmup=0,
        grad_clip=1.0,
        precision="fp32",
    )


def model() -> nn.Module:
    return build(MICRO, IMAGE, CLASSES, seed=0).train()


def bare(batch: int) -> Step:
    module = model()
    optimizer = make_optimizer(module, recipe(batch))

    def step(images: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(module(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def with_engine(engine: Any) -> Step:
    engine.train()

    def step(images: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(engine(images), labels)
        engine.backward(loss)
        engine.step()
        return loss.detach()

    return step


def as_we_configure_it(batch: int, stage: int) -> Step:
    return with_engine(make_engine(model(), recipe(batch), micro_batch=batch, workers=1, zero_stage=stage))


def as_shipped(batch: int, stage: int) -> Step:
    module = model()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.0)
    settings = {
        "train_batch_size": batch,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    return with_engine(import_deepspeed().initialize(model=module, optimizer=optimizer, config=settings)[0])


def compare(sides: dict[str, Step], batch: int, seconds: float) -> dict[str, float]:
    """Median seconds per step of each side. Every side makes the same steps. Raises SystemExit if losses differ."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCHES, batch, 3, IMAGE, IMAGE, generator=generator)
    labels = torch.randint(CLASSES, (BATCHES, batch), generator=generator)
    times: dict[str, list[float]] = {name: [] for name in sides}
    dice, turn, number = random.Random(0), list(sides), 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        dice.shuffle(turn)
        losses = {}
        for name in turn:
            started = time.perf_counter()
            loss = sides[name](images[number % BATCHES], labels[number % BATCHES])
            times[name].append(time.perf_counter() - started)
            losses[name] = float(loss)
        if number < COMPARED and max(losses.values()) - min(losses.values()) > SAME_LOSS * max(losses.values()):
            raise SystemExit(f"losses differ at step {number}: {losses}")
        number += 1
    return {name: statistics.median(values[len(values) // 10 :]) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 8])
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--as-shipped", action="store_true", help="also measure DeepSpeed's defaults with a foreach AdamW")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each comparison")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if not allocator.ENVIRONMENT.items() <= os.environ.items():  # read by the C library when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | allocator.ENVIRONMENT)
    torch.set_num_threads(arguments.threads)
    ensure_process_group()
    sides: dict[str, Step] = {}
    for batch in arguments.batches:
        for stage in arguments.stages:
            sides.clear()
            gc.collect()  # of the previous engines: their clean-up imports modules and must not start during another import
            sides = {"bare": bare(batch), "ours": as_we_configure_it(batch, stage)}
            if arguments.as_shipped:
                sides["as shipped"] = as_shipped(batch, stage)
            medians = compare(sides, batch, arguments.seconds)
            shares = "  ".join(
                f"{name} {seconds * 1e3:7.2f} ms ({seconds / medians['bare'] - 1:+6.1%})" for name, seconds in medians.items()
            )
            print(f"batch {batch:4} ZeRO {stage}: {shares}", flush=True)


if __name__ == "__main__":
    main()
