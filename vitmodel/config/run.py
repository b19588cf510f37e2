"""The configuration of one run.

`RunConfig` has everything that determines the result of a run, and nothing that only affects its speed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vitmodel.config.base import Frozen
from vitmodel.config.models import ModelConfig
from vitmodel.config.objectives import SUPERVISED, Objective
from vitmodel.config.recipe import Recipe


class DataRef(Frozen):
    """Which samples a run sees, and in which order: `order(seed, epoch, n, lanes, window)`."""

    name: str
    identity: str  # content hash of the dataset: from its index, or of the generator's arguments
    size: int = Field(ge=0)  # unique training images: the first `size` of the train split; 0: unknown, for an import
    subset_seed: int | None = None  # the first of a permutation with this seed; None: of the packed order
    lanes: int = Field(gt=0)
    window: int = Field(gt=0)
    eval_split: str


class RunConfig(Frozen):
    """One run. Equal configurations give equal results; their hash is the run id."""

    phase: Literal["pretrain", "import", "finetune", "probe"]  # import: weights from a file, in place of a pretraining
    model: ModelConfig
    image_size: int = Field(gt=0)
    classes: int = Field(gt=0)  # 1: imported weights without a head
    objective: Objective = SUPERVISED  # of a pretraining; fine-tunes are always supervised
    data: DataRef
    seed: int
    parent: str | None = None  # run id of the pretraining whose weights this run starts from
    steps: int = Field(default=0, ge=0)
    recipe: Recipe | None = None  # none for a probe, which is solved in closed form
    shots: int | None = Field(default=None, gt=0)  # labelled images per class, for a probe
