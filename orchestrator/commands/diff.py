"""The command `diff`: compares two runs or two study files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from orchestrator.commands.console import print_table
from orchestrator.commands.options import Json, StoragePath
from orchestrator.prepare import storage_root
from orchestrator.spec.study import read_study
from orchestrator.store import diff
from orchestrator.store.diff import Change, Difference
from orchestrator.store.find import find_run
from orchestrator.store.layout import Store
from vitmodel.config.base import UserError

app = typer.Typer()
STUDY_FILES = (".yaml", ".yml")

SIDE_HELP = "A run id or its first characters, or the YAML file of a study."
First = Annotated[str, typer.Argument(metavar="FIRST", help=SIDE_HELP)]
Second = Annotated[str, typer.Argument(metavar="SECOND", help=SIDE_HELP)]


@app.command("diff")
def compare(first: First, second: Second, storage: StoragePath = "runs", as_json: Json = False) -> None:
    """Show the settings in which two runs or studies differ.

    Compares resolved configurations, with every default filled in. For runs it also shows differences in provenance (git
    state, package versions) and the metrics of both.
    """
    are_studies = [Path(name).suffix in STUDY_FILES for name in (first, second)]
    if are_studies[0] != are_studies[1]:
        raise UserError(f"a run cannot be compared with a study: {first}, {second}", allowed="two runs, or two study files")
    if are_studies[0]:
        difference = diff.studies(read_study(Path(first)).study, read_study(Path(second)).study, (first, second))
    else:
        store = Store(storage_root(storage))
        if not store.root.is_dir():
            raise UserError("no such storage folder", file=str(store.root), field="--storage")
        difference = diff.runs(find_run(first, store), find_run(second, store))
    if as_json:
        print(json.dumps(asdict(difference), indent=1))
    else:
        _print(difference)


def _print(difference: Difference) -> None:
    """A table for each part: the key and both values."""
    if difference.changed:
        _print_changes("configuration", difference.changed, difference)
    else:
        print(f"{difference.first} and {difference.second} have the same configuration")
    for title, changes in (("provenance", difference.provenance), ("metrics", difference.metrics)):
        if changes:
            print()
            _print_changes(title, changes, difference)


def _print_changes(title: str, changes: tuple[Change, ...], difference: Difference) -> None:
    table = Table(title, difference.first, difference.second, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for change in changes:
        table.add_row(change.key, _shown(change.first), _shown(change.second))
    print_table(table)


def _shown(value: Any) -> str:
    if value is diff.ABSENT:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
