"""A study before it runs: read and planned, its tables imported, its datasets made, its addresses checked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.plan import budget
from orchestrator.plan.datasets import PLANNING, describe_missing
from orchestrator.plan.make import Plan, make_bundles, make_plan
from orchestrator.plan.records import PlanFile
from orchestrator.plan.render import plan_file
from orchestrator.plan.runs import Bundle, Cell, Run, WorkerGroup
from orchestrator.secrets import as_named, expand_environment, redact
from orchestrator.spec.integrations import check_tracker
from orchestrator.spec.schema import ExternalData
from orchestrator.spec.study import StudyFile, read_study
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from vitmodel.config.base import UserError
from vitmodel.data.remote import RetryPolicy


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A study that has been read and planned."""

    file: StudyFile
    store: Store
    plan: Plan

    @cached_property
    def datasets(self) -> dict[str, str]:
        """Folder or URL of every dataset, with the names of variables in place of their values."""
        return {name: as_named(root, self.file.variables) for name, root in self.plan.datasets.items()}

    def plan_file(self, bundles: list[Bundle]) -> PlanFile:
        """What plan.json holds, with the bundles that are launched."""
        return plan_file(self.plan, bundles, self.datasets, tuple(table.name for table in self.file.study.imports))

    def local_bundles(self) -> list[Bundle]:
        """The bundles as they would be on this machine, for a plan that is only printed."""
        resources, nodes = self.file.study.resources, budget.local_node()
        groups = {cell.pretrain.placement.group for cell in self.plan.cells}
        limit = resources.max_concurrent
        if limit == "auto":
            slots = {group: 1 if group.gpus_per_worker else budget.slots(group, nodes) for group in groups}
        else:
            slots = dict.fromkeys(groups, limit)
        return make_bundles(self.plan.cells, slots, resources.bundle)

    def open_bundles(self, cells: tuple[Cell, ...], slots: dict[WorkerGroup, int]) -> list[Bundle]:
        """The bundles of these cells, for a cluster with these slots, that have an open run."""
        bundles = make_bundles(cells, slots, self.file.study.resources.bundle)
        return [bundle for bundle in bundles if self.has_open_run(bundle.runs)]

    def open_cells(self) -> tuple[Cell, ...]:
        """Cells with a run that has no result yet."""
        return tuple(cell for cell in self.plan.cells if self.has_open_run(cell.runs))

    def has_open_run(self, runs: Iterable[Run]) -> bool:
        """Whether any of these has no result yet."""
        return any(self.store.run(run.run_id).state() is not State.DONE for run in runs)


def prepare(path: Path, storage: str | None = None, retry_policy: RetryPolicy = PLANNING) -> Prepared:
    """Read and plan a study; `retry_policy` is for datasets behind URLs. Raises UserError; touches nothing."""
    file = read_study(path)
    store = Store(storage_root(storage or expand_environment(file.study.storage.path)))
    plan = make_plan(file, store.root, retry_policy)
    return Prepared(file=file, store=store, plan=plan)


def storage_root(path: str) -> Path:
    """The storage folder as an absolute path. Inside a Ray job the working directory is a temporary copy, so a relative path
    counts from the home folder there."""
    base = Path.home() / "vitscale" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else Path.cwd()
    return (base / Path(path).expanduser()).absolute()


def pack_missing(prepared: Prepared, storage: str | None) -> Prepared:
    """Pack the described datasets whose downloads exist, then plan again with their indexes."""
    from orchestrator.execution import packing

    packed = packing.pack_missing(prepared.file, prepared.plan.datasets, prepared.plan.missing_indexes)
    return prepare(Path(prepared.file.tree.file), storage, RetryPolicy()) if packed else prepared


def refuse_missing_indexes(prepared: Prepared) -> None:
    """Raise UserError where a dataset was planned from the study file alone, because its index does not exist."""
    for name, why in prepared.plan.missing_indexes.items():
        raise prepared.file.tree.error(
            describe_missing(redact(why, prepared.file.variables), prepared.datasets[name]),
            ("datasets", name, "url"),
            "a folder made by `vitscale data pack`",
        )


def import_tables(prepared: Prepared) -> None:
    """Import the tables next to the study file. Raises UserError with the line of the table."""
    from orchestrator import results
    from orchestrator.results import imports

    folder = Path(prepared.file.tree.file).parent
    for number, spec in enumerate(prepared.file.study.imports):
        if spec.table is None:
            imports.load(prepared.store.root, spec.name, results.COLUMNS)
            continue
        table = folder / spec.table
        if not table.is_file():
            raise prepared.file.tree.error(
                f"no table {table}", ("imports", number, "table"), "a CSV, relative to the study file"
            )
        imports.import_csv(
            prepared.store.root,
            table,
            name=spec.name,
            source=spec.source,
            columns=spec.columns,
            constants=spec.constants,
            times=spec.times,
            dtypes=results.COLUMNS,
        )


def check_addresses(file: StudyFile) -> None:
    """Check that variables which are read later, in other threads, are set and valid. Raises UserError."""
    try:
        check_tracker(expand_environment(file.study.tracking.mlflow))
    except (UserError, ValueError) as error:
        raise file.tree.error(getattr(error, "message", str(error)), ("tracking", "mlflow")) from None
    if file.study.notify:
        try:
            expand_environment(file.study.notify.webhook)
        except UserError as error:
            raise file.tree.error(error.message, ("notify", "webhook")) from None


def make_datasets(prepared: Prepared, console: Any) -> None:
    """Generate the generated datasets that do not exist yet."""
    from vitmodel.data.index import INDEX_FILE, load_index
    from vitmodel.data.shards import pack

    for name, spec in prepared.file.study.datasets.items():
        root = Path(prepared.plan.datasets[name])
        if isinstance(spec, ExternalData):
            continue
        if (root / INDEX_FILE).exists():
            load_index(root)  # raises UserError where the shards have changed
            continue
        began = time.perf_counter()
        index = pack(spec, root)
        samples, seconds = sum(split.samples for split in index.splits.values()), time.perf_counter() - began
        console.print(f"packed {name}: {samples:,} images of {index.classes} classes in {seconds:.1f} s")
