"""What a plan consists of: runs, the cells that share a pretraining, the bundles that share a worker group. Frozen."""

from __future__ import annotations

from dataclasses import dataclass

from vitmodel.config.base import Frozen
from vitmodel.config.objectives import Supervised
from vitmodel.config.run import RunConfig

LAUNCH_SECONDS = 15.0  # from the start of a Ray Train worker group to its first step, measured


class WorkerGroup(Frozen):
    """The Ray Train workers that a bundle runs on. Each worker is one process with one GPU, or with CPUs only."""

    workers: int
    cpus_per_worker: int
    gpus_per_worker: int
    zero_stage: int
    max_workers: int = 0  # upper end of an elastic group; 0: the group has exactly `workers`

    def __str__(self) -> str:
        upper = f" to {self.max_workers}" if self.max_workers else ""
        return f"{self.workers}{upper} x {'1 GPU' if self.gpus_per_worker else f'{self.cpus_per_worker} CPU'}"

    @property
    def sort_key(self) -> tuple[int, ...]:
        return (self.workers, self.cpus_per_worker, self.gpus_per_worker, self.zero_stage, self.max_workers)

    @property
    def resources_per_worker(self) -> dict[str, float]:
        """What one worker reserves, by Ray's names; resources that it does not need are left out."""
        needs = {"CPU": float(self.cpus_per_worker), "GPU": float(self.gpus_per_worker)}
        return {name: amount for name, amount in needs.items() if amount}


class Placement(Frozen):
    """How one run uses its worker group, and the expected cost."""

    group: WorkerGroup
    micro_batch: int
    accumulation: int
    activation_checkpointing: bool
    memory_bytes: int  # of one worker
    seconds: float

    @property
    def gpu_seconds(self) -> float:
        return self.seconds * self.group.workers * self.group.gpus_per_worker

    @property
    def core_seconds(self) -> float:
        return self.seconds * self.group.workers * self.group.cpus_per_worker


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training or evaluation: its id, its configuration, and the facts that its results row repeats."""

    run_id: str
    config: RunConfig
    variant: str  # the model's name in rows, with its pretraining recipe where that is an axis
    recipe: str  # label of this run's recipe where the recipe is an axis, else empty
    dataset: str  # the name in the study file
    length: str
    epochs: float
    params: int
    forward_flops: int
    train_flops: int
    pretrain_flops: int | None  # None: unknown (imported weights)
    placement: Placement
    source: str = ""  # the file that an import reads

    @property
    def examples_seen(self) -> int:
        return self.config.steps * (self.config.recipe.batch_size if self.config.recipe else 0)

    @property
    def model_name(self) -> str:
        """The variant, and its objective where that is not supervised."""
        return self.variant + ("" if isinstance(self.config.objective, Supervised) else f" {self.config.objective.kind}")

    @property
    def label(self) -> str:
        """A short readable name: `pretrain S/16 fractals 16,000 8 epochs`."""
        if self.config.phase == "import":
            return f"import {self.variant} from {self.config.data.name}"
        kind = {"pretrain": self.length, "finetune": f"{self.epochs:g} epochs", "probe": f"{self.config.shots} shots"}
        size = f" {self.config.data.size:,}" if self.config.phase == "pretrain" else ""
        recipe = f" {self.recipe}" if self.recipe and self.config.phase == "finetune" else ""
        return f"{self.config.phase} {self.model_name} {self.config.data.name}{size} {kind[self.config.phase]}{recipe}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A pretraining (or an import in its place) and every run that starts from it."""

    pretrain: Run
    children: tuple[Run, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return (self.pretrain, *self.children)

    @property
    def seconds(self) -> float:
        return sum(run.placement.seconds for run in self.runs)

    @property
    def sort_key(self) -> tuple[float, str]:
        """Longest first; ties by run id."""
        return (-self.seconds, self.pretrain.run_id)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The cells, or parts of one cell, that one Tune trial works through in one warm worker group."""

    bundle_id: str
    group: WorkerGroup
    cells: tuple[Cell, ...]
    after: str = ""  # run_id of a pretraining in another bundle; this bundle holds only runs that start from it

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for cell in self.cells for run in (cell.children if self.after else cell.runs))

    @property
    def seconds(self) -> float:
        return LAUNCH_SECONDS + sum(run.placement.seconds for run in self.runs)
