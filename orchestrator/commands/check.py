"""The command `check`: an overfit sanity check of a study's models, before a cluster is paid for."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.commands.options import Storage, StudyPath
from orchestrator.plan.runs import Run
from orchestrator.prepare import make_datasets, prepare, refuse_missing_indexes

app = typer.Typer()

Images = Annotated[int, typer.Option("--images", metavar="N", min=1, help="Images that each model is trained on.")]
Steps = Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Training steps for each model, at most.")]


@app.command()
def check(study: StudyPath, storage: Storage = None, images: Images = 16, steps: Steps = 300) -> None:
    """Sanity check: can every model overfit a few images?

    Trains each pretraining model of the study, once for all its data sizes and seeds, on a few images with its recipe but
    without regularisation, in this process. A model passes when its loss falls to 10% of the first loss (50% for masked
    autoencoders). A model that fails would not learn from more images either: check its learning rate first.

    Exit codes: 0 all models pass; 1 a model fails; 2 user error.
    """
    from rich.console import Console

    from vitmodel.training.overfit import overfit

    prepared = prepare(study, storage)
    refuse_missing_indexes(prepared)
    make_datasets(prepared, Console(highlight=False))
    all_pass = True
    for name, run in _by_model(prepared.plan.runs).items():
        result = overfit(run.config, prepared.plan.datasets[run.dataset], images=images, steps=steps)
        all_pass &= result.has_passed
        verdict = "passes" if result.has_passed else f"FAILS: the loss must fall to {result.target:.3g}"
        print(f"{name}: loss {result.first_loss:.3g} -> {result.last_loss:.3g} in {result.steps} steps, {verdict}", flush=True)
    raise typer.Exit(0 if all_pass else 1)


def _by_model(runs: tuple[Run, ...]) -> dict[str, Run]:
    """The first pretraining of each model; the others differ in data size, length or seed only."""
    first: dict[str, Run] = {}
    for run in runs:
        if run.config.phase == "pretrain":
            first.setdefault(run.model_name, run)
    return first
