"""Cost of augmentation on the device: images/s of each kind, and its time relative to a training step of a small ViT.

    python bench/augment.py [--resolution 224] [--batch 64] [--threads 1] [--seconds 20]

All kinds take turns; prints medians. Uses the GPU if there is one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from vitmodel.config.models import named_model
from vitmodel.config.recipe import Recipe
from vitmodel.data.augment import augment
from vitmodel.data.mixing import draw_mix, mix_images
from vitmodel.data.order import Batch
from vitmodel.data.randaugment import randaugment
from vitmodel.models.build import build
from vitmodel.training.engine import device

RECIPE = Recipe(preset="bench", optimizer="adamw", lr=1e-3, batch_size=64, schedule="constant", warmup=0, mixup=0.8, cutmix=1.0)


def kinds(images: torch.Tensor, batch: Batch) -> dict[str, Callable[[], object]]:
    size = images.shape[-1]
    module = build(named_model("Ti/16"), size, 1000, seed=0).to(images.device).train()
    labels = torch.arange(len(images), device=images.device) % 1000

    def step() -> None:
        F.cross_entropy(module(images), labels).backward()

    def mixed() -> torch.Tensor:
        mix = draw_mix(batch, 2, RECIPE, 0, size)
        return mix_images(images, images[torch.from_numpy(mix.partners)], mix)

    return {
        "crop and flip": lambda: augment(images, batch, 0, "inception", True),
        "RandAugment (2, 10)": lambda: randaugment(images, batch, 0, 2, 10.0),
        "mixup or CutMix": mixed,
        "Ti/16, forward and backward": step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, count = arguments.resolution, arguments.batch
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device()) * 2 - 1
    work = kinds(images, Batch(np.arange(count), np.zeros(count, dtype=np.int64)))
    seconds: dict[str, list[float]] = {name: [] for name in work}
    until = time.monotonic() + arguments.seconds
    while time.monotonic() < until:
        for name, do in work.items():
            started = time.perf_counter()
            do()
            if images.is_cuda:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    step = median["Ti/16, forward and backward"]
    for name, value in median.items():
        print(f"{name:28} {count / value:9.1f} images/s   {value / step:5.2f} of the time of a step")


if __name__ == "__main__":
    main()
