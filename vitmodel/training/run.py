"""One run from configuration to result: build, load, train or probe, evaluate, leave weights. Works without Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
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
from vitmodel.training.averaging import averaged_statistics, synchronise_averages, use_average
from vitmodel.training.checkpoint import CheckpointPolicy, Writer, load_newest
from vitmodel.training.control import Control
from vitmodel.training.engine import device, ensure_process_group, full_weights, make_engine, resolve_precision
from vitmodel.training.evaluate import evaluate, features, mean_scores
from vitmodel.training.guard import StallGuard
from vitmodel.training.loop import DivergedError, Metrics, TrainJob, fixed_batch_loss, train
from vitmodel.training.objectives import make_objective
from vitmodel.training.probe import LinearProbe, first_shots
from vitmodel.training.skipped import counting, share
from vitmodel.weightfile import content_hash

WEIGHTS_FILE = "model.safetensors"
EVAL_BATCH = 256
CHECKPOINTS, STACKS = "checkpoints", "stacks"
MISMATCH = {"fp32": 1e-4, "bf16": 1e-2}  # by how much the loss on the fixed batch may differ: other hardware rounds otherwise


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a run works and with what: nothing here changes its result."""

    folder: Path
    data_root: Path | str  # the dataset; of an import, the file of weights
    parent_weights: Path | None = None
    micro_batch: int = 1
    zero_stage: int = 0
    activation_checkpointing: bool = False
    checkpoint: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    stall_seconds: float | None = None  # without progress for so long, this process writes its stacks and ends
    on_stall: Callable[[], None] = field(default=lambda: None)
    should_stop: Callable[[], bool] = field(default=lambda: False)  # asked now and then, on every worker
    is_current: Callable[[], bool] = field(default=lambda: True)  # whether this attempt may still leave anything
    manifest: dict[str, Any] = field(default_factory=dict)  # further facts for the manifests of checkpoints
    on_start: Callable[[dict[str, Any] | None], None] = field(default=lambda manifest: None)  # what is gone on from
    reading: Reading = field(default_factory=Reading)
    report: Callable[[Metrics], None] = field(default=lambda metrics: None)


class CheckpointMismatchError(Exception):
    """A checkpoint whose checksums are met does not give the loss that it was written with."""


def execute(config: RunConfig, context: Context) -> Metrics:
    """Do the run and return its final metrics. Collective over the process group; worker 0 writes the weights.

    Raises DivergedError, StoppedError, OutdatedError, CheckpointError, CheckpointMismatchError, UserError for data or
    weights that do not fit.
    """
    worker, workers = ensure_process_group()
    started = time.perf_counter()
    stacks = context.folder / STACKS / f"{time.time():.0f}-worker-{worker}.txt"
    with StallGuard(context.stall_seconds, stacks, context.on_stall) as guard:
        if config.phase == "import":
            metrics = _import(config, context) if worker == 0 else {}
        elif config.phase == "probe":
            metrics = _probe(config, context, guard)
        else:
            metrics = _train(config, context, guard, worker, workers)
    return {**metrics, "time/run_seconds": time.perf_counter() - started}


def _train(config: RunConfig, context: Context, guard: StallGuard, worker: int, workers: int) -> Metrics:
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
    beat = guard.beat
    beat()
    start_step, losses = _resume(job, engine, context)
    writer = Writer(context.folder / CHECKPOINTS, context.checkpoint.keep, worker, workers, context.is_current)

    def save(step: int, losses: list[float]) -> None:
        synchronise_averages(engine)
        synchronise_statistics(engine.module)
        facts = {"step": step, "next_batch": step, "losses": losses, "fixed_batch_loss": fixed_batch_loss(job, engine)}
        facts |= context.manifest
        writer.save(engine, averaged_statistics(engine), facts)

    control = Control(
        policy=context.checkpoint,
        writer=writer,
        save=save,
        workers=workers,
        should_stop=context.should_stop,
        is_current=context.is_current if worker == 0 else lambda: True,
        beat=beat,
    )
    started = time.perf_counter()
    report = counting(context.report, dataset.bad, context.folder, worker, workers)
    try:
        train(job, engine, control, start_step=start_step, losses=losses, report=report)
    finally:
        writer.abandon()
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

    def scores(images: Tensor, labels: Tensor, samples: np.ndarray) -> dict[str, Tensor]:
        guard.beat()
        return job.objective.scores(engine, images, labels, samples)

    result = mean_scores(
        scores,
        held_out,
        batch_size=EVAL_BATCH,
        worker=worker,
        workers=workers,
    )
    engine.destroy()
    if not math.isfinite(result["eval/loss"]):  # the last step's gradient
        raise DivergedError(config.steps, None)
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


def _resume(job: TrainJob, engine: Any, context: Context) -> tuple[int, list[float]]:
    """(step, losses since the last log entry) of the newest whole checkpoint, (0, []) without one. Collective.

    Raises CheckpointMismatchError where the weights that were read do not give the loss that was written.
    """
    manifest = load_newest(
        engine, averaged_statistics(engine), context.folder / CHECKPOINTS, worker=job.worker, workers=job.workers
    )
    if manifest is None:
        context.on_start(None)
        return 0, []
    written = manifest["fixed_batch_loss"]
    difference = torch.tensor(abs(fixed_batch_loss(job, engine) - written), dtype=torch.float64, device=device())
    if job.workers > 1:
        dist.all_reduce(difference, op=dist.ReduceOp.MAX)
    allowed = MISMATCH[resolve_precision(job.recipe)] * max(1.0, abs(written))
    if not difference <= allowed:
        raise CheckpointMismatchError(f"checkpoint-mismatch: fixed-batch loss off by {float(difference):.3g} from {written}")
    context.on_start(manifest)
    return manifest["step"], manifest["losses"]


def _probe(config: RunConfig, context: Context, guard: StallGuard) -> Metrics:
    assert config.shots is not None
    assert context.parent_weights is not None
    worker, workers = dist.get_rank(), dist.get_world_size()
    module = build(config.model, config.image_size, config.classes, seed=config.seed)
    load_for_transfer(module, context.parent_weights)
    module = module.to(device()).eval()
    dataset = _train_split(config, context)
    shots = first_shots(dataset.labels, config.classes, config.shots)

    def represent(images: Tensor) -> Tensor:
        guard.beat()
        return module.features(images)

    few_shot, labels = features(represent, dataset, shots, batch_size=EVAL_BATCH)
    probe = LinearProbe(few_shot, labels, config.classes)

    def forward(images: Tensor) -> Tensor:
        with torch.no_grad():
            return probe(represent(images).float().cpu()).to(device())

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
