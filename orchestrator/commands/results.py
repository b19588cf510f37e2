"""Verbs on what rows say: import-results, fit, next."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import Json, Storage, StudyPath
from orchestrator.prepare import prepare, storage_root
from orchestrator.spec.claims import NAME
from vitmodel.config.base import UserError

if TYPE_CHECKING:
    import pandas as pd

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
    from orchestrator import results
    from orchestrator.results import imports

    label = name or re.sub(r"[^a-z0-9._-]", "-", table.stem.lower())
    if not re.fullmatch(NAME, label):
        raise UserError(f"{label!r} is no name", field="--name", allowed=NAME)
    pairs = [item.partition("=") for item in column or []]
    if wrong := [item for item, pair in zip(column or [], pairs, strict=True) if not (pair[0] and pair[2])]:
        raise UserError(f"{wrong[0]!r}", field="--column", allowed="OURS=THEIRS, such as variant=model")
    root = storage_root(storage or "runs")
    count = imports.import_csv(
        root,
        table,
        name=label,
        source=source,
        columns={ours: theirs for ours, _, theirs in pairs},
        dtypes=results.COLUMNS,
    )
    print(f"{count} rows in {imports.folder(root, label)}; a study reads them with `imports: [{{name: {label}}}]`")


@app.command()
def fit(
    rows: Annotated[Path, typer.Argument(help="a study's YAML file, or a CSV with a row a run")],
    *,
    x: Annotated[str, typer.Option(help="column of the x axis; a study: pretrain_flops or dataset_size")] = "pretrain_flops",
    y: Annotated[str, typer.Option(help="column of the error")] = "error",
    form: Annotated[str, typer.Option(help="auto, or a form's name")] = "auto",
    by: Annotated[str, typer.Option(help="columns, by comma, that tell curves apart; empty: one curve")] = "family,what",
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Fit scaling laws to finished rows: parameters with intervals, roll-out error, diagnostics."""
    from orchestrator.laws import render, tables

    frame = tables.read(rows) if rows.suffix.lower() == ".csv" else _collected(rows, storage)
    keys = [name.strip() for name in by.split(",") if name.strip()]
    found = tables.fit_groups(frame, x=x, y=y, form=form, by=keys)
    if as_json:
        print(json.dumps([tables.as_data(one) for one in found], indent=1))
        return
    for one in found:
        title = ", ".join(f"{name} {value}" for name, value in one.keys.items()) or "all rows"
        print(f"{title}: {y} over {x}")
        print(render.law_as_text(one.law) if one.law is not None else f"  no law: {one.refused}")


def _collected(study: Path, storage: str | None) -> pd.DataFrame:
    from orchestrator import results
    from orchestrator.laws import tables

    prepared = prepare(study, storage)
    return tables.comparable(results.collect(prepared.store.root, prepared.file.study.name))


@app.command("next")
def next_runs(
    study: StudyPath,
    storage: Storage = None,
    count: Annotated[int, typer.Option(min=1, help="how many runs to name for each target")] = 5,
    as_json: Json = False,
) -> None:
    """Name the runs that would narrow a target's forecast most for their cost. Trains nothing."""
    from orchestrator import results
    from orchestrator.verdicts import advice, evidence

    prepared = prepare(study, storage)
    file = prepared.file
    if not file.study.targets:
        raise file.tree.error("the study names no target", (), "a list of variant and dataset_size", missing="targets")
    frame = results.collect(prepared.store.root, file.study.name)
    claims = file.study.claims
    views = evidence.views(frame, claims, evidence.ceilings(frame, claims))
    found = [evidence.gather(frame, view, claims) for view in views]
    best = {t.label: advice.advise(file, prepared.store, found, t)[:count] for t in file.study.targets}
    if as_json:
        print(json.dumps([{**asdict(one), "gain": one.gain} for runs in best.values() for one in runs], indent=1))
        return
    for label, runs in best.items():
        nothing = ": it is done, or nothing cheaper would narrow its band"
        print(f"{label}{f'; its band spans a factor of {runs[0].now:.2f} now' if runs else nothing}")
        for one in runs:
            hours = f"{one.gpu_hours:.3g} GPU-hours" if one.gpu_hours else f"{one.core_hours:.3g} core-hours"
            where = "in the study" if one.in_study else "not in the study yet"
            print(f"  {one.run}: {hours}, a factor of {one.then:.2f} with it ({100 * one.gain:.0f}% narrower), {where}")
