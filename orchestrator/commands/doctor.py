"""The verb `doctor`: is this machine, its cluster and what a study asks for fit to run it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import Json, Storage

app = typer.Typer()


@app.command()
def doctor(
    study: Annotated[Path | None, typer.Argument(help="a study's YAML file, to look at what it asks for, too")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Look for what would stop a study: versions, token, storage, ports, GPUs, tracker, datasets. Exit 1 where it finds it."""
    from orchestrator.doctor import examine
    from orchestrator.prepare import storage_root
    from orchestrator.spec.study import read_study

    file = read_study(study) if study else None
    lines = examine.examine(examine.checks(file, storage_root(examine.storage_of(file, storage))))
    print(json.dumps(examine.as_data(lines), indent=1) if as_json else examine.as_text(lines), flush=True)
    raise typer.Exit(0 if examine.is_well(lines) else 1)
