"""Verbs on a study: run, plan, status, report, sync."""

from __future__ import annotations

import json

import typer

from orchestrator import study as studies
from orchestrator.commands.options import Json, Storage, StudyPath
from orchestrator.store import State
from orchestrator.tracking import Follower, tracking_uri
from vitmodel.config import UserError

app = typer.Typer()


@app.command()
def run(study: StudyPath, storage: Storage = None) -> None:
    """Run a study, or go on with it: the same command is the resume."""
    raise typer.Exit(studies.run(study, storage=storage))


@app.command()
def plan(study: StudyPath, storage: Storage = None, as_json: Json = False) -> None:
    """Print what would run, what is shared and what it costs. Needs no Ray and no GPU."""
    raise typer.Exit(studies.run(study, storage=storage, plan_only=True, as_json=as_json))


@app.command()
def status(study: StudyPath, storage: Storage = None, as_json: Json = False) -> None:
    """State, attempts and cause of every run, from the store alone."""
    prepared = studies.prepare(study, storage)
    rows = []
    for item in prepared.plan.runs:
        folder = prepared.store.run(item.run_id)
        reason = (folder.failure() or {}).get("reason", "").partition("\n")[0]
        row = {"run_id": item.run_id, "label": item.label, "state": str(folder.state()), "attempts": folder.attempts()}
        rows.append({**row, "reason": reason})
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['state']:9} {row['attempts']:2} {row['run_id']:24} {row['label']}  {row['reason']}".rstrip())
    print(f"{sum(row['state'] == State.DONE for row in rows)} of {len(rows)} runs done")


@app.command()
def report(study: StudyPath, storage: Storage = None, as_json: Json = False) -> None:
    """Collect the runs there are into results.csv and report.html."""
    from orchestrator import results

    prepared = studies.prepare(study, storage)
    if as_json:
        print(results.collect(prepared.store.root, prepared.plan.study).to_json(orient="records", indent=1))
        return
    for path in studies.write_report(prepared, {})[-1]:
        print(path)


@app.command()
def sync(study: StudyPath, storage: Storage = None) -> None:
    """Send to MLflow what it has not got yet."""
    prepared = studies.prepare(study, storage)
    uri = tracking_uri(prepared.file.study.tracking.mlflow, prepared.store)
    if not Follower(prepared.store, prepared.data, uri).finish([], {}):
        raise UserError(f"MLflow cannot be reached at {uri}")
