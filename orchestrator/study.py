"""`python -m orchestrator.study FILE`: a study from its file to its report. The same command resumes it.

    read -> plan -> (refuse | print | continue) -> prepare data -> launch -> collect -> report

Exit codes: 0 all runs done; 1 some failed, diverged, were skipped or stopped; 2 the user's error, reported before anything
runs; 3 the cluster never offered what a run needs; 4 the budget is spent; 5 another live driver holds the study.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.finish import finish, forecast
from orchestrator.plan import budget
from orchestrator.plan.datasets import PLANNING
from orchestrator.plan.render import plan_as_text, totals
from orchestrator.plan.runs import Cell
from orchestrator.prepare import (
    Prepared,
    check_addresses,
    import_tables,
    make_datasets,
    pack_missing,
    prepare,
    refuse_missing_indexes,
)
from orchestrator.secrets import redact
from orchestrator.store.lease import Lease, LeaseHeldError
from orchestrator.store.state import State
from orchestrator.store.stop import clear_stop
from vitmodel.config.base import UserError
from vitmodel.data.remote import RetryPolicy

if TYPE_CHECKING:
    from orchestrator.monitor.follow import Follow


class ExitCode(IntEnum):
    """Exit codes of every command that runs a study."""

    DONE = 0
    SOME_FAILED = 1
    USER_ERROR = 2
    NO_CLUSTER = 3
    OVER_BUDGET = 4
    LOCKED = 5


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.study", description="Run a study, or resume it.")
    parser.add_argument("study", type=Path, help="the study's YAML file")
    parser.add_argument("--plan", action="store_true", help="print what would run and what it costs, then exit")
    parser.add_argument("--json", action="store_true", help="with --plan: print JSON")
    parser.add_argument("--storage", default=None, help="folder of all runs; replaces storage.path of the file")
    options = parser.parse_args(arguments)
    return run(options.study, storage=options.storage, plan_only=options.plan, as_json=options.json)


def run(path: Path, *, storage: str | None = None, plan_only: bool = False, as_json: bool = False) -> ExitCode:
    """Plan a study and, unless `plan_only`, run it. Returns the exit code."""
    try:
        prepared = prepare(path, storage, PLANNING if plan_only else RetryPolicy())
        if plan_only:
            print(_plan_text(prepared, as_json))
            return ExitCode.DONE
        if prepared.plan.missing_indexes:
            prepared = pack_missing(prepared, storage)
        return _run(prepared)
    except UserError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return ExitCode.USER_ERROR
    except LeaseHeldError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.LOCKED


def _plan_text(prepared: Prepared, as_json: bool) -> str:
    done = sum(prepared.store.run(run.run_id).state() is State.DONE for run in prepared.plan.runs)
    bundles = prepared.local_bundles()
    if as_json:
        return json.dumps({**prepared.plan_file(bundles).as_data(), "done": done}, indent=1)
    return plan_as_text(prepared.plan, bundles, done)


def _run(prepared: Prepared) -> ExitCode:
    """Everything after the plan: checks, lease, data, launch, report."""
    from orchestrator.execution.capacity import check_capacity
    from orchestrator.execution.session import on_cluster

    study = prepared.file.study
    refuse_missing_indexes(prepared)
    cells = prepared.open_cells()
    if cells and not on_cluster() and not study.resources.wait_minutes:
        check_capacity(prepared.plan, budget.local_node())
    planned = totals(prepared.plan, []).gpu_hours
    for gpu_hours, limit in study.budget.gpu_limits:
        if planned > gpu_hours:
            print(f"over budget: the plan needs about {planned:g} GPU-hours, the limit is {limit}", file=sys.stderr)
            return ExitCode.OVER_BUDGET
    check_addresses(prepared.file)
    prepared.store.check_writable()
    if study.imports:
        import_tables(prepared)
    lease = Lease(prepared.store.study(study.name), on_lost=_exit_locked)
    lease.take()
    try:
        return _drive(prepared, cells)
    finally:
        lease.release()


def _exit_locked() -> None:
    """Another driver has taken over the study, because this one missed its heartbeats: it ends, and its groups with it."""
    print("error: another driver has taken over the study", file=sys.stderr, flush=True)
    os._exit(ExitCode.LOCKED)


def _drive(prepared: Prepared, cells: tuple[Cell, ...]) -> ExitCode:
    """Train the open cells, if there are any, then report. Called with the study's lease."""
    from rich.console import Console

    from orchestrator.execution.session import NoClusterError
    from orchestrator.monitor.follow import Follow

    study, store = prepared.file.study, prepared.store
    console = Console(highlight=False)
    started = time.time()
    clear_stop(store.study(study.name))
    plan = prepared.plan_file([])
    store.write_plan(plan)
    all_cells = len(prepared.plan.cells)
    console.print(f"{study.name}: {len(plan.runs)} runs, {len(cells)} of {all_cells} cells open, storage {store.root}")
    if study.targets:
        forecast(prepared)
    follow = Follow(study, store, plan, console, prepared.file.variables)
    if cells:
        make_datasets(prepared, console)
        try:
            _train(prepared, cells, follow)
        except NoClusterError as error:
            print(f"error: {error}", file=sys.stderr)
            follow.notifier.send("failed", Counter(), reason=str(error))
            follow.notifier.close()
            return ExitCode.NO_CLUSTER
    states = finish(prepared, follow, started, has_worked=bool(cells))
    if set(states) <= {State.DONE}:
        return ExitCode.DONE
    return ExitCode.OVER_BUDGET if states[State.BUDGET] else ExitCode.SOME_FAILED


def _train(prepared: Prepared, cells: tuple[Cell, ...], follow: Follow) -> None:
    """Work through the open bundles on the cluster. Raises NoClusterError."""
    from orchestrator.execution.capacity import concurrency, wait_for_capacity
    from orchestrator.execution.launch import launch
    from orchestrator.execution.session import ray_session
    from orchestrator.execution.signals import stopping

    study, store = prepared.file.study, prepared.store
    with ray_session() as live_nodes:
        nodes = wait_for_capacity(prepared.plan, live_nodes, study.resources.wait_minutes)
        slots = concurrency(cells, study, nodes)
        bundles = prepared.open_bundles(cells, slots)
        store.write_plan(prepared.plan_file(bundles))
        with follow.in_background(bundles, slots, len(nodes)), stopping(follow.stop):
            launch(study, prepared.plan, bundles, slots, store)


if __name__ == "__main__":
    sys.exit(main())
