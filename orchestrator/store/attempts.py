"""How the attempts at a run ended, and what follows: another one, smaller or later, or a failure with its cause.

An attempt that ends leaves `end-NNN.json` in the run's folder; one that was killed leaves none, which says as much.
`next_attempt` is pure. Failures, preemptions, lack of memory and stalls have budgets of their own, counted within one
session of the driver: the same command again is a new chance.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.spec.fault_tolerance import Retries
from orchestrator.store.layout import RunFolder
from orchestrator.store.state import State

LONGEST_PAUSE_SECONDS = 300.0


class End(StrEnum):
    """How an attempt ended, where it did not end with a result."""

    FAILURE = "failure"  # an error that another try may not have
    KILLED = "killed"  # no word from it
    PREEMPTION = "preemption"
    OOM = "oom"
    STALL = "stall"
    STOPPED = "stopped"  # because it was asked to: by a limit, or to go on with another number of workers
    FINAL = "final"  # an error that comes again: the run's failure says which


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a run."""

    end: End
    reason: str = ""
    micro_batch: int = 0


@dataclass(frozen=True, kw_only=True)
class Next:
    """What to do with a run: the micro-batch of another attempt and the pause before it, or the failure that it has become."""

    micro_batch: int = 0
    pause_seconds: float = 0.0
    failure: State | None = None
    reason: str = ""


def record_end(folder: RunFolder, number: int, end: End, reason: str, micro_batch: int) -> None:
    """Leave word how an attempt ended. Of several workers the first is right: the others fail because of it."""
    facts = {"end": end, "reason": reason, "micro_batch": micro_batch, "time": time.time()}
    try:
        with (folder.path / f"end-{number:03d}.json").open("x") as file:
            file.write(json.dumps(facts))
    except FileExistsError:
        return


def attempts_of(folder: RunFolder) -> list[Attempt]:
    """All attempts at a run that is not being worked on."""
    found = []
    for number in range(folder.attempts()):
        try:
            facts: dict[str, Any] = json.loads((folder.path / f"end-{number:03d}.json").read_text())
            found.append(Attempt(end=End(facts["end"]), reason=facts["reason"], micro_batch=facts["micro_batch"]))
        except FileNotFoundError:
            found.append(Attempt(end=End.KILLED, reason="its workers died"))
        except ValueError:  # a disk that was full: it did end, by itself
            found.append(Attempt(end=End.FAILURE, reason="how it ended could not be written"))
    return found


def next_attempt(attempts: list[Attempt], earlier: int, budgets: Retries, *, planned_micro_batch: int, share: int) -> Next:
    """What follows these attempts, the first `earlier` of which belong to earlier sessions.

    `share` is a worker's part of the global batch: a micro-batch divides it.
    """
    micro_batch = max_divisor(share, planned_micro_batch)
    for attempt in attempts:
        if attempt.end is End.OOM and attempt.micro_batch > 1:
            micro_batch = min(micro_batch, max_divisor(share, attempt.micro_batch // 2))
    here = attempts[earlier:]
    counts = Counter(attempt.end for attempt in here)
    reason = here[-1].reason if here else ""
    failures = counts[End.FAILURE] + counts[End.KILLED]
    if counts[End.FINAL]:
        return Next(failure=State.FAILED, reason=reason)
    if counts[End.OOM] > budgets.oom or any(a.end is End.OOM and a.micro_batch <= 1 for a in here):
        return Next(failure=State.FAILED, reason=f"oom: {reason}")
    if counts[End.STALL] > budgets.stalls:
        return Next(failure=State.STALLED, reason=reason)
    if failures > budgets.failures:
        return Next(failure=State.FAILED, reason=f"after {failures} attempts: {reason}")
    if counts[End.PREEMPTION] > budgets.preemptions:
        return Next(failure=State.FAILED, reason=f"preempted {counts[End.PREEMPTION]} times: {reason}")
    times = failures + counts[End.PREEMPTION] + counts[End.STALL]
    is_bad_luck = bool(here) and here[-1].end not in (End.OOM, End.STOPPED)
    pause = min(budgets.pause_seconds * 2 ** (times - 1), LONGEST_PAUSE_SECONDS) if is_bad_luck else 0.0
    return Next(micro_batch=micro_batch, pause_seconds=pause)


def max_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number up to a limit; 1 at least."""
    return max(size for size in range(1, number + 1) if number % size == 0 and (size <= limit or size == 1))
