"""Verbs on a study: run, plan, status, stop, report, sync."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator import study as studies
from orchestrator.commands.options import Json, Storage, StudyPath
from orchestrator.finish import write_report
from orchestrator.prepare import prepare, storage_root
from orchestrator.spec.claims import NAME
from orchestrator.store.layout import Store
from orchestrator.store.lease import is_alive
from orchestrator.store.state import State, ask_to_stop
from orchestrator.store.status import as_text, survey
from orchestrator.tracking.mlflow import Follower, tracking_uri
from vitmodel.config.base import UserError
from vitmodel.files import read_json

app = typer.Typer()


@app.command()
def run(study: StudyPath, storage: Storage = None) -> None:
    """Run a study, or go on with it: the same command is the resume."""
    raise typer.Exit(studies.run(study, storage=storage))


@app.command()
def plan(study: StudyPath, storage: Storage = None, as_json: Json = False) -> None:
    """Print what would run, what is shared and what it costs. Needs no Ray and no GPU."""
    raise typer.Exit(studies.run(study, storage=storage, plan_only=True, as_json=as_json))


Watch = Annotated[
    float | None, typer.Option("--watch", help="look again every so many seconds, until the driver ends", min=0.1)
]


@app.command()
def status(study: StudyPath, storage: Storage = None, as_json: Json = False, watch: Watch = None) -> None:
    """Who drives the study, and state, attempts, step and cause of every run. STUDY: its file or, with --storage, its name."""
    store, data = _planned(study, storage)
    while True:
        found = survey(store, store.plan(data["study"]) or data) if _is_driven(store, data) else survey(store, data)
        print(json.dumps(found.as_data(), indent=1) if as_json else as_text(found), flush=True)
        if watch is None or found.is_over:
            return
        time.sleep(watch)
        print()


def _planned(study: Path, storage: str | None) -> tuple[Store, dict[str, Any]]:
    """The store, and the plan of the study's file; where there is only a name, the plan that was run last."""
    if study.exists() or storage is None:
        prepared = prepare(study, storage)
        return prepared.store, prepared.data
    store = Store(storage_root(storage))
    found = store.plan(study.name) if re.fullmatch(NAME, str(study)) else None
    if found is None:
        known = sorted(path.parent.name for path in store.root.glob("studies/*/plan.json"))
        raise UserError(f"no file and no study called {study}", file=str(store.root), allowed=", ".join(known))
    return store, found


def _is_driven(store: Store, data: dict[str, Any]) -> bool:
    """Whether somebody is at it: then what they run counts, not what the file says by now."""
    held = read_json(store.study(data["study"]) / "lease.json")
    return bool(held) and is_alive(held)


@app.command()
def stop(study: StudyPath, storage: Storage = None) -> None:
    """Let every run save and the driver end. The same command goes on. STUDY: its file or, with --storage, its name."""
    store, data = _planned(study, storage)
    if not _is_driven(store, data):
        raise UserError(f"nobody is at work on {data['study']}", file=str(store.root))
    ask_to_stop(store.study(data["study"]), State.STOPPED, "`vitscale stop` (every run saves first)")
    print(f"{data['study']} stops; `vitscale status {data['study']} --storage {store.root} --watch 5` shows how")


@app.command()
def report(study: StudyPath, storage: Storage = None, as_json: Json = False) -> None:
    """Collect the runs there are into results.csv and report.html."""
    from orchestrator import results

    prepared = prepare(study, storage)
    if as_json:
        print(results.collect(prepared.store.root, prepared.plan.study).to_json(orient="records", indent=1))
        return
    for path in write_report(prepared, {})[-1]:
        print(path)


@app.command()
def sync(study: StudyPath, storage: Storage = None) -> None:
    """Send to MLflow what it has not got yet."""
    prepared = prepare(study, storage)
    uri = tracking_uri(prepared.file.study.tracking.mlflow, prepared.store)
    if not Follower(prepared.store, prepared.data, uri).finish([], {}):
        raise UserError(f"MLflow cannot be reached at {uri}")
