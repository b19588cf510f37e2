"""Arguments and options that several commands share: one name and one help text for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file of the study.")]
StudyPathOrName = Annotated[
    Path,
    typer.Argument(metavar="STUDY", help="YAML file of the study or, with --storage, the name of a study in that folder."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="FOLDER",
        help="Storage folder of all runs; replaces storage.path of the study file (default: runs).",
    ),
]
StoragePath = Annotated[str, typer.Option("--storage", metavar="FOLDER", help="Storage folder of all runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
