"""Resumes a training from its newest intact checkpoint, and verifies the loss that was saved with it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from vitmodel.training.averaging import averaged_statistics
from vitmodel.training.checkpoint import load_newest
from vitmodel.training.context import CHECKPOINTS, Context
from vitmodel.training.engine import device, resolve_precision
from vitmodel.training.loop import TrainJob, fixed_batch_loss

LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}  # of the loss on the fixed batch: rounding depends on the hardware


class CheckpointMismatchError(Exception):
    """The checksums of a checkpoint match, but its weights do not reproduce the loss that was saved with it."""


def resume(job: TrainJob, engine: Any, context: Context) -> tuple[int, list[float]]:
    """(step, losses since the last log entry) of the newest intact checkpoint, (0, []) without one. Collective.

    Raises CheckpointMismatchError if the loaded weights do not reproduce the saved loss.
    """
    manifest = load_newest(
        engine, averaged_statistics(engine), context.folder / CHECKPOINTS, worker=job.worker, workers=job.workers
    )
    if manifest is None:
        context.on_start(None)
        return 0, []
    saved = manifest["fixed_batch_loss"]
    difference = torch.tensor(abs(fixed_batch_loss(job, engine) - saved), dtype=torch.float64, device=device())
    if job.workers > 1:
        dist.all_reduce(difference, op=dist.ReduceOp.MAX)
    allowed = LOSS_TOLERANCE[resolve_precision(job.recipe)] * max(1.0, abs(saved))
    if not difference <= allowed:
        raise CheckpointMismatchError(
            f"checkpoint-mismatch: fixed-batch loss differs by {float(difference):.3g} from the saved {saved}; "
            f"remove {context.folder / CHECKPOINTS} to train the run from the start"
        )
    context.on_start(manifest)
    return manifest["step"], manifest["losses"]
