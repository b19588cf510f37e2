"""The orders of a worker group: the frozen models that travel from the driver to the workers of one bundle."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from orchestrator.plan.records import Record, RunFacts
from orchestrator.plan.runs import WorkerGroup
from orchestrator.spec.data_policy import CacheSize
from orchestrator.spec.fault_tolerance import Checkpoint, Retries
from orchestrator.store.layout import RunFolder, Store
from orchestrator.store.records import ResizeRequest, RunRecord, read
from vitmodel.config.run import RunConfig


class RunOrder(Record):
    """One run of a bundle."""

    config: RunConfig
    facts: RunFacts
    data_root: str  # folder or URL of its dataset, of an import the file; may name a variable as `${env:NAME}`
    earlier_attempts: int  # attempts of earlier sessions, which do not count against the retry budgets

    @property
    def run_id(self) -> str:
        return self.facts.run_id

    @property
    def record(self) -> RunRecord:
        """What config.json holds."""
        return RunRecord(config=self.config, facts=self.facts)


class BundleOrders(Record):
    """All that the worker group of one bundle needs to know."""

    bundle_id: str
    study: str
    session: str  # token of the driver's lease
    storage: str
    group: WorkerGroup
    sizes: tuple[int, ...]  # numbers of workers at which the global batch of every run is exact, smallest first
    device_peak_flops: float  # FLOP/s of one GPU, or of one CPU core
    retries: Retries
    checkpoint: Checkpoint
    cache: CacheSize
    skip_up_to: float  # share of bad samples that a run may skip
    stall_seconds: float  # without progress for this long a group is restarted
    started: float  # Unix time at which the driver launched the bundles
    variables: tuple[str, ...]  # environment variables that the study names; each worker reads their values itself
    git: str
    runs: tuple[RunOrder, ...]

    @cached_property
    def store(self) -> Store:
        return Store(Path(self.storage))

    @property
    def study_folder(self) -> Path:
        return self.store.study(self.study)

    def folder(self, order: RunOrder) -> RunFolder:
        """The store's folder of one of the runs."""
        return self.store.run(order.run_id)

    @property
    def is_elastic(self) -> bool:
        return self.group.max_workers > 0

    @property
    def resize_file(self) -> Path:
        """Where the driver's side requests another number of workers (ResizeRequest)."""
        return self.study_folder / "bundles" / f"{self.bundle_id}.resize.json"

    def wanted_workers(self) -> int:
        """The number of workers that an elastic group was requested to restart with; 0 without a request."""
        request = read(self.resize_file, ResizeRequest) if self.is_elastic else None
        return request.workers if request else 0

    @property
    def group_failures(self) -> int:
        """How often a worker group may fail before its bundle ends: every retry of every run, and one more."""
        retries = self.retries
        return (retries.failures + retries.preemptions + retries.oom + retries.stalls + 1) * len(self.runs)
