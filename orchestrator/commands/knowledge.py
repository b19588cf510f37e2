"""Verbs on what rows say: import-results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from orchestrator import study as studies
from orchestrator.commands.options import Storage
from orchestrator.questions import NAME
from vitmodel.config import UserError

app = typer.Typer()


@app.command("import-results")
def import_results(
    table: Annotated[Path, typer.Argument(help="CSV, a row a result; columns as in docs/laws.md")],
    storage: Storage = None,
    name: Annotated[str | None, typer.Option(help="what studies call it under `imports`; default: the file's name")] = None,
    source: Annotated[str, typer.Option(help="where the numbers come from; stands in every row")] = "",
    column: Annotated[list[str] | None, typer.Option(help="OURS=THEIRS, where a column has another name; repeatable")] = None,
) -> None:
    """Bring a table of someone's results into the storage folder, as rows that studies can name under `imports`."""
    from orchestrator import imports, results

    label = name or re.sub(r"[^a-z0-9._-]", "-", table.stem.lower())
    if not re.fullmatch(NAME, label):
        raise UserError(f"{label!r} is no name", field="--name", allowed=NAME)
    pairs = [item.partition("=") for item in column or []]
    if wrong := [item for item, pair in zip(column or [], pairs, strict=True) if not (pair[0] and pair[2])]:
        raise UserError(f"{wrong[0]!r}", field="--column", allowed="OURS=THEIRS, such as variant=model")
    root = studies.storage_root(storage or "runs")
    count = imports.bring_in(
        root,
        table,
        name=label,
        source=source,
        columns={ours: theirs for ours, _, theirs in pairs},
        dtypes=results.COLUMNS,
    )
    print(f"{count} rows in {imports.folder(root, label)}; a study reads them with `imports: [{{name: {label}}}]`")
