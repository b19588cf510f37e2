"""The training loop: `train` calls `train_step` calls `forward_backward`.

It takes an engine, the order of the data, a `report(metrics)` callback and a `Coordinator` that saves and stops, and does
not depend on its caller. Losses stay on the device and are fetched only where the workers synchronise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from vitmodel.config.recipe import Recipe
from vitmodel.config.schedule import learning_rate
from vitmodel.data.augment import normalise
from vitmodel.data.mixing import Targets
from vitmodel.data.order import Batch, hash_uint64
from vitmodel.data.preprocess import mix_of, preprocess
from vitmodel.data.reader import Dataset, LoadedBatch
from vitmodel.models.cnn import synchronise_statistics
from vitmodel.training.averaging import decay_at, set_decay, synchronise_averages, update_statistics
from vitmodel.training.coordination import Coordinator
from vitmodel.training.deepspeed_internals import gradient_norm
from vitmodel.training.engine import device, set_learning_rate
from vitmodel.training.objectives import Objective

LOGS_PER_RUN = 40
MAX_LOG_STEPS = 100
FIXED_IMAGES = 8

Metrics = dict[str, float]


class DivergedError(Exception):
    """The loss or the norm of the gradients is no longer finite."""

    def __init__(self, step: int, last_finite: float | None) -> None:
        self.step, self.last_finite = step, last_finite
        super().__init__(f"loss or gradient not finite at step {step}; last finite loss {last_finite}")


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """The parts and parameters of one training."""

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
    """Steps between two log entries: depends on the run's length only, so that curves do not depend on resumes."""
    return max(1, min(MAX_LOG_STEPS, steps // LOGS_PER_RUN))


def train(
    job: TrainJob,
    engine: Any,
    coordinator: Coordinator,
    *,
    start_step: int,
    losses: Sequence[float],
    report: Callable[[Metrics], None],
) -> None:
    """Train from `start_step` to the end. `losses` are those of the steps since the last log entry before `start_step`.

    Raises DivergedError, StoppedError, SupersededError or CheckpointError, on all workers at the same step.
    """
    engine.train()
    interval = log_interval(job.steps)
    means, last_loss = list(losses), None  # per step, over all workers
    recent: list[Tensor] = []  # per step, of this worker, on the device
    since, since_step = time.perf_counter(), start_step
    for step, loaded in enumerate(job.dataset.batches(_batches(job, start_step)), start_step):
        rate = learning_rate(job.recipe, step, job.steps)
        set_learning_rate(engine, rate)
        recent.append(train_step(job, engine, loaded, step))
        done, is_last = step + 1, step + 1 == job.steps
        is_log = is_last or done % interval == 0
        if not coordinator.is_due(done) and not is_log:
            continue
        means += _means_over_workers(recent, job.workers)
        recent.clear()
        last_loss = _check_finite(means, done, last_loss)
        if is_log:
            now = time.perf_counter()
            speed = (done - since_step) * job.recipe.batch_size / (now - since)
            report(
                {
                    "step": done,
                    "train/loss": sum(means) / len(means),
                    "train/learning_rate": rate,
                    "speed/images_per_second": speed,
                    "speed/flops_per_second": speed * job.flops_per_image,
                }
            )
            means.clear()
            synchronise_averages(engine)
            synchronise_statistics(engine.module)
        coordinator.synchronise(done, means, is_last=is_last)
        if is_log:
            since, since_step = time.perf_counter(), done


def train_step(job: TrainJob, engine: Any, loaded: LoadedBatch, step: int) -> Tensor:
    """One optimizer step over this worker's share of the global batch. Returns its mean loss, on the device."""
    if job.recipe.dropout or job.recipe.stochastic_depth:  # a function of the step: a resumed run drops the same
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
        images, targets = preprocess(loaded, places, mix, job.recipe, seed=job.seed, device=device())
        loss_sum += forward_backward(job, engine, images, targets, batch)
        engine.step()
    if job.recipe.ema:
        update_statistics(engine, decay)
    norm = gradient_norm(engine, loss_sum.device)
    if norm is not None:  # otherwise a gradient that is not finite shows in the next step's loss
        loss_sum = torch.where(norm.isnan(), math.nan, loss_sum)
    return loss_sum * job.micro_batch / share


def forward_backward(job: TrainJob, engine: Any, images: Tensor, targets: Targets, batch: Batch) -> Tensor:
    """Loss and gradients of one micro-batch. This is the loss that is minimised, with smoothed and mixed labels."""
    loss = job.objective.loss(engine, images, targets, batch)
    engine.backward(loss)
    return loss.detach()


def _batches(job: TrainJob, start_step: int) -> Iterator[Batch]:
    order = job.dataset.order(seed=job.seed, lanes=job.lanes, window=job.window)
    for step in range(start_step, job.steps):
        yield order.batch(step, job.recipe.batch_size, job.worker, job.workers)


def _means_over_workers(losses: list[Tensor], workers: int) -> list[float]:
    """Each step's loss as the mean over all workers. Collective."""
    stacked = torch.stack(losses).double()
    if workers > 1:
        dist.all_reduce(stacked)
    return [float(loss) / workers for loss in stacked.tolist()]


def _check_finite(means: list[float], done: int, last_loss: float | None) -> float | None:
    """The last loss of the steps up to `done`. Raises DivergedError at the first that is not finite."""
    for step, loss in enumerate(means, done - len(means) + 1):
        if not math.isfinite(loss):
            raise DivergedError(step, last_loss)
        last_loss = loss
    return last_loss


@torch.no_grad()
def fixed_batch_loss(job: TrainJob, engine: Any) -> float:
    """The loss on the first training images: equal for equal weights on any number of workers. Collective."""
    samples = np.arange(min(FIXED_IMAGES, job.dataset.size))
    loaded = job.dataset.load(Batch(samples, np.zeros_like(samples)))
    images, labels = normalise(loaded.images, device()), torch.from_numpy(loaded.labels).to(device())
    engine.eval()
    losses = job.objective.scores(engine, images, labels, samples)["eval/loss"]
    engine.train()
    return float(losses.mean())
