"""Where all workers of a training meet: whether to write a checkpoint, to stop, or to give up, they decide as one.

A worker alone may know of a notice that its machine goes away, or of a full disk. Every few seconds of training, and where
losses are logged, one small collective tells all; so they save together, stop at the same step, and fail together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from vitmodel.training.checkpoint import CheckpointPolicy, Writer
from vitmodel.training.engine import device
from vitmodel.training.guard import has_notice

MEET_SECONDS = 2.0  # of training between two meetings; a preemption notice leaves 30 s or more

Save = Callable[[int, list[float]], None]  # (step, losses since the last log entry)


class StoppedError(Exception):
    """The training was asked to stop, and did with a complete checkpoint of `step`."""

    def __init__(self, step: int, *, is_preemption: bool) -> None:
        self.step, self.is_preemption = step, is_preemption
        super().__init__(f"stopped at step {step}{' by a preemption notice' if is_preemption else ''}")


class OutdatedError(Exception):
    """Another group works on this run: this one stops and leaves nothing."""


class Control:
    """One training's meetings. `is_due` is local and the same on all workers; `meet` is collective."""

    def __init__(
        self,
        *,
        policy: CheckpointPolicy,
        writer: Writer,
        save: Save,
        workers: int,
        should_stop: Callable[[], bool],
        is_current: Callable[[], bool],
        beat: Callable[[], None],
    ) -> None:
        self._policy, self._writer, self._save, self._workers = policy, writer, save, workers
        self._should_stop, self._is_current, self._beat = should_stop, is_current, beat
        self._asked = -math.inf
        self._saved = self._met = time.monotonic()
        self._met_step: int | None = None
        self._next = 0

    def is_due(self, step: int) -> bool:
        """Whether all workers meet after `step` steps."""
        self._beat()
        return step >= self._next or self._is_save_step(step)

    def meet(self, step: int, losses: list[float], *, is_last: bool) -> None:
        """Save where it is due; raises CheckpointError, StoppedError or OutdatedError on all workers together. Collective."""
        now = time.monotonic()
        step_seconds = (now - self._met) / (step - self._met_step) if self._met_step is not None else MEET_SECONDS
        is_time = self._policy.seconds is not None and now - self._saved >= self._policy.seconds
        failed, noticed, stopped, timed, outdated, step_seconds = self._worst(
            self._writer.error is not None,
            has_notice(),
            self._should_stop(),
            is_time,
            self._is_outdated(now, is_last=is_last),
            step_seconds,
        )
        self._met, self._met_step = now, step
        self._next = step + max(1, int(MEET_SECONDS / max(step_seconds, 1e-6)))
        if outdated:
            raise OutdatedError(f"another group works on this run now: stopped at step {step}")
        if failed:
            self._writer.fail()
        if is_last:
            return
        if noticed or stopped:
            self._save(step, losses)
            self._writer.finish()
            raise StoppedError(step, is_preemption=bool(noticed))
        if timed or self._is_save_step(step):
            self._save(step, losses)
            self._saved = time.monotonic()

    def _is_outdated(self, now: float, *, is_last: bool) -> bool:
        """Whether another group has taken over: asked every few seconds, and before anything is left for good."""
        if not is_last and self._writer.error is None and now - self._asked < MEET_SECONDS:
            return False
        self._asked = now
        return not self._is_current()

    def _is_save_step(self, step: int) -> bool:
        return self._policy.steps is not None and step % self._policy.steps == 0

    def _worst(self, *values: Any) -> list[float]:
        """The largest of each value over all workers."""
        if self._workers == 1:
            return [float(value) for value in values]
        flags = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device())
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags.tolist()
