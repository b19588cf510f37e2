"""Shares the samples that could not be read between all workers of a run, counts them, and lists them in its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch.distributed as dist

from vitmodel.data.bad_samples import BAD_FILE, BadSample, BadSamples, append
from vitmodel.data.reader import Dataset

Report = Callable[[dict[str, float]], None]


def reporting_skipped(report: Report, bad: BadSamples, folder: Path, worker: int, workers: int) -> Report:
    """`report` with `data/skipped` added, if the policy allows skipping. Then it is collective: every worker calls it."""
    if not bad.limit:
        return report

    def report_with_skipped(metrics: dict[str, float]) -> None:
        share(bad, folder, worker, workers)
        report({**metrics, "data/skipped": len(bad)})

    return report_with_skipped


def count_skipped(datasets: Sequence[Dataset], folder: Path, worker: int, workers: int) -> dict[str, float]:
    """`data/skipped` over these splits, if the policy allows skipping. Collective."""
    skipping = [dataset.bad for dataset in datasets if dataset.bad.limit]
    for bad in skipping:
        share(bad, folder, worker, workers)
    return {"data/skipped": sum(len(bad) for bad in skipping)} if skipping else {}


def share(bad: BadSamples, folder: Path, worker: int, workers: int) -> None:
    """Share every worker's new bad samples with all workers; worker 0 writes them to the run's folder. Collective.

    Raises UserError, on all workers, if there are more than the policy allows.
    """
    parts: list[list[BadSample]] = [[] for _ in range(workers)]
    if workers > 1:
        dist.all_gather_object(parts, bad.take_new())
    else:
        parts = [bad.take_new()]
    new = list({sample.sample: sample for part in parts for sample in part}.values())
    bad.merge(new)
    if worker == 0:
        append(folder / BAD_FILE, new)
    bad.check()
