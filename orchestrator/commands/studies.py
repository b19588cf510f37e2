"""Commands on a study: run, plan, status, stop, report, sync."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Annotated

import typer

import orchestrator.study
from orchestrator.commands.files import writing
from orchestrator.commands.options import Json, Storage, StudyPath, StudyPathOrName
from orchestrator.finish import write_report
from orchestrator.plan.records import PlanFile
from orchestrator.prepare import prepare, storage_root
from orchestrator.spec.values import NAME
from orchestrator.store.layout import Store
from orchestrator.store.lease import is_alive, lease_of
from orchestrator.store.state import State
from orchestrator.store.status import as_text, survey
from orchestrator.store.stop import request_stop
from orchestrator.tracking.mlflow import Follower, tracking_uri
from vitmodel.config.base import UserError

app = typer.Typer()


@app.command()
def run(study: StudyPath, storage: Storage = None) -> None:
    """Run a study; run it again to resume it.

    Runs that are done are skipped, failed ones are retried. Starts Ray on this machine, or uses the cluster of RAY_ADDRESS.

    \b
    Exit codes:
      0  all runs are done
      1  some runs failed, diverged, were skipped or were stopped
      2  user error: nothing ran
      3  the cluster never offered the resources that a run needs
      4  over budget
      5  the study is locked by another live driver
    """
    raise typer.Exit(orchestrator.study.run(study, storage=storage))


@app.command()
def plan(study: StudyPath, storage: Storage = None, as_json: Json = False) -> None:
    """Print the runs of a study and their cost, run nothing.

    For each pretraining: parameters, images, steps, training FLOPs, worker group, memory, time. Then totals: what sharing
    saves, hours, disk. Needs neither Ray nor a GPU.
    """
    raise typer.Exit(orchestrator.study.run(study, storage=storage, plan_only=True, as_json=as_json))


Watch = Annotated[
    float | None,
    typer.Option("--watch", metavar="SECONDS", help="Repeat every SECONDS until the driver ends.", min=0.1),
]


@app.command()
def status(study: StudyPathOrName, storage: Storage = None, as_json: Json = False, watch: Watch = None) -> None:
    """Show driver, progress and failures of a study.

    One line per run: state, attempts, run id, name, step, last heartbeat, cause of a failure. Then the driver and the time
    left. Reads the storage folder only, so it also works after the driver has died.
    """
    store, planned = _planned(study, storage)
    while True:
        current = (store.plan(planned.study) or planned) if _is_driven(store, planned) else planned
        result = survey(store, current)
        print(json.dumps(result.as_data(), indent=1) if as_json else as_text(result), flush=True)
        if watch is None or result.is_over:
            return
        time.sleep(watch)
        print()


def _planned(study: Path, storage: str | None) -> tuple[Store, PlanFile]:
    """The store, and the plan of the study's file or, for a name, the plan that was run last."""
    is_name = re.fullmatch(NAME, str(study)) is not None
    if study.exists() or (storage is None and not is_name):
        prepared = prepare(study, storage)
        return prepared.store, prepared.plan_file([])
    if storage is None:
        raise UserError("no such file; to name a study by its name, give its storage folder with --storage", file=str(study))
    store = Store(storage_root(storage))
    plan = store.plan(str(study)) if is_name else None
    if plan is None:
        known = sorted(path.parent.name for path in store.root.glob("studies/*/plan.json"))
        allowed = ", ".join(known) or "none; no study was started in this folder"
        raise UserError(f"no file and no study {str(study)!r}", file=str(store.root), allowed=allowed)
    return store, plan


def _is_driven(store: Store, plan: PlanFile) -> bool:
    """Whether a live driver runs the study: its plan is then used instead of the current content of the file."""
    lease = lease_of(store.study(plan.study))
    return lease is not None and is_alive(lease)


@app.command()
def stop(study: StudyPathOrName, storage: Storage = None) -> None:
    """Stop a running study after its runs have saved.

    Every run saves a checkpoint, then the driver ends. `vitscale run` resumes the study.
    """
    store, planned = _planned(study, storage)
    if not _is_driven(store, planned):
        raise UserError(f"no live driver runs study {planned.study!r}: there is nothing to stop", file=str(store.root))
    follow = f"vitscale status {planned.study} --storage {store.root} --watch 5"
    request = "`vitscale stop` (every run saves a checkpoint first)"
    is_new = request_stop(store.study(planned.study), State.STOPPED, request)
    print(f"{planned.study} {'is stopping' if is_new else 'was already stopping'}; follow it with: {follow}")


@app.command()
def report(study: StudyPath, storage: Storage = None, as_json: Json = False) -> None:
    """Write results.csv and report.html from all runs so far.

    Also writes findings.json and, where there is something to show, claims.csv and figures/, and prints their paths.
    With --json it prints the rows and writes nothing. A study writes its report itself when it ends.
    """
    from orchestrator import results

    prepared = prepare(study, storage)
    if as_json:
        print(results.collect(prepared.store.root, prepared.plan.study).to_json(orient="records", indent=1))
        return
    with writing(prepared.store.study(prepared.plan.study)):
        files = write_report(prepared).files
    print("\n".join(map(str, files)))


@app.command()
def sync(study: StudyPath, storage: Storage = None) -> None:
    """Send results to MLflow that it does not have yet.

    For a study that ended while MLflow was unavailable. Nothing is sent twice.
    """
    prepared = prepare(study, storage)
    name, store = prepared.file.study.name, prepared.store
    planned = store.plan(name)
    if planned is None:
        raise UserError(f"study {name!r} was never started in this storage folder: nothing to send", file=str(store.root))
    for facts in planned.runs:
        store.run(facts.run_id).result()  # a damaged file is reported here, by its name
    uri = tracking_uri(prepared.file.study.tracking.mlflow, store)
    if not Follower(store, planned, uri).finish([], {}):
        raise UserError("MLflow is unavailable; start it or correct the address, then run sync again", field=uri)
    print(f"{uri}: has all results of study {name}")
