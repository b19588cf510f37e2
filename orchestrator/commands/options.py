"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StudyPath = Annotated[Path, typer.Argument(help="the study's YAML file")]
Storage = Annotated[str | None, typer.Option(help="folder of all runs, in place of the file's storage.path")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
StoragePath = Annotated[str, typer.Option("--storage", help="folder of all runs")]
