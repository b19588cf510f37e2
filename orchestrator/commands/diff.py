"""The verb that puts two runs or two studies side by side: diff."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.commands.options import Json, Storage
from orchestrator.prepare import storage_root
from orchestrator.spec.study import read_study
from orchestrator.store import diff as differ
from orchestrator.store.diff import Change, Difference
from orchestrator.store.find import find_run
from orchestrator.store.layout import Store
from vitmodel.config.base import UserError

app = typer.Typer()
STUDY_FILES = (".yaml", ".yml")

Side = Annotated[str, typer.Argument(help="a run_id or its first letters, or a study's YAML file")]


@app.command()
def diff(first: Side, second: Side, storage: Storage = None, as_json: Json = False) -> None:
    """The configuration keys in which two runs or two studies differ; for runs also their metrics side by side."""
    kinds = [Path(name).suffix in STUDY_FILES for name in (first, second)]
    if kinds[0] != kinds[1]:
        raise UserError(f"{first} and {second} are of two kinds", allowed="two runs, or two study files")
    if kinds[0]:
        found = differ.studies(read_study(Path(first)).study, read_study(Path(second)).study, (first, second))
    else:
        store = Store(storage_root(storage or "runs"))
        found = differ.runs(find_run(first, store), find_run(second, store))
    print(json.dumps(asdict(found), indent=1) if as_json else as_text(found))


def as_text(found: Difference) -> str:
    """Three aligned columns: the key and both values."""
    blocks = {"": found.changed, "made with": found.made_with, "metrics": found.metrics}
    lines = [_block(title, changes, (found.first, found.second)) for title, changes in blocks.items() if changes or not title]
    return "\n\n".join(lines)


def _block(title: str, changes: tuple[Change, ...], names: tuple[str, str]) -> str:
    if not changes:
        return f"{names[0]} and {names[1]} have the same configuration"
    rows = [(title, *names), *((change.key, _shown(change.first), _shown(change.second)) for change in changes)]
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows)


def _shown(value: Any) -> str:
    if value is differ.ABSENT:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
