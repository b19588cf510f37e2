"""The overfit sanity check: trains a model on a few images until its loss is low, with its recipe but no regularisation.

It is the cheapest test of model, loss, optimizer and learning rate together: a model that cannot overfit sixteen images
cannot learn from a million.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitmodel.config.objectives import Supervised
from vitmodel.config.recipe import Recipe
from vitmodel.config.run import RunConfig
from vitmodel.data.order import Batch
from vitmodel.data.reader import Dataset, ReadOptions
from vitmodel.models.build import build_for_training
from vitmodel.training.deepspeed_internals import destroy_engine
from vitmodel.training.engine import ensure_process_group, make_engine, set_learning_rate
from vitmodel.training.loop import TrainJob, train_step
from vitmodel.training.objectives import make_objective

SUPERVISED_SHARE, MASKED_SHARE = 0.1, 0.5  # of the first loss, to reach: with labels, and for masked patches
WARMUP_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class OverfitResult:
    """The loss at the first and at the last step, and the target."""

    first_loss: float
    last_loss: float
    steps: int
    target: float

    @property
    def has_passed(self) -> bool:
        return self.last_loss <= self.target


def without_regularisation(recipe: Recipe, images: int) -> Recipe:
    """The recipe without regularisation and schedule, with all images in one batch."""
    off = dict.fromkeys(("dropout", "stochastic_depth", "label_smoothing", "mixup", "cutmix", "ema", "weight_decay"), 0.0)
    plain = {**off, "augment": "none", "flip": False, "randaugment_layers": 0}
    schedule = {"schedule": "constant", "warmup": 0.0, "cooldown": 0.0}
    return Recipe.model_validate({**recipe.model_dump(), **plain, **schedule, "batch_size": images})


def overfit(config: RunConfig, data_root: Path | str, *, images: int, steps: int) -> OverfitResult:
    """Train on the first `images` of the training split, in this process, until the loss is low enough or after `steps`."""
    assert config.recipe is not None
    ensure_process_group()
    images = min(images, config.data.size)
    recipe = without_regularisation(config.recipe, images)
    config = config.model_copy(update={"recipe": recipe, "steps": steps})
    module = build_for_training(
        config.objective,
        config.model,
        config.image_size,
        config.classes,
        dropout=0.0,
        stochastic_depth=0.0,
        seed=config.seed,
    )
    dataset = Dataset(data_root, "train", config.image_size, config.data.size, reading=ReadOptions(cache="off"))
    job = TrainJob(
        recipe=recipe,
        seed=config.seed,
        steps=steps,
        objective=make_objective(config),
        dataset=dataset,
        lanes=1,
        window=images,
        worker=0,
        workers=1,
        micro_batch=images,
        flops_per_image=0,
    )
    engine = make_engine(module, recipe, micro_batch=images, workers=1, zero_stage=0)
    engine.train()
    loaded = dataset.load(Batch(np.arange(images), np.zeros(images, dtype=np.int64)))
    share = SUPERVISED_SHARE if isinstance(config.objective, Supervised) else MASKED_SHARE
    first = loss = math.nan
    step = 0
    for step in range(1, steps + 1):
        set_learning_rate(engine, recipe.lr * min(1.0, step / WARMUP_STEPS))
        loss = float(train_step(job, engine, loaded, step - 1))
        first = loss if step == 1 else first
        if not math.isfinite(loss) or loss <= share * first:
            break
    destroy_engine(engine)
    return OverfitResult(first_loss=first, last_loss=loss, steps=step, target=share * first)
