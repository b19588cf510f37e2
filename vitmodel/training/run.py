"""One run from configuration to result: build, load, train or probe, evaluate, leave weights. Works without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vitmodel.config import RunConfig, Supervised, UserError
from vitmodel.data.badsamples import BAD_FILE
from vitmodel.data.crops import Crops
from vitmodel.data.reader import Dataset, Reading
from vitmodel.flops import TRAIN_FACTOR, forward_flops
from vitmodel.models.build import build, build_for_training
from vitmodel.models.cnn import synchronise_statistics
from vitmodel.models.interchange import import_weights
from vitmodel.models.masked import encoder_weights
from vitmodel.models.weights import load_for_transfer, save_weights
from vitmodel.training import checkpoint
from vitmodel.training.averaging import synchronise_averages, use_average
from vitmodel.training.engine import device, ensure_process_group, full_weights, make_engine
from vitmodel.training.evaluate import evaluate, features, mean_scores
from vitmodel.training.loop import Metrics, TrainJob, train
from vitmodel.training.objectives import make_objective
from vitmodel.training.probe import LinearProbe, first_shots
from vitmodel.training.skipped import counting, share
from vitmodel.weightfile import content_hash

WEIGHTS_FILE = "model.safetensors"
EVAL_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a run works and with what: nothing here changes its result."""

    folder: Path
    data_root: Path | str  # the dataset; of an import, the file of weights
    parent_weights: Path | None = None
    micro_batch: int = 1
    zero_stage: int = 0
    activation_checkpointing: bool = False
    checkpoint_seconds: float = 600.0
    reading: Reading = field(default_factory=Reading)
    report: Callable[[Metrics], None] = field(default=lambda metrics: None)


def execute(config: RunConfig, context: Context) -> Metrics:
    """Do the run and return its final metrics. Collective over the process group; worker 0 writes the weights.

    Raises DivergedError, UserError for data or weights that do not fit.
    """
    worker, workers = ensure_process_group()
    started = time.perf_counter()
    if config.phase == "import":
        metrics = _import(config, context) if worker == 0 else {}
    elif config.phase == "probe":
        metrics = _probe(config, context)
    else:
        metrics = _train(config, context, worker, workers)
    return {**metrics, "time/run_seconds": time.perf_counter() - started}


def _train(config: RunConfig, context: Context, worker: int, workers: int) -> Metrics:
    assert config.recipe is not None
    recipe = config.recipe
    module = build_for_training(
        config.objective,
        config.model,
        config.image_size,
        config.classes,
        dropout=recipe.dropout,
        stochastic_depth=recipe.stochastic_depth,
        seed=config.seed,
    )
    if context.parent_weights is not None:
        load_for_transfer(module, context.parent_weights)
    module.activation_checkpointing = context.activation_checkpointing
    dataset = _train_split(config, context)
    engine = make_engine(module, config.recipe, micro_batch=context.micro_batch, workers=workers, zero_stage=context.zero_stage)
    job = TrainJob(
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
    start_step = checkpoint.resume(engine, context.folder / "checkpoints", worker=worker, workers=workers)
    started = time.perf_counter()
    report = counting(context.report, dataset.bad, context.folder, worker, workers)
    train(job, engine, start_step=start_step, report=report, save=_saver(engine, context, worker, workers))
    train_seconds = time.perf_counter() - started
    if recipe.ema:
        use_average(engine)  # what is evaluated and kept
    if config.phase == "pretrain":
        weights = full_weights(engine)
        if worker == 0:
            kept = weights if isinstance(config.objective, Supervised) else encoder_weights(weights)
            save_weights(kept, context.folder / WEIGHTS_FILE, config.model)
    engine.eval()
    held_out = _eval_split(config, context)
    result = mean_scores(
        partial(job.objective.scores, engine),
        held_out,
        batch_size=EVAL_BATCH,
        worker=worker,
        workers=workers,
    )
    engine.destroy()
    skipped = _skipped(context, dataset, held_out, worker, workers)
    return {**result, **skipped, "time/train_seconds": train_seconds, "start_step": start_step}


def _train_split(config: RunConfig, context: Context) -> Dataset:
    recipe = config.recipe
    crops = Crops(seed=config.seed, flip=recipe.flip) if recipe is not None and recipe.augment == "inception" else None
    reading = _reading(context)
    return Dataset(
        context.data_root,
        "train",
        config.image_size,
        config.data.size,
        subset_seed=config.data.subset_seed,
        reading=reading,
        crops=crops,
    )


def _eval_split(config: RunConfig, context: Context) -> Dataset:
    return Dataset(context.data_root, config.data.eval_split, config.image_size, reading=_reading(context))


def _reading(context: Context) -> Reading:
    """How this run reads, with what its earlier attempts have met."""
    return replace(context.reading, known_bad=context.folder / BAD_FILE)


def _skipped(context: Context, train_split: Dataset, held_out: Dataset, worker: int, workers: int) -> Metrics:
    """Number of samples that could not be read, where that may happen at all. Collective."""
    splits = [dataset for dataset in (train_split, held_out) if dataset.bad.limit]
    for dataset in splits:
        share(dataset.bad, context.folder, worker, workers)
    return {"data/skipped": sum(len(dataset.bad) for dataset in splits)} if splits else {}


def _import(config: RunConfig, context: Context) -> Metrics:
    """A file's weights as those of a pretraining. Raises UserError where the file changed, or any tensor does not fit."""
    path = Path(context.data_root)
    if content_hash(path) != config.data.identity:
        raise UserError("is not the file that was planned with: plan again", file=str(path))
    _, state = import_weights(path, config.model)
    save_weights(state, context.folder / WEIGHTS_FILE, config.model)
    return {"import/tensors": float(len(state))}


def _saver(engine: Any, context: Context, worker: int, workers: int) -> Callable[[int, bool], None]:
    """`save(step, last)` that writes a checkpoint when the interval is over; worker 0's clock decides for all."""
    clock = [time.monotonic()]

    def save(step: int, last: bool) -> None:
        synchronise_averages(engine)
        synchronise_statistics(engine.module)  # at least before every checkpoint, and after the last step
        due = torch.tensor(float(time.monotonic() - clock[0] >= context.checkpoint_seconds), device=device())
        if workers > 1:
            dist.broadcast(due, src=0)
        if due and not last:
            checkpoint.save_checkpoint(engine, context.folder / "checkpoints", step, worker=worker, workers=workers)
            clock[0] = time.monotonic()

    return save


def _probe(config: RunConfig, context: Context) -> Metrics:
    assert config.shots is not None
    assert context.parent_weights is not None
    worker, workers = dist.get_rank(), dist.get_world_size()
    module = build(config.model, config.image_size, config.classes, seed=config.seed)
    load_for_transfer(module, context.parent_weights)
    module = module.to(device()).eval()
    dataset = _train_split(config, context)
    shots = first_shots(dataset.labels, config.classes, config.shots)
    few_shot = features(module.features, dataset, shots, batch_size=EVAL_BATCH)
    probe = LinearProbe(few_shot, torch.from_numpy(dataset.labels[shots]), config.classes)

    def forward(images: Tensor) -> Tensor:
        with torch.no_grad():
            return probe(module.features(images).float().cpu()).to(device())

    held_out = _eval_split(config, context)
    result = evaluate(
        forward,
        held_out,
        batch_size=EVAL_BATCH,
        worker=worker,
        workers=workers,
    )
    return {
        **{name: value for name, value in result.items() if name != "eval/loss"},  # of a regression it says nothing
        "probe/penalty": probe.penalty,
        **_skipped(context, dataset, held_out, worker, workers),
    }
