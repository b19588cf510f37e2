"""A study before it runs: read and planned; its tables imported, its datasets made, its addresses checked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.plan import budget
from orchestrator.plan.datasets import PLANNING, said_of_missing
from orchestrator.plan.make import Plan, make_bundles, make_plan
from orchestrator.plan.render import plan_as_data
from orchestrator.plan.runs import Bundle, Cell, Run
from orchestrator.secrets import as_named, expand_environment, redact
from orchestrator.spec.integrations import check_tracker
from orchestrator.spec.schema import ExternalData
from orchestrator.spec.study import StudyFile, read_study
from orchestrator.store.layout import Store
from orchestrator.store.state import State
from vitmodel.config.base import UserError
from vitmodel.data.remote import Patience


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A study that has been read and planned."""

    file: StudyFile
    store: Store
    plan: Plan
    bundles: list[Bundle]

    @cached_property
    def data(self) -> dict[str, Any]:
        """The plan as plain data, as plan.json has it."""
        data = plan_as_data(self.plan, self.bundles)
        variables = self.file.variables
        data["datasets"] = {name: as_named(root, variables) for name, root in data["datasets"].items()}
        return {**data, "imports": [table.name for table in self.file.study.imports]}

    def open_cells(self) -> tuple[Cell, ...]:
        """Cells with a run that has no result yet."""
        return tuple(cell for cell in self.plan.cells if self.has_open_run(cell.runs))

    def has_open_run(self, runs: Iterable[Run]) -> bool:
        """Whether any of these has no result yet."""
        return any(self.store.run(run.run_id).state() is not State.DONE for run in runs)


def prepare(path: Path, storage: str | None = None, patience: Patience = PLANNING) -> Prepared:
    """Read and plan, with so much patience for datasets behind URLs. Raises UserError; touches nothing."""
    file = read_study(path)
    store = Store(storage_root(storage or expand_environment(file.study.storage.path)))
    plan = make_plan(file, store.root, patience)
    nodes = budget.local_node()
    groups = {cell.pretrain.placement.group for cell in plan.cells}
    limit = file.study.resources.max_concurrent
    slots = (
        {g: 1 if g.gpus_per_worker else budget.slots(g, nodes) for g in groups}
        if limit == "auto"
        else dict.fromkeys(groups, limit)
    )
    return Prepared(file=file, store=store, plan=plan, bundles=make_bundles(plan.cells, slots, file.study.resources.bundle))


def storage_root(path: str) -> Path:
    """The storage folder as an absolute path. Inside a Ray job the working directory is a copy that is thrown away,
    so a relative path is taken from the home folder there."""
    base = Path.home() / "vitscale" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else Path.cwd()
    return (base / Path(path).expanduser()).absolute()


def pack_missing(prepared: Prepared, storage: str | None) -> Prepared:
    """Pack what the study describes and has the downloads of, then plan again: a packed dataset's identity is in its index."""
    from orchestrator.execution import packing

    packed = packing.pack_missing(prepared.file, prepared.plan.datasets, prepared.plan.missing_indexes)
    return prepare(Path(prepared.file.tree.file), storage, Patience()) if packed else prepared


def refuse_missing_indexes(prepared: Prepared) -> None:
    """Raises UserError where a dataset was planned from what the study says of it, and is not there."""
    for name, why in prepared.plan.missing_indexes.items():
        raise prepared.file.tree.error(
            said_of_missing(redact(why, prepared.file.variables), prepared.data["datasets"][name]),
            ("datasets", name, "url"),
            "a folder made by `vitscale data pack`",
        )


def bring_in_tables(prepared: Prepared) -> None:
    """Import the tables that stand beside the study file. Raises UserError, with the line of the table."""
    from orchestrator import results
    from orchestrator.results import imports

    folder = Path(prepared.file.tree.file).parent
    for number, asked in enumerate(prepared.file.study.imports):
        if asked.table is None:
            imports.load(prepared.store.root, asked.name, results.COLUMNS)
            continue
        table = folder / asked.table
        if not table.is_file():
            raise prepared.file.tree.error(f"no table {table}", ("imports", number, "table"), "a CSV, beside the study file")
        imports.bring_in(
            prepared.store.root,
            table,
            name=asked.name,
            source=asked.source,
            columns=asked.columns,
            dtypes=results.COLUMNS,
        )


def check_addresses(file: StudyFile) -> None:
    """Variables that are read later, in other threads, are set, and hold what may stand there."""
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
    """Generate what the study asks to be generated, where it is not there yet."""
    from vitmodel.data.index import INDEX_FILE, load_index
    from vitmodel.data.shards import pack

    for name, spec in prepared.file.study.datasets.items():
        root = Path(prepared.plan.datasets[name])
        if isinstance(spec, ExternalData):
            continue
        if (root / INDEX_FILE).exists():
            load_index(root)  # refuses one whose shards are not as they were
            continue
        began = time.perf_counter()
        index = pack(spec, root)
        samples, seconds = sum(split.samples for split in index.splits.values()), time.perf_counter() - began
        console.print(f"packed {name}: {samples:,} images of {index.classes} classes in {seconds:.1f} s")
