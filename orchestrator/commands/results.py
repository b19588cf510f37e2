"""Commands on results: import-results, fit, next."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.commands.files import check_file, writing
from orchestrator.commands.options import Json, Storage, StoragePath, StudyPath
from orchestrator.prepare import prepare, storage_root
from orchestrator.spec.values import NAME
from vitmodel.config.base import UserError

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.verdicts.advice import Advice

app = typer.Typer()


@app.command("import-results")
def import_results(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV file, one row a result; columns as in docs/laws.md.")],
    *,
    storage: StoragePath = "runs",
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the import in studies. Default: the name of the file.")
    ] = None,
    source: Annotated[
        str, typer.Option(metavar="TEXT", help="Origin of the numbers, stored in every row. Default: the file name.")
    ] = "",
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="Our name of a column, and its name in TABLE. Can be repeated."),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=VALUE", help="A value that all rows have, such as family=vit. Can be repeated."),
    ] = None,
    times: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=FACTOR", help="A factor to our unit, such as params=1e6. Can be repeated."),
    ] = None,
) -> None:
    """Import published results from a CSV file.

    The rows are stored in the storage folder. A study uses them with `imports: [{name: NAME}]`. An import of the same name
    is replaced.
    """
    from orchestrator import results
    from orchestrator.results import imports

    label = name or re.sub(r"[^a-z0-9._-]", "-", table.stem.lower())
    if not re.fullmatch(NAME, label):
        raise UserError(f"invalid name {label!r}", field="--name", allowed="1 to 64 of a-z 0-9 . _ -, not starting with a dot")
    root = storage_root(storage)
    check_file(table)
    columns, constants = (
        _pairs("--column", column, "OURS=THEIRS, such as variant=model"),
        _pairs("--constant", constant, "OURS=VALUE, such as family=vit"),
    )
    factors = {
        ours: _positive("--times", factor)
        for ours, factor in _pairs("--times", times, "OURS=FACTOR, such as params=1e6").items()
    }
    with writing(root, "--storage"):
        count = imports.import_csv(
            root,
            table,
            name=label,
            source=source,
            columns=columns,
            constants=constants,
            times=factors,
            dtypes=results.COLUMNS,
        )
    print(f"{count} rows in {imports.folder(root, label)}; a study uses them with `imports: [{{name: {label}}}]`")


def _pairs(option: str, items: list[str] | None, allowed: str) -> dict[str, str]:
    """The items `OURS=VALUE` of an option."""
    pairs = [(item, *item.partition("=")) for item in items or []]
    if wrong := [item for item, ours, _, value in pairs if not (ours and value)]:
        raise UserError(f"invalid value {wrong[0]!r}", field=option, allowed=allowed)
    return {ours: value for _, ours, _, value in pairs}


def _positive(option: str, text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"invalid value {text!r}", field=option, allowed="a number above 0")
    return value


@app.command()
def fit(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="YAML file of a study, or a CSV file with one row a run.")],
    *,
    x: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="Column of the x axis; SIZE,DATA for form L(N,D); COMPUTE,SIZE for --isoflop."),
    ] = "pretrain_flops",
    y: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the error or the loss, above 0.")] = "error",
    form: Annotated[
        str,
        typer.Option(metavar="FORM", help="Form: auto (chosen by roll-out), flat, M1, M2, M3, M4, zhai, bnsl1, bnsl2, L(N,D)."),
    ] = "auto",
    by: Annotated[
        str, typer.Option(metavar="COLUMNS", help="Columns that separate the curves, with commas. Empty: one curve.")
    ] = "family,what",
    loss: Annotated[
        Literal["squared", "huber"] | None,
        typer.Option(help="Loss of log residuals. Default: squared; for L(N,D) huber with delta 1e-3."),
    ] = None,
    weights: Annotated[
        Literal["equal", "growing"] | None,
        typer.Option(help="Weights of the rows: equal, or growing with x. Default: that of the form."),
    ] = None,
    chance: Annotated[
        float | None, typer.Option(metavar="ERROR", help="Error of guessing, for form M4 and auto.", min=0, max=1)
    ] = None,
    block: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Rows of equal value are correlated: intervals resample them together.")
    ] = None,
    frontier: Annotated[
        bool, typer.Option("--frontier", help="Fit the rows whose y is below that of every row of less x, not all rows.")
    ] = False,
    share_floor: Annotated[
        bool, typer.Option("--share-floor", help="One floor (form M2) for curves that differ only in the first column of --by.")
    ] = False,
    isoflop: Annotated[
        bool, typer.Option("--isoflop", help="The best size at each compute, and its power law in compute.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(metavar="SHARE", help="Compute that differs by less is equal, for --isoflop.", min=0, max=1)
    ] = 0.1,
    flops_per_example: Annotated[
        str,
        typer.Option(metavar="FACTOR|COLUMN", help="FLOPs of an example, for the best N and D: a factor of N, or a column."),
    ] = "6",
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Fit scaling laws to the rows of a study or a CSV file.

    One law for each group of rows: its parameters with 90% intervals, its roll-out error and its diagnostics, or the
    reason why there is none. For a study, `what` is the task with its fine-tune epochs or shots, and --x is usually
    pretrain_flops or dataset_size.
    """
    from orchestrator.laws.fit_text import as_data, as_text
    from orchestrator.laws.table_fits import FitChoices
    from orchestrator.laws.tables import fit_groups, read

    factor = _factor(flops_per_example)
    choices = FitChoices(
        form=form,
        loss=loss,
        weights=weights,
        chance=chance,
        block=block,
        frontier=frontier,
        share_floor=share_floor,
        is_isoflop=isoflop,
        tolerance=tolerance,
        flops_per_parameter=6.0 if factor is None else factor,
        flops_column=flops_per_example if factor is None else None,
    )
    check_file(rows)
    frame = read(rows) if rows.suffix.lower() == ".csv" else _finished_rows(rows, storage)
    groups = fit_groups(frame, x=x, y=y, by=[name.strip() for name in by.split(",") if name.strip()], choices=choices)
    if as_json:
        print(json.dumps([as_data(group) for group in groups], indent=1))
        return
    for group in groups:
        title = ", ".join(f"{name} {value}" for name, value in group.keys.items()) or "all rows"
        print(f"{title}: {y} over {x}")
        print(as_text(group.law) if group.law is not None else f"  no law: {group.refused}")


def _factor(text: str) -> float | None:
    """FLOPs for each parameter and example; None if the text is a column's name."""
    try:
        float(text)
    except ValueError:
        return None
    return _positive("--flops-per-example", text)


def _finished_rows(study: Path, storage: str | None) -> pd.DataFrame:
    from orchestrator.laws.tables import comparable
    from orchestrator.results import collect

    prepared = prepare(study, storage)
    return comparable(collect(prepared.store.root, prepared.file.study.name))


@app.command("next")
def next_runs(
    study: StudyPath,
    storage: Storage = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Runs to list for each target, at most.")] = 5,
    as_json: Json = False,
) -> None:
    """List the runs that would narrow a forecast most.

    For each target of the study: runs cheaper than the target, ordered by how much of the forecast's 90% interval they
    would remove for their cost. Trains nothing.
    """
    from orchestrator.results import collect
    from orchestrator.verdicts.advice import advise
    from orchestrator.verdicts.evidence import gather
    from orchestrator.verdicts.views import ceilings, views

    prepared = prepare(study, storage)
    file = prepared.file
    if not file.study.targets:
        raise file.tree.error("the study has no targets", (), "a list of variant and dataset_size", missing="targets")
    frame, claims = collect(prepared.store.root, file.study.name), file.study.claims
    evidence = [gather(frame, view, claims) for view in views(frame, claims, ceilings(frame, claims))]
    best = {t.label: advise(file, prepared.store, evidence, t)[:count] for t in file.study.targets}
    if as_json:
        print(json.dumps([{**asdict(run), "gain": run.gain} for runs in best.values() for run in runs], indent=1))
        return
    for label, runs in best.items():
        print(f"{label}: {_interval(runs)}")
        for run in runs:
            hours = f"{run.gpu_hours:.3g} GPU-hours" if run.gpu_hours else f"{run.core_hours:.3g} core-hours"
            where = "in the study" if run.in_study else "not in the study yet"
            print(f"  {run.run}: {hours}, a factor of {run.then:.2f} with it ({100 * run.gain:.0f}% narrower), {where}")


def _interval(runs: list[Advice]) -> str:
    if not runs:
        return "no run to add: the target is done, or no cheaper run would narrow its interval"
    return f"the forecast's 90% interval spans a factor of {runs[0].now:.2f} now"
