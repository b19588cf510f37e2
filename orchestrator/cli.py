"""The program `vitscale`: all commands of orchestrator/commands."""

from __future__ import annotations

import sys

import typer

from orchestrator import study
from orchestrator.commands import check, data, diff, doctor, inspect, models, reference, results, studies, weights
from orchestrator.secrets import redact
from vitmodel.config.base import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: the same on a terminal, in a pipe and in 80 columns
    pretty_exceptions_enable=False,
    help="Scaling studies of vision models, from one YAML file to scaling curves.",
    epilog="The options of a command: vitscale COMMAND --help",
)
app.add_typer(studies.app)  # without a name: its commands are at the top level
app.add_typer(results.app)
app.add_typer(diff.app)
app.add_typer(doctor.app)
app.add_typer(check.app)
app.add_typer(models.app)
app.add_typer(inspect.app)
app.add_typer(reference.app)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Entry point. An error of the user is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        sys.exit(study.ExitCode.USER_ERROR)


if __name__ == "__main__":
    main()
