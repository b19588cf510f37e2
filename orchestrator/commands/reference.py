"""The command `reference`: the reference page of the study file, for docs/reference.md."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command(hidden=True)
def reference() -> None:
    """Print the reference page of the study file as Markdown."""
    from orchestrator.spec.reference import reference_page

    print(reference_page(), end="")
