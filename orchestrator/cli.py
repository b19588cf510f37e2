"""The `vitscale` command: the verbs of orchestrator/commands under one name."""

from __future__ import annotations

import sys

import typer

from orchestrator import study
from orchestrator.commands import check, data, diff, doctor, inspect, models, results, studies, weights
from orchestrator.secrets import redact
from vitmodel.config.base import UserError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="How does this vision model scale? One YAML file to the curves."
)
app.add_typer(studies.app)  # without a name: its verbs stand at the top
app.add_typer(results.app)
app.add_typer(diff.app)
app.add_typer(doctor.app)
app.add_typer(check.app)
app.add_typer(models.app)
app.add_typer(inspect.app)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Entry point: what a user got wrong is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        sys.exit(study.USER_ERROR)


if __name__ == "__main__":
    main()
