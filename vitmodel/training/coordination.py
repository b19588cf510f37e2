"""Where all workers of a training synchronise, and decide together to save a checkpoint, to stop, or to fail.

One worker alone may have received a preemption notice or have a full disk. Every few seconds of training, and at each log
entry, one small collective shares this, so that all workers save together, stop at the same step and fail together.
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
from vitmodel.training.preemption import is_preempted

SYNC_SECONDS = 2.0  # of training between two synchronisations; a preemption notice leaves 30 s or more

Save = Callable[[int, list[float]], None]  # (step, losses since the last log entry)


class StoppedError(Exception):
    """The training stopped on request, with a complete checkpoint of `step`."""

    def __init__(self, step: int, *, is_preemption: bool) -> None:
        self.step, self.is_preemption = step, is_preemption
        super().__init__(f"stopped at step {step}{' by a preemption notice' if is_preemption else ''}")


class SupersededError(Exception):
    """Another worker group has taken over this run. This one stops and writes nothing more."""


class Coordinator:
    """Synchronises the workers of one training. `is_due` is local, with the same result on all; `synchronise` is collective."""

    def __init__(
        self,
        *,
        policy: CheckpointPolicy,
        writer: Writer,
        save: Save,
        workers: int,
        should_stop: Callable[[], bool],
        is_current: Callable[[], bool],
        reset_watchdog: Callable[[], None],
    ) -> None:
        self._policy, self._writer, self._save, self._workers = policy, writer, save, workers
        self._should_stop, self._is_current, self._reset_watchdog = should_stop, is_current, reset_watchdog
        self._last_current_check = -math.inf
        self._last_save = self._last_sync = time.monotonic()
        self._last_sync_step: int | None = None
        self._next_sync_step = 0

    def is_due(self, step: int) -> bool:
        """Whether all workers synchronise after `step` steps."""
        self._reset_watchdog()
        return step >= self._next_sync_step or self._is_save_step(step)

    def synchronise(self, step: int, losses: list[float], *, is_last: bool) -> None:
        """Save a checkpoint if one is due. Collective.

        Raises CheckpointError, StoppedError or SupersededError, on all workers together.
        """
        now = time.monotonic()
        step_seconds = SYNC_SECONDS if self._last_sync_step is None else (now - self._last_sync) / (step - self._last_sync_step)
        is_save_time = self._policy.seconds is not None and now - self._last_save >= self._policy.seconds
        failed, preempted, stopped, save_time, superseded, step_seconds = self._max_over_workers(
            self._writer.error is not None,
            is_preempted(),
            self._should_stop(),
            is_save_time,
            self._is_superseded(now, is_last=is_last),
            step_seconds,
        )
        self._last_sync, self._last_sync_step = now, step
        self._next_sync_step = step + max(1, int(SYNC_SECONDS / max(step_seconds, 1e-6)))
        if superseded:
            raise SupersededError(f"another worker group has taken over this run: stopped at step {step}")
        if failed:
            self._writer.fail()
        if is_last:
            return
        if preempted or stopped:
            self._save(step, losses)
            self._writer.finish()
            raise StoppedError(step, is_preemption=bool(preempted))
        if save_time or self._is_save_step(step):
            self._save(step, losses)
            self._last_save = time.monotonic()

    def _is_superseded(self, now: float, *, is_last: bool) -> bool:
        """Whether another worker group has taken over: checked every few seconds, and before anything final is written."""
        if not is_last and self._writer.error is None and now - self._last_current_check < SYNC_SECONDS:
            return False
        self._last_current_check = now
        return not self._is_current()

    def _is_save_step(self, step: int) -> bool:
        return self._policy.steps is not None and step % self._policy.steps == 0

    def _max_over_workers(self, *values: Any) -> list[float]:
        """The maximum of each value over all workers. Collective."""
        if self._workers == 1:
            return [float(value) for value in values]
        flags = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device())
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags.tolist()
