"""THE training loop: `train` calls `train_step` calls `forward_backward`.

It takes an engine, the data's order and two hooks, `report(metrics)` and `save(step)`, and knows nothing of who
called it. Losses are summed on the device and fetched only where they are logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from vitmodel.config import Recipe
from vitmodel.data.mixing import Targets
from vitmodel.data.order import Batch, hash_uint64
from vitmodel.data.prepare import mix_of, prepare
from vitmodel.data.reader import Dataset, Loaded
from vitmodel.schedule import learning_rate
from vitmodel.training.averaging import average_statistics, decay_at, set_decay
from vitmodel.training.engine import device, set_learning_rate
from vitmodel.training.objectives import Objective

LOGS_PER_RUN = 40
MAX_LOG_STEPS = 100

Metrics = dict[str, float]


class DivergedError(Exception):
    """The loss is no longer a number."""

    def __init__(self, step: int, last_finite: float | None) -> None:
        self.step, self.last_finite = step, last_finite
        super().__init__(f"loss not finite at step {step}; last finite value {last_finite}")


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What one training consists of."""

    recipe: Recipe
    seed: int
    steps: int
    objective: Objective
    dataset: Dataset
    lanes: int
    window: int
    worker: int
    workers: int
    micro_batch: int
    flops_per_image: int  # of training: forward and backward


def log_interval(steps: int) -> int:
    """Steps between two log entries: a function of the run's length alone, so that curves do not depend on resumes."""
    return max(1, min(MAX_LOG_STEPS, steps // LOGS_PER_RUN))


def train(
    job: TrainJob, engine: Any, *, start_step: int, report: Callable[[Metrics], None], save: Callable[[int, bool], None]
) -> None:
    """Train from `start_step` to the end. `save(step, last)` is called at log boundaries only. Raises DivergedError."""
    engine.train()
    interval = log_interval(job.steps)
    loss_sum = torch.zeros((), device=device())
    last_loss, since = None, time.perf_counter()
    for step, loaded in enumerate(job.dataset.batches(_batches(job, start_step)), start_step):
        rate = learning_rate(job.recipe, step, job.steps)
        set_learning_rate(engine, rate)
        loss_sum += train_step(job, engine, loaded, step)
        if (step + 1) % interval and step + 1 < job.steps:
            continue
        done = (step % interval) + 1
        loss = _mean_over_workers(loss_sum / done, job.workers)
        if not torch.isfinite(torch.tensor(loss)):
            raise DivergedError(step + 1, last_loss)
        now = time.perf_counter()
        speed = done * job.recipe.batch_size / (now - since)
        report(
            {
                "step": step + 1,
                "train/loss": loss,
                "train/learning_rate": rate,
                "speed/images_per_second": speed,
                "speed/flops_per_second": speed * job.flops_per_image,
            }
        )
        save(step + 1, step + 1 == job.steps)
        last_loss, since = loss, time.perf_counter()
        loss_sum.zero_()


def train_step(job: TrainJob, engine: Any, loaded: Loaded, step: int) -> Tensor:
    """One optimizer step over this worker's share of the global batch. Returns its mean loss, on the device."""
    if job.recipe.dropout or job.recipe.stochastic_depth:  # a function of the step, so that a resumed run drops the same units
        torch.manual_seed(int(hash_uint64(job.seed, step, job.worker) >> 1))
    share = len(loaded.labels)
    loss_sum = torch.zeros((), device=device())
    decay = decay_at(job.recipe.ema, step)
    if job.recipe.ema:
        set_decay(engine, decay)
    mix = mix_of(loaded, job.recipe, job.seed, job.recipe.batch_size // job.lanes)
    for start in range(0, share, job.micro_batch):
        places = np.arange(start, start + job.micro_batch)
        batch = Batch(loaded.batch.samples[places], loaded.batch.epochs[places])
        images, targets = prepare(loaded, places, mix, job.recipe, seed=job.seed, device=device())
        loss_sum += forward_backward(job, engine, images, targets, batch)
        engine.step()
    if job.recipe.ema:
        average_statistics(engine, decay)
    return loss_sum * job.micro_batch / share


def forward_backward(job: TrainJob, engine: Any, images: Tensor, targets: Targets, batch: Batch) -> Tensor:
    """Loss and gradients of one micro-batch. The loss is the one that is minimised: with smoothed and mixed labels."""
    loss = job.objective.loss(engine, images, targets, batch)
    engine.backward(loss)
    return loss.detach()


def _batches(job: TrainJob, start_step: int) -> Iterator[Batch]:
    order = job.dataset.order(seed=job.seed, lanes=job.lanes, window=job.window)
    for step in range(start_step, job.steps):
        yield order.batch(step, job.recipe.batch_size, job.worker, job.workers)


def _mean_over_workers(value: Tensor, workers: int) -> float:
    if workers > 1:
        dist.all_reduce(value)
    return float(value) / workers
