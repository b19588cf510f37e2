"""The plan as other processes read it: the frozen models behind plan.json and behind the facts of every run.

Fields are only ever added, with a default: plan files of earlier versions stay readable.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from orchestrator.plan.devices import Device
from orchestrator.plan.runs import Placement, Run, WorkerGroup

PLACEMENT = ("workers", "cpus_per_worker", "gpus_per_worker", "zero_stage")  # of a WorkerGroup, as MLflow and rows name them


class Record(BaseModel):
    """Base of what is read back from a file: immutable, types not converted, unknown keys (of a later version) ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class RunFacts(Record):
    """The part of a run's results row that is known before it runs, and its placement. Counts in images, FLOPs, steps."""

    run_id: str
    parent_id: str | None
    phase: Literal["pretrain", "import", "finetune", "probe"]
    family: str
    variant: str
    recipe: str
    objective: str  # empty for an import
    params: int
    forward_flops: int  # of one image
    dataset: str
    dataset_size: int | None  # None: unknown (imported weights)
    length: str
    epochs: float | None
    steps: int
    examples_seen: int
    train_flops: int
    pretrain_flops: int | None
    resolution: int
    shots: int | None
    seed: int
    label: str
    placement: Placement


class BundleFacts(Record):
    """One bundle of a plan. `runs` and `after` are given where a bundle holds only a part of its cell."""

    bundle_id: str
    group: WorkerGroup
    seconds: float
    cells: tuple[str, ...]  # run ids of their pretrainings
    runs: tuple[str, ...] = ()
    after: str = ""


class Totals(Record):
    """Sums over a plan."""

    runs: int
    cells: int
    bundles: int
    train_flops: int
    naive_train_flops: int  # where every fine-tune and probe pretrains for itself
    sharing_saves: float
    gpu_hours: float
    core_hours: float
    cost: float | None
    largest_memory_bytes: int  # of one worker
    weights_bytes: int
    largest_checkpoint_bytes: int


class PlanFile(Record):
    """plan.json."""

    study: str
    totals: Totals
    device: Device
    datasets: dict[str, str]
    missing_indexes: tuple[str, ...] = ()
    bundles: tuple[BundleFacts, ...]  # those that were launched; of `vitscale plan`: those for this machine
    runs: tuple[RunFacts, ...]
    imports: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """The plan as plain data for JSON. `runs` and `after` of a bundle are left out where it holds whole cells."""
        data = self.model_dump(mode="json")
        for bundle in data["bundles"]:
            if not bundle["after"]:
                del bundle["runs"], bundle["after"]
        return data


def run_facts(run: Run) -> RunFacts:
    """The facts of a planned run."""
    config = run.config
    is_import = config.phase == "import"
    return RunFacts(
        run_id=run.run_id,
        parent_id=config.parent,
        phase=config.phase,
        family=config.model.family,
        variant=run.variant,
        recipe=run.recipe,
        objective="" if is_import else config.objective.kind,
        params=run.params,
        forward_flops=run.forward_flops,
        dataset=run.dataset,
        dataset_size=config.data.size or None,
        length=run.length,
        epochs=None if is_import else round(run.epochs, 4),
        steps=config.steps,
        examples_seen=run.examples_seen,
        train_flops=run.train_flops,
        pretrain_flops=run.pretrain_flops,
        resolution=config.image_size,
        shots=config.shots,
        seed=config.seed,
        label=run.label,
        placement=run.placement.model_copy(update={"seconds": round(run.placement.seconds, 1)}),
    )
