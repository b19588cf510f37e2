"""What all workers of a run know of its bad samples: shared at log boundaries, counted, named in the run's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from vitmodel.data.badsamples import BAD_FILE, BadSamples, Record, append

Report = Callable[[dict[str, float]], None]


def counting(report: Report, bad: BadSamples, folder: Path, worker: int, workers: int) -> Report:
    """`report` with `data/skipped` added, where the policy skips at all. Then it is collective: every worker calls it."""
    if not bad.limit:
        return report

    def report_skipped(metrics: dict[str, float]) -> None:
        share(bad, folder, worker, workers)
        report({**metrics, "data/skipped": len(bad)})

    return report_skipped


def share(bad: BadSamples, folder: Path, worker: int, workers: int) -> None:
    """Make every worker know of every bad sample; worker 0 writes them down. Raises UserError, on all workers, over the cap."""
    parts: list[list[Record]] = [[] for _ in range(workers)]
    if workers > 1:
        dist.all_gather_object(parts, bad.take_new())
    else:
        parts = [bad.take_new()]
    records = {record["sample"]: record for part in parts for record in part}
    bad.merge(list(records.values()))
    if worker == 0:
        append(folder / BAD_FILE, list(records.values()))
    bad.check()
