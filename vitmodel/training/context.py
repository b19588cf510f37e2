"""The environment of a run (folders, callbacks, limits), none of which changes its result, and the splits that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitmodel.config.run import RunConfig
from vitmodel.data.bad_samples import BAD_FILE
from vitmodel.data.crops import Crops
from vitmodel.data.reader import Dataset, ReadOptions
from vitmodel.training.checkpoint import CheckpointPolicy
from vitmodel.training.loop import Metrics

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class Context:
    """The environment of a run. Nothing here changes its result."""

    folder: Path
    data_root: Path | str  # the dataset; for an import, the weights file
    parent_weights: Path | None = None
    micro_batch: int = 1
    zero_stage: int = 0
    activation_checkpointing: bool = False
    checkpoint: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    stall_seconds: float | None = None  # after this long without progress, the process writes its stacks and ends
    on_stall: Callable[[], None] = field(default=lambda: None)
    should_stop: Callable[[], bool] = field(default=lambda: False)  # called every few seconds on every worker
    is_current: Callable[[], bool] = field(default=lambda: True)  # whether this attempt may still write anything
    manifest: dict[str, Any] = field(default_factory=dict)  # further entries for the manifests of checkpoints
    on_start: Callable[[dict[str, Any] | None], None] = field(default=lambda manifest: None)  # the manifest resumed from
    reading: ReadOptions = field(default_factory=ReadOptions)
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


def _reading(context: Context) -> ReadOptions:
    """How this run reads, including the bad samples that its earlier attempts recorded."""
    return replace(context.reading, known_bad=context.folder / BAD_FILE)
