"""One run from configuration to result: build, load, train or probe, evaluate, save weights. Works without Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitmodel.config.base import UserError
from vitmodel.config.objectives import Supervised
from vitmodel.config.run import RunConfig
from vitmodel.data.reader import Dataset
from vitmodel.flops.count import TRAIN_FACTOR, forward_flops
from vitmodel.models.build import build, build_for_training
from vitmodel.models.cnn import synchronise_statistics
from vitmodel.models.masked import encoder_weights
from vitmodel.training.averaging import averaged_statistics, synchronise_averages, use_average
from vitmodel.training.checkpoint import Writer
from vitmodel.training.context import CHECKPOINTS, Context, eval_split, train_split
from vitmodel.training.coordination import Coordinator
from vitmodel.training.deepspeed_internals import destroy_engine
from vitmodel.training.engine import device, ensure_process_group, full_weights, make_engine
from vitmodel.training.evaluate import evaluate, features, mean_scores
from vitmodel.training.loop import DivergedError, Metrics, TrainJob, fixed_batch_loss, train
from vitmodel.training.objectives import make_objective
from vitmodel.training.probe import LinearProbe, first_shots
from vitmodel.training.resume import resume
from vitmodel.training.skipped_samples import count_skipped, reporting_skipped
from vitmodel.training.watchdog import StallWatchdog
from vitmodel.weights.header import WEIGHTS_FILE, content_hash
from vitmodel.weights.interchange import import_weights
from vitmodel.weights.native import load_for_transfer, save_weights

EVAL_BATCH = 256
STACKS = "stacks"


def execute(config: RunConfig, context: Context) -> Metrics:
    """Execute a run and return its final metrics. Collective over the process group; worker 0 writes the weights.

    Raises DivergedError, StoppedError, SupersededError, CheckpointError, CheckpointMismatchError, and UserError for data
    or weights that do not fit the configuration.
    """
    worker, workers = ensure_process_group()
    started = time.perf_counter()
    stacks = context.folder / STACKS / f"{time.time():.0f}-worker-{worker}.txt"
    with StallWatchdog(context.stall_seconds, stacks, context.on_stall) as watchdog:
        if config.phase == "import":
            metrics = _import(config, context) if worker == 0 else {}
        elif config.phase == "probe":
            metrics = _probe(config, context, watchdog)
        else:
            metrics = _train(config, context, watchdog, worker, workers)
    return {**metrics, "time/run_seconds": time.perf_counter() - started}


def _train(config: RunConfig, context: Context, watchdog: StallWatchdog, worker: int, workers: int) -> Metrics:
    module = _module(config, context)
    dataset = train_split(config, context)
    job = _job(config, context, dataset, worker, workers)
    engine = make_engine(module, job.recipe, micro_batch=context.micro_batch, workers=workers, zero_stage=context.zero_stage)
    try:
        watchdog.reset()
        start_step, train_seconds = _train_on(job, engine, context, watchdog.reset)
        if job.recipe.ema:
            use_average(engine)  # evaluated and saved in place of the trained weights
        if config.phase == "pretrain":
            _save_weights(config, engine, context.folder / WEIGHTS_FILE, worker)
        held_out = eval_split(config, context)
        result = _evaluate(job, engine, held_out, watchdog.reset)
    finally:
        destroy_engine(engine)
    if not math.isfinite(result["eval/loss"]):  # the gradient of the last step was not finite
        raise DivergedError(config.steps, None)
    skipped = count_skipped((dataset, held_out), context.folder, worker, workers)
    return {**result, **skipped, "time/train_seconds": train_seconds, "start_step": start_step}


def _module(config: RunConfig, context: Context) -> nn.Module:
    """The module to train, with its initial weights."""
    assert config.recipe is not None
    module = build_for_training(
        config.objective,
        config.model,
        config.image_size,
        config.classes,
        dropout=config.recipe.dropout,
        stochastic_depth=config.recipe.stochastic_depth,
        seed=config.seed,
    )
    if context.parent_weights is not None:
        load_for_transfer(module, context.parent_weights)
    module.activation_checkpointing = context.activation_checkpointing
    return module


def _job(config: RunConfig, context: Context, dataset: Dataset, worker: int, workers: int) -> TrainJob:
    assert config.recipe is not None
    return TrainJob(
        recipe=config.recipe,
        seed=config.seed,
        steps=config.steps,
        objective=make_objective(config),
        dataset=dataset,
        lanes=config.data.lanes,
        window=config.data.window,
        worker=worker,
        workers=workers,
        micro_batch=context.micro_batch,
        flops_per_image=TRAIN_FACTOR * forward_flops(config.model, config.image_size, config.classes, config.objective),
    )


def _train_on(job: TrainJob, engine: Any, context: Context, reset_watchdog: Callable[[], None]) -> tuple[int, float]:
    """Resume from the newest checkpoint and train to the end: (the first step, seconds)."""
    start_step, losses = resume(job, engine, context)
    writer = Writer(context.folder / CHECKPOINTS, context.checkpoint.keep, job.worker, job.workers, context.is_current)

    def save(step: int, losses: list[float]) -> None:
        synchronise_averages(engine)
        synchronise_statistics(engine.module)
        facts = {"step": step, "next_batch": step, "losses": losses, "fixed_batch_loss": fixed_batch_loss(job, engine)}
        writer.save(engine, averaged_statistics(engine), facts | context.manifest)

    coordinator = Coordinator(
        policy=context.checkpoint,
        writer=writer,
        save=save,
        workers=job.workers,
        should_stop=context.should_stop,
        is_current=context.is_current if job.worker == 0 else lambda: True,
        reset_watchdog=reset_watchdog,
    )
    started = time.perf_counter()
    report = reporting_skipped(context.report, job.dataset.bad, context.folder, job.worker, job.workers)
    try:
        train(job, engine, coordinator, start_step=start_step, losses=losses, report=report)
    finally:
        writer.abandon()
    return start_step, time.perf_counter() - started


def _save_weights(config: RunConfig, engine: Any, path: Path, worker: int) -> None:
    """Save the trained weights, of an objective without labels those of the encoder alone. Collective."""
    weights = full_weights(engine)
    if worker == 0:
        is_supervised = isinstance(config.objective, Supervised)
        save_weights(weights if is_supervised else encoder_weights(weights), path, config.model)


def _evaluate(job: TrainJob, engine: Any, held_out: Dataset, reset_watchdog: Callable[[], None]) -> Metrics:
    engine.eval()

    def scores(images: Tensor, labels: Tensor, samples: np.ndarray) -> dict[str, Tensor]:
        reset_watchdog()
        return job.objective.scores(engine, images, labels, samples)

    return mean_scores(scores, held_out, batch_size=EVAL_BATCH, worker=job.worker, workers=job.workers)


def _import(config: RunConfig, context: Context) -> Metrics:
    """Save a file's weights as those of a pretraining. Raises UserError if the file has changed, or a tensor does not fit."""
    path = Path(context.data_root)
    if content_hash(path) != config.data.identity:
        raise UserError("the file has changed since the study was planned: plan the study again", file=str(path))
    _, state = import_weights(path, config.model)
    save_weights(state, context.folder / WEIGHTS_FILE, config.model)
    return {"import/tensors": float(len(state))}


def _probe(config: RunConfig, context: Context, watchdog: StallWatchdog) -> Metrics:
    assert config.shots is not None
    assert context.parent_weights is not None
    worker, workers = dist.get_rank(), dist.get_world_size()
    module = build(config.model, config.image_size, config.classes, seed=config.seed)
    load_for_transfer(module, context.parent_weights)
    module = module.to(device()).eval()
    dataset = train_split(config, context)
    shots = first_shots(dataset.labels, config.classes, config.shots)

    def represent(images: Tensor) -> Tensor:
        watchdog.reset()
        return module.features(images)

    few_shot, labels = features(represent, dataset, shots, batch_size=EVAL_BATCH)
    probe = LinearProbe(few_shot, labels, config.classes)

    def forward(images: Tensor) -> Tensor:
        with torch.no_grad():
            return probe(represent(images).float().cpu()).to(device())

    held_out = eval_split(config, context)
    result = evaluate(
        forward,
        held_out,
        batch_size=EVAL_BATCH,
        worker=worker,
        workers=workers,
    )
    return {
        **{name: value for name, value in result.items() if name != "eval/loss"},  # not defined for a regression
        "probe/penalty": probe.penalty,
        **count_skipped((dataset, held_out), context.folder, worker, workers),
    }
