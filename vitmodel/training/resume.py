"""Where a training goes on: the newest whole checkpoint, whose weights must give the loss that it was written with."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from vitmodel.training.averaging import averaged_statistics
from vitmodel.training.checkpoint import load_newest
from vitmodel.training.context import CHECKPOINTS, Context
from vitmodel.training.engine import device, resolve_precision
from vitmodel.training.loop import TrainJob, fixed_batch_loss

MISMATCH = {"fp32": 1e-4, "bf16": 1e-2}  # by how much the loss on the fixed batch may differ: other hardware rounds otherwise


class CheckpointMismatchError(Exception):
    """A checkpoint whose checksums are met does not give the loss that it was written with."""


def resume(job: TrainJob, engine: Any, context: Context) -> tuple[int, list[float]]:
    """(step, losses since the last log entry) of the newest whole checkpoint, (0, []) without one. Collective.

    Raises CheckpointMismatchError where the weights that were read do not give the loss that was written.
    """
    manifest = load_newest(
        engine, averaged_statistics(engine), context.folder / CHECKPOINTS, worker=job.worker, workers=job.workers
    )
    if manifest is None:
        context.on_start(None)
        return 0, []
    written = manifest["fixed_batch_loss"]
    difference = torch.tensor(abs(fixed_batch_loss(job, engine) - written), dtype=torch.float64, device=device())
    if job.workers > 1:
        dist.all_reduce(difference, op=dist.ReduceOp.MAX)
    allowed = MISMATCH[resolve_precision(job.recipe)] * max(1.0, abs(written))
    if not difference <= allowed:
        raise CheckpointMismatchError(f"checkpoint-mismatch: fixed-batch loss off by {float(difference):.3g} from {written}")
    context.on_start(manifest)
    return manifest["step"], manifest["losses"]
