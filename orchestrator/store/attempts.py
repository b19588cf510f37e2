"""How the attempts at a run ended, and what follows: another attempt (smaller or later), or a failure with its cause.

An attempt that ends leaves `end-NNN.json` in the run's folder; one that was killed leaves none. `next_attempt` is pure.
Failures, preemptions, out-of-memory errors and stalls have separate retry budgets, counted within one session of the
driver: running the same command again starts with full budgets.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from orchestrator.spec.fault_tolerance import Retries
from orchestrator.store.layout import RunFolder
from orchestrator.store.records import AttemptEnd, AttemptEnding, as_json, read
from orchestrator.store.state import State
from vitmodel.config.base import UserError
from vitmodel.config.batch import largest_divisor

LONGEST_PAUSE_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class NextAttempt:
    """What to do with a run: the micro-batch of another attempt and the pause before it, or its failure."""

    micro_batch: int = 0
    pause_seconds: float = 0.0
    failure: State | None = None
    reason: str = ""


def record_end(folder: RunFolder, number: int, end: AttemptEnding, reason: str, micro_batch: int) -> None:
    """Record how an attempt ended. The first of several workers counts: the others fail because of it."""
    record = AttemptEnd(end=end, reason=reason, micro_batch=micro_batch, time=time.time())
    try:
        with _end_file(folder, number).open("x") as file:
            file.write(json.dumps(as_json(record)))
    except FileExistsError:
        return


def attempts_of(folder: RunFolder) -> list[AttemptEnd]:
    """All attempts at a run that no worker group is working on."""
    return [_end_of(folder, number) for number in range(folder.attempts())]


def _end_of(folder: RunFolder, number: int) -> AttemptEnd:
    try:
        return read(_end_file(folder, number), AttemptEnd) or AttemptEnd(
            end=AttemptEnding.KILLED, reason="its workers died without a record"
        )
    except UserError:  # cut off by a full disk: the attempt did end by itself
        return AttemptEnd(end=AttemptEnding.FAILURE, reason="the record of its end is damaged")


def next_attempt(
    attempts: list[AttemptEnd], earlier: int, budgets: Retries, *, planned_micro_batch: int, share: int
) -> NextAttempt:
    """What follows these attempts, the first `earlier` of which belong to earlier sessions.

    `share` is a worker's part of the global batch: the micro-batch divides it.
    """
    micro_batch = largest_divisor(share, planned_micro_batch)
    for attempt in attempts:
        if attempt.end is AttemptEnding.OOM and attempt.micro_batch > 1:
            micro_batch = min(micro_batch, largest_divisor(share, attempt.micro_batch // 2))
    of_session = attempts[earlier:]
    counts = Counter(attempt.end for attempt in of_session)
    reason = of_session[-1].reason if of_session else ""
    failures = counts[AttemptEnding.FAILURE] + counts[AttemptEnding.KILLED]
    preemptions = counts[AttemptEnding.PREEMPTION]
    if counts[AttemptEnding.FINAL]:
        return NextAttempt(failure=State.FAILED, reason=reason)
    cannot_shrink = any(a.end is AttemptEnding.OOM and a.micro_batch <= 1 for a in of_session)
    if counts[AttemptEnding.OOM] > budgets.oom or cannot_shrink:
        return NextAttempt(failure=State.FAILED, reason=f"oom: {reason}")
    if counts[AttemptEnding.STALL] > budgets.stalls:
        return NextAttempt(failure=State.STALLED, reason=reason)
    if failures > budgets.failures:
        return NextAttempt(failure=State.FAILED, reason=f"after {failures} attempts: {reason}")
    if preemptions > budgets.preemptions:
        return NextAttempt(failure=State.FAILED, reason=f"preempted {preemptions} times: {reason}")
    times = failures + preemptions + counts[AttemptEnding.STALL]
    is_backing_off = bool(of_session) and of_session[-1].end not in (AttemptEnding.OOM, AttemptEnding.STOPPED)
    pause = min(budgets.pause_seconds * 2 ** (times - 1), LONGEST_PAUSE_SECONDS) if is_backing_off else 0.0
    return NextAttempt(micro_batch=micro_batch, pause_seconds=pause)


def _end_file(folder: RunFolder, number: int) -> Path:
    return folder.path / f"end-{number:03d}.json"
