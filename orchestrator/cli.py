"""The `vitscale` command. Each verb is a few lines over the room that does the work."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import study as studies
from orchestrator.schema import ExternalData
from orchestrator.store import State
from orchestrator.tracking import Follower, tracking_uri
from vitmodel.config import UserError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="How does this vision model scale? One YAML file to the curves."
)
data_app = typer.Typer(no_args_is_help=True, help="Pack and verify datasets of WebDataset shards.")
app.add_typer(data_app, name="data")

StudyPath = Annotated[Path, typer.Argument(help="the study's YAML file")]
Storage = Annotated[str | None, typer.Option(help="folder of all runs, in place of the file's storage.path")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


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
    for path in studies.write_report(prepared, {})[1]:
        print(path)


@app.command()
def sync(study: StudyPath, storage: Storage = None) -> None:
    """Send to MLflow what it has not got yet."""
    prepared = studies.prepare(study, storage)
    uri = tracking_uri(prepared.file.study.tracking.mlflow, prepared.store)
    if not Follower(prepared.store, prepared.data, uri).finish([], {}):
        raise UserError(f"MLflow cannot be reached at {uri}")


@data_app.command("pack")
def data_pack(study: StudyPath, name: str, storage: Storage = None) -> None:
    """Generate one of a study's datasets into its storage folder."""
    from vitmodel.data.shards import pack

    prepared = studies.prepare(study, storage)
    spec = prepared.file.study.datasets.get(name)
    if spec is None or isinstance(spec, ExternalData):
        raise UserError(f"{name} is no generated dataset of this study", allowed=", ".join(prepared.plan.datasets))
    root = Path(prepared.plan.datasets[name])
    index = pack(spec, root)
    print(f"{root}: {', '.join(f'{split} {part.samples:,}' for split, part in index.splits.items())}")


@data_app.command("verify")
def data_verify(folder: Path) -> None:
    """Check every byte of a packed dataset against its index."""
    from vitmodel.data.shards import verify

    problems = verify(folder)
    print("\n".join(problems) or "whole")
    raise typer.Exit(1 if problems else 0)


def main() -> None:
    """Entry point: what a user got wrong is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(studies.USER_ERROR)
