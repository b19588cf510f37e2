"""`python -m orchestrator.study FILE`: a study from its file to its report. The same command is its resume.

    read -> plan -> (refuse | print | go on) -> prepare data -> launch -> collect -> report

Exit codes: 0 all runs done; 1 some failed, diverged, were skipped or stopped; 2 the user's error, said before anything runs;
3 the cluster never offered what a run needs; 4 the budget is spent; 5 another live driver holds this study.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

from orchestrator.finish import finish, forecast
from orchestrator.plan import budget
from orchestrator.plan.datasets import PLANNING
from orchestrator.plan.make import make_bundles
from orchestrator.plan.render import plan_as_text
from orchestrator.plan.runs import Cell
from orchestrator.prepare import (
    Prepared,
    bring_in_tables,
    check_addresses,
    make_datasets,
    pack_missing,
    prepare,
    refuse_missing_indexes,
)
from orchestrator.secrets import redact
from orchestrator.store.lease import Lease, LeaseHeldError
from orchestrator.store.state import STOP_FILE, State
from vitmodel.config.base import UserError
from vitmodel.data.remote import Patience
from vitmodel.files import write_json

DONE, SOME_FAILED, USER_ERROR, NO_CLUSTER, OVER_BUDGET, HELD = range(6)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Prints one message for what a user got wrong."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.study", description="Run a study, or go on with it.")
    parser.add_argument("study", type=Path, help="the study's YAML file")
    parser.add_argument("--plan", action="store_true", help="print what would run and what it costs, then stop")
    parser.add_argument("--json", action="store_true", help="with --plan: as JSON")
    parser.add_argument("--storage", default=None, help="folder of all runs, in place of the file's storage.path")
    options = parser.parse_args(arguments)
    return run(options.study, storage=options.storage, plan_only=options.plan, as_json=options.json)


def run(path: Path, *, storage: str | None = None, plan_only: bool = False, as_json: bool = False) -> int:
    """Plan a study, and unless only the plan is wanted, run it. Returns the exit code."""
    try:
        prepared = prepare(path, storage, PLANNING if plan_only else Patience())
        if plan_only:
            print(_plan_text(prepared, as_json))
            return DONE
        if prepared.plan.missing_indexes:
            prepared = pack_missing(prepared, storage)
        return _run(prepared)
    except UserError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return USER_ERROR
    except LeaseHeldError as error:
        print(f"error: {error}", file=sys.stderr)
        return HELD


def _plan_text(prepared: Prepared, as_json: bool) -> str:
    done = sum(prepared.store.run(run.run_id).state() is State.DONE for run in prepared.plan.runs)
    if as_json:
        return json.dumps({**prepared.data, "done": done}, indent=1)
    return plan_as_text(prepared.plan, prepared.bundles, done)


def _run(prepared: Prepared) -> int:
    """Everything after the plan: checks, lease, data, launch, report."""
    from orchestrator.execution.capacity import check_room
    from orchestrator.execution.launch import on_cluster

    study = prepared.file.study
    refuse_missing_indexes(prepared)
    cells = prepared.open_cells()
    if cells and not on_cluster() and not study.resources.wait_minutes:
        check_room(prepared.plan, budget.local_node())
    planned = prepared.data["totals"]["gpu_hours"]
    for gpu_hours, words in study.budget.gpu_limits:
        if planned > gpu_hours:
            print(f"over budget: the plan needs about {planned:g} GPU-hours, the limit is {words}", file=sys.stderr)
            return OVER_BUDGET
    check_addresses(prepared.file)
    prepared.store.check_writable()
    if study.imports:
        bring_in_tables(prepared)
    lease = Lease(prepared.store.study(study.name), on_lost=_lost)
    lease.take()
    try:
        return _drive(prepared, cells)
    finally:
        lease.release()


def _lost() -> None:
    """Another driver has taken the study over, this one having been silent for too long: it ends, and its groups with it."""
    print("error: another driver has taken the study over", file=sys.stderr, flush=True)
    os._exit(HELD)


def _drive(prepared: Prepared, cells: tuple[Cell, ...]) -> int:
    from rich.console import Console

    from orchestrator.execution.capacity import NoClusterError, concurrency, wait_for_room
    from orchestrator.execution.launch import launch, ray_session
    from orchestrator.execution.signals import stopping
    from orchestrator.monitor.follow import Follow

    study, store = prepared.file.study, prepared.store
    console = Console(highlight=False)
    started = time.time()
    folder = store.study(study.name)
    (folder / STOP_FILE).unlink(missing_ok=True)
    write_json(folder / "plan.json", prepared.data)
    runs, all_cells = len(prepared.plan.runs), len(prepared.plan.cells)
    console.print(f"{study.name}: {runs} runs, {len(cells)} of {all_cells} cells open, storage {store.root}")
    if study.targets:
        forecast(prepared)
    follow = Follow(prepared.file.study, store, prepared.data, console, prepared.file.variables)
    if cells:
        make_datasets(prepared, console)
        try:
            with ray_session() as nodes:
                room = wait_for_room(prepared.plan, nodes, study.resources.wait_minutes)
                slots = concurrency(cells, study, room)
                bundles = [b for b in make_bundles(cells, slots, study.resources.bundle) if prepared.has_open_run(b.runs)]
                with follow.in_background(bundles, slots, len(room)), stopping(follow.stop):
                    launch(study, prepared.plan, bundles, slots, store)
        except NoClusterError as error:
            print(f"error: {error}", file=sys.stderr)
            follow.notifier.say("failed", Counter(), reason=str(error))
            follow.notifier.close()
            return NO_CLUSTER
    ends = finish(prepared, follow, started, worked=bool(cells))
    if set(ends) <= {State.DONE}:
        return DONE
    return OVER_BUDGET if ends[State.BUDGET] else SOME_FAILED


if __name__ == "__main__":
    sys.exit(main())
