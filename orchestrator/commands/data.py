"""Verbs on datasets: pack, verify."""

from __future__ import annotations

from pathlib import Path

import typer

from orchestrator import study as studies
from orchestrator.commands.options import Storage, StudyPath
from orchestrator.schema import ExternalData
from vitmodel.config import UserError

app = typer.Typer(no_args_is_help=True, help="Pack and verify datasets of WebDataset shards.")


@app.command("pack")
def pack(study: StudyPath, name: str, storage: Storage = None) -> None:
    """Generate one of a study's datasets into its storage folder."""
    from vitmodel.data import shards

    prepared = studies.prepare(study, storage)
    spec = prepared.file.study.datasets.get(name)
    if spec is None or isinstance(spec, ExternalData):
        raise UserError(f"{name} is no generated dataset of this study", allowed=", ".join(prepared.plan.datasets))
    root = Path(prepared.plan.datasets[name])
    index = shards.pack(spec, root)
    print(f"{root}: {', '.join(f'{split} {part.samples:,}' for split, part in index.splits.items())}")


@app.command("verify")
def verify(folder: Path) -> None:
    """Check every byte of a packed dataset against its index."""
    from vitmodel.data import shards

    problems = shards.verify(folder)
    print("\n".join(problems) or "whole")
    raise typer.Exit(1 if problems else 0)
