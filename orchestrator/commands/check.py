"""The verb that asks whether a study's models learn at all, before a cluster is paid for."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.options import Storage, StudyPath
from orchestrator.plan.runs import Run
from orchestrator.prepare import make_datasets, prepare, refuse_missing_indexes

app = typer.Typer()

Images = Annotated[int, typer.Option("--images", min=1, help="images to learn by heart")]
Steps = Annotated[int, typer.Option("--steps", min=1, help="steps at most, for each model")]


@app.command()
def check(study: StudyPath, storage: Storage = None, images: Images = 16, steps: Steps = 300) -> None:
    """Let every model learn a few images by heart under its recipe: what cannot will not learn. Exit 1 where one does not."""
    from rich.console import Console

    from vitmodel.training.overfit import overfit

    prepared = prepare(study, storage)
    refuse_missing_indexes(prepared)
    console = Console(highlight=False)
    make_datasets(prepared, console)
    failed = False
    for name, run in _one_of_a_kind(prepared.plan.runs).items():
        found = overfit(run.config, prepared.plan.datasets[run.dataset], images=images, steps=steps)
        failed |= not found.is_learnt
        said = "learns" if found.is_learnt else f"does not learn: wanted {found.target:.3g}"
        console.print(f"{name}: loss {found.first_loss:.3g} -> {found.last_loss:.3g} in {found.steps} steps, {said}")
    raise typer.Exit(int(failed))


def _one_of_a_kind(runs: tuple[Run, ...]) -> dict[str, Run]:
    """The pretrainings that differ in more than size, length and seed: by name, the first of each."""
    kinds: dict[str, Run] = {}
    for run in runs:
        if run.config.phase == "pretrain":
            kinds.setdefault(run.model_name, run)
    return kinds
