"""The things a plan is made of: runs, the cells that share a pretraining, the bundles that share a worker group. Frozen."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.plan import budget
from orchestrator.plan.budget import Group, Placement
from vitmodel.config.objectives import Supervised
from vitmodel.config.run import RunConfig


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training or evaluation: its identity, its configuration, and the facts that stand in its results row."""

    run_id: str
    config: RunConfig
    variant: str  # as rows name the model: with its pretraining's recipe, where that is an axis
    recipe: str  # what tells this run's recipe from others of its section, where that is an axis
    dataset: str  # the name in the study file
    length: str
    epochs: float
    params: int
    forward_flops: int
    train_flops: int
    pretrain_flops: int | None  # None: not known, of imported weights
    placement: Placement
    source: str = ""  # the file that an import reads

    @property
    def examples_seen(self) -> int:
        return self.config.steps * (self.config.recipe.batch_size if self.config.recipe else 0)

    @property
    def model_name(self) -> str:
        """The variant, with its objective where that is not supervised."""
        return self.variant + ("" if isinstance(self.config.objective, Supervised) else f" {self.config.objective.kind}")

    @property
    def label(self) -> str:
        """Short and readable: what a person calls this run."""
        if self.config.phase == "import":
            return f"import {self.variant} from {self.config.data.name}"
        kind = {"pretrain": self.length, "finetune": f"{self.epochs:g} epochs", "probe": f"{self.config.shots} shots"}
        size = f" {self.config.data.size:,}" if self.config.phase == "pretrain" else ""
        own = f" {self.recipe}" if self.recipe and self.config.phase == "finetune" else ""
        return f"{self.config.phase} {self.model_name} {self.config.data.name}{size} {kind[self.config.phase]}{own}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A pretraining, or the import that takes its place, and everything that starts from it."""

    pretrain: Run
    children: tuple[Run, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.pretrain, *self.children)

    @property
    def seconds(self) -> float:
        return sum(run.placement.seconds for run in self.runs)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The cells, or parts of one cell, that one Tune trial works through in one warm worker group."""

    bundle_id: str
    group: Group
    cells: tuple[Cell, ...]
    after: str = ""  # run_id of a pretraining that another bundle does: this one has only what starts from it

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for cell in self.cells for run in (cell.children if self.after else cell.runs))

    @property
    def seconds(self) -> float:
        return budget.LAUNCH_SECONDS + sum(run.placement.seconds for run in self.runs)
