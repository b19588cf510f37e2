"""Where a run works and with what: nothing here changes its result. And the splits that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitmodel.config.run import RunConfig
from vitmodel.data.badsamples import BAD_FILE
from vitmodel.data.crops import Crops
from vitmodel.data.reader import Dataset, Reading
from vitmodel.training.checkpoint import CheckpointPolicy
from vitmodel.training.loop import Metrics
from vitmodel.training.skipped import share

CHECKPOINTS = "checkpoints"


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


def train_split(config: RunConfig, context: Context) -> Dataset:
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


def eval_split(config: RunConfig, context: Context) -> Dataset:
    return Dataset(context.data_root, config.data.eval_split, config.image_size, reading=_reading(context))


def _reading(context: Context) -> Reading:
    """How this run reads, with what its earlier attempts have met."""
    return replace(context.reading, known_bad=context.folder / BAD_FILE)


def skipped(context: Context, trained_on: Dataset, held_out: Dataset, worker: int, workers: int) -> Metrics:
    """Number of samples that could not be read, where that may happen at all. Collective."""
    splits = [dataset for dataset in (trained_on, held_out) if dataset.bad.limit]
    for dataset in splits:
        share(dataset.bad, context.folder, worker, workers)
    return {"data/skipped": sum(len(dataset.bad) for dataset in splits)} if splits else {}
