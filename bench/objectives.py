"""Cost of the objectives: a training step (forward, backward, AdamW) supervised, as masked autoencoder, with masked patches.

    python bench/objectives.py [--threads 1] [--seconds 20]

Steps are interleaved. Prints images/s, the ratio to supervised, and the ratio of the closed-form FLOPs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import named_model
from vitmodel.config.objectives import SUPERVISED, Mae, MaskedPatch, Objective
from vitmodel.data.masks import patch_order
from vitmodel.data.order import Batch
from vitmodel.flops.count import forward_flops
from vitmodel.flops.objectives import complete
from vitmodel.models.build import build_for_training

MICRO = ViTConfig(family="vit", variant="micro 32 px", width=96, depth=6, mlp_dim=384, heads=3, patch=4)
SHAPES: list[tuple[ViTConfig, int, int]] = [(MICRO, 32, 64), (named_model("S/16"), 224, 4)]  # type: ignore[list-item]
OBJECTIVES: tuple[Objective, ...] = (SUPERVISED, Mae(), MaskedPatch())


def make_step(objective: Objective, model: ViTConfig, size: int, batch: int) -> Callable[[], None]:
    """One optimizer step on random images. Masks are drawn in every step, as in training."""
    module = build_for_training(objective, model, size, 1000, seed=0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    images, labels, samples = torch.rand(batch, 3, size, size) * 2 - 1, torch.arange(batch), np.arange(batch)

    def step() -> None:
        if objective == SUPERVISED:
            loss = torch.nn.functional.cross_entropy(module(images), labels)
        else:
            order = patch_order(Batch(samples, np.zeros_like(samples)), 0, (size // model.patch) ** 2)
            loss = module(images, torch.from_numpy(order)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(model: ViTConfig, size: int, batch: int, seconds: float) -> None:
    """The best of interleaved rounds of each objective."""
    full = [complete(objective, model) for objective in OBJECTIVES]
    steps = [make_step(objective, model, size, batch) for objective in full]
    best = [float("inf")] * len(steps)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for number, step in enumerate(steps):
            start = time.perf_counter()
            step()
            best[number] = min(best[number], time.perf_counter() - start)
    flops = [forward_flops(model, size, 1000, objective) for objective in full]
    for objective, step_seconds, objective_flops in zip(full, best, flops, strict=True):
        name = f"{model.variant} {objective.kind}"
        ratios = f"{best[0] / step_seconds:.2f} times supervised, by FLOPs {flops[0] / objective_flops:.2f}"
        print(f"{name:26} {batch / step_seconds:9.2f} images/s, {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for model, size, batch in SHAPES:
        measure(model, size, batch, arguments.seconds)


if __name__ == "__main__":
    main()
