"""The command `doctor`: checks this machine, its cluster and what a study needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.console import print_table
from orchestrator.commands.options import Json, Storage
from orchestrator.doctor.finding import Level

if TYPE_CHECKING:
    from orchestrator.doctor.examine import CheckedFinding

app = typer.Typer()

COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@app.command()
def doctor(
    study: Annotated[
        Path | None, typer.Argument(metavar="STUDY", help="YAML file of a study, to also check what it needs.")
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Find what would stop a study here, and how to fix it.

    Checks package versions, GPUs, limits of the machine, Ray's token and ports, the storage folder and MLflow; with STUDY
    also its datasets and its webhook. Trains nothing and changes nothing.

    Exit codes: 0 nothing would stop a study; 1 a check failed; 2 user error.
    """
    from orchestrator.doctor.examine import all_passed, as_data, checks, run_checks, storage_of
    from orchestrator.prepare import storage_root
    from orchestrator.spec.study import read_study

    file = read_study(study) if study else None
    findings = run_checks(checks(file, storage_root(storage_of(file, storage))))
    if as_json:
        print(json.dumps(as_data(findings), indent=1), flush=True)
    else:
        print_findings(findings)
    raise typer.Exit(0 if all_passed(findings) else 1)


def print_findings(findings: list[CheckedFinding]) -> None:
    """One row per finding; the fix below it."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid("level", "check", "text", padding=(0, 2, 0, 0))
    for checked in findings:
        finding = checked.finding
        text = f"{finding.text}\nfix: {finding.fix}" if finding.fix else finding.text
        table.add_row(Text(finding.level, style=COLOURS[finding.level]), checked.check, text)
    print_table(table)
    levels = [checked.finding.level for checked in findings]
    print(", ".join(f"{levels.count(level)} {level}" for level in Level), flush=True)
