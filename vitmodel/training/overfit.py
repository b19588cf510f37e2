"""Whether a model learns at all under its recipe: a few images, over and over, must become known by heart.

The cheapest test of a model, a loss, an optimizer and a learning rate together: what cannot learn sixteen images will
not learn a million. Whatever is there to keep a model from learning by heart is left out.
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
from vitmodel.data.reader import Dataset, Reading
from vitmodel.models.build import build_for_training
from vitmodel.training.engine import end_engine, ensure_process_group, make_engine, set_learning_rate
from vitmodel.training.loop import TrainJob, train_step
from vitmodel.training.objectives import make_objective

LEARNT, RECONSTRUCTED = 0.1, 0.5  # of its first loss, of what has labels and of what rebuilds hidden patches
WARMUP_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Overfit:
    """How the loss went: at the first step, at the last one made, and whether that is low enough."""

    first_loss: float
    last_loss: float
    steps: int
    target: float

    @property
    def is_learnt(self) -> bool:
        return self.last_loss <= self.target


def by_heart(recipe: Recipe, images: int) -> Recipe:
    """The recipe without regularisation and schedule, and with all images as its one batch."""
    off = dict.fromkeys(("dropout", "stochastic_depth", "label_smoothing", "mixup", "cutmix", "ema", "weight_decay"), 0.0)
    plain = {**off, "augment": "none", "flip": False, "randaugment_layers": 0}
    schedule = {"schedule": "constant", "warmup": 0.0, "cooldown": 0.0}
    return Recipe.model_validate({**recipe.model_dump(), **plain, **schedule, "batch_size": images})


def overfit(config: RunConfig, data_root: Path | str, *, images: int, steps: int) -> Overfit:
    """Train on the first `images` of the training split until the loss is low enough, `steps` at most. In this process."""
    assert config.recipe is not None
    ensure_process_group()
    images = min(images, config.data.size)
    recipe = by_heart(config.recipe, images)
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
    dataset = Dataset(data_root, "train", config.image_size, config.data.size, reading=Reading(cache="off"))
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
    share = LEARNT if isinstance(config.objective, Supervised) else RECONSTRUCTED
    first = loss = math.nan
    step = 0
    for step in range(1, steps + 1):
        set_learning_rate(engine, recipe.lr * min(1.0, step / WARMUP_STEPS))
        loss = float(train_step(job, engine, loaded, step - 1))
        first = loss if step == 1 else first
        if not math.isfinite(loss) or loss <= share * first:
            break
    end_engine(engine)
    return Overfit(first_loss=first, last_loss=loss, steps=step, target=share * first)
