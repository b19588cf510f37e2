"""One bundle in one Ray Train worker group: for each unfinished run, call `vitmodel.training`.

Runs in every worker of the group. Worker 0 alone decides what to run next and writes results; the others follow. An attempt
that fails records why (store/attempts.py). Where the other workers may hang because of it, the group ends; Ray Train
restarts it, and it continues from the state in the store.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.execution.orders import BundleOrders, RunOrder
from orchestrator.secrets import expand_environment, redact
from orchestrator.store.attempts import attempts_of, next_attempt, record_end
from orchestrator.store.curve import Entry, origin_line
from orchestrator.store.fencing import Fence, is_driven_by
from orchestrator.store.layout import RunFolder, attempt_number
from orchestrator.store.records import AttemptEnding
from orchestrator.store.result import make_result
from orchestrator.store.state import SAVING_STOPS, State
from orchestrator.store.stop import stop_request
from vitmodel.config.base import UserError
from vitmodel.data.bad_samples import StoreUnavailableError
from vitmodel.data.reader import ReadOptions
from vitmodel.training.checkpoint import CheckpointPolicy
from vitmodel.training.context import CHECKPOINTS, Context
from vitmodel.training.coordination import StoppedError, SupersededError
from vitmodel.training.engine import ensure_process_group
from vitmodel.training.loop import DivergedError
from vitmodel.training.preemption import is_preempted
from vitmodel.training.resume import CheckpointMismatchError
from vitmodel.training.run import STACKS, execute
from vitmodel.weights.header import WEIGHTS_FILE

STOP_CHECK_SECONDS = 1.0  # between two checks for a stop request

Note = Callable[[Entry], None]  # appends one line to the metrics file


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The next attempt, as worker 0 decided it for all."""

    micro_batch: int
    pause_seconds: float
    is_resize: bool = False  # end this group instead, and restart with more workers


class PreemptionError(Exception):
    """A worker of this group received a preemption notice between two runs: the whole group ends."""


def work(config: dict[str, str]) -> int:
    """Work through a bundle's runs in order; returns how many attempts were made here. The Ray Train function.

    Raises UserError on a node that does not see the storage folder.
    """
    orders = BundleOrders.model_validate_json(config["orders"])
    torch.set_num_threads(orders.group.cpus_per_worker)
    worker, _ = ensure_process_group()
    if not (orders.study_folder / "plan.json").exists():
        raise UserError("this node does not see the storage folder, which all nodes must share", file=str(orders.store.root))
    attempts = 0
    for order in orders.runs:
        while (turn := _agree(_decide(orders, order) if worker == 0 else None)) is not None:
            if turn.is_resize:
                return attempts
            time.sleep(turn.pause_seconds)
            _attempt(orders, order, turn, worker)
            attempts += 1
    return attempts


def _decide(orders: BundleOrders, order: RunOrder) -> Turn | None:
    """The attempt to make at this run now. None for a run that is settled; one that must not run gets its reason."""
    folder = orders.folder(order)
    if not is_driven_by(orders.study_folder, orders.session):
        return None  # another driver has taken over the study; its groups do the rest
    if folder.state() is State.DONE:
        shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)  # nothing resumes from there any more
        return None
    recipe = order.config.recipe
    following = next_attempt(
        attempts_of(folder),
        order.earlier_attempts,
        orders.retries,
        planned_micro_batch=order.facts.placement.micro_batch,
        share=recipe.batch_size // dist.get_world_size() if recipe else 1,
    )
    if folder.failure() is not None and folder.attempts() > order.earlier_attempts:
        return None  # settled in this session
    if stop := stop_request(orders.study_folder):
        folder.fail(stop.state, stop.reason)
    elif reason := orders.store.skip_reason(order.config.parent):
        folder.fail(State.SKIPPED, reason)
    elif following.failure is not None:
        folder.fail(following.failure, following.reason)
    else:
        return Turn(micro_batch=following.micro_batch, pause_seconds=following.pause_seconds, is_resize=_should_resize(orders))
    return None


def _agree(turn: Turn | None) -> Turn | None:
    """Worker 0's decision, sent to all. Raises PreemptionError on all where one received a preemption notice."""
    gathered: list[Any] = [None] * dist.get_world_size()
    if dist.get_world_size() > 1:
        dist.all_gather_object(gathered, (turn, is_preempted()))
    else:
        gathered = [(turn, is_preempted())]
    if any(preempted for _, preempted in gathered):
        raise PreemptionError
    decided: Turn | None = gathered[0][0]
    return decided


def _attempt(orders: BundleOrders, order: RunOrder, turn: Turn, worker: int) -> None:
    """Execute one run and leave its result, or a record of how the attempt ended. Raises where the group cannot continue."""
    folder = orders.folder(order)
    metrics_file = _begin(folder, orders, order, worker)
    fence = Fence(study=orders.study_folder, session=orders.session, folder=folder, attempt=attempt_number(metrics_file))
    note = _appender(metrics_file) if worker == 0 else _ignore

    def end(kind: AttemptEnding, reason: str) -> None:
        record_end(folder, fence.attempt, kind, redact(reason, orders.variables), turn.micro_batch)

    try:
        metrics = execute(order.config, _context(orders, order, turn, fence=fence, note=note, end=end))
        if worker == 0 and not fence.is_current():
            raise SupersededError("another worker group works on this run now")
    except DivergedError as error:  # raised on all workers at once
        end(AttemptEnding.FINAL, str(error))
        folder.fail(State.DIVERGED, str(error))
    except StoppedError as error:  # raised on all workers at once
        end(AttemptEnding.PREEMPTION if error.is_preemption else AttemptEnding.STOPPED, str(error))
        if error.is_preemption:
            raise
    except SupersededError as error:
        end(AttemptEnding.STOPPED, str(error))
        raise
    except Exception as error:
        kind = kind_of(error)
        end(kind, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-6)}")
        if dist.get_world_size() > 1 or kind is AttemptEnding.OOM:  # the others wait in a collective; memory is in doubt
            raise
        del error
        gc.collect()
    else:
        if worker == 0 and folder.result() is None:  # not None: a group of another study finished the same run first
            _finish(orders, fence, metrics, turn)


def _begin(folder: RunFolder, orders: BundleOrders, order: RunOrder, worker: int) -> Path:
    """Start an attempt; returns its metrics file, on all workers."""
    shared: list[Any] = [None]
    if worker == 0:
        shared = [folder.begin(order.record, dist.get_world_size(), orders.session)]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(shared, src=0)
    metrics_file: Path = shared[0]
    return metrics_file


def _finish(orders: BundleOrders, fence: Fence, metrics: dict[str, float], turn: Turn) -> None:
    """Write the result of a run, after which its checkpoints are not needed."""
    result = make_result(
        fence,
        metrics,
        group=orders.group,
        workers=dist.get_world_size(),
        micro_batch=turn.micro_batch,
        device_peak_flops=orders.device_peak_flops,
        git=orders.git,
    )
    fence.folder.finish(result)
    shutil.rmtree(fence.folder.path / CHECKPOINTS, ignore_errors=True)


def kind_of(error: Exception) -> AttemptEnding:
    """How an attempt ends with this error: one that another attempt may not have, that would occur again, or out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return AttemptEnding.OOM  # on a CPU it is a plain RuntimeError of its allocator
    is_certain = isinstance(error, UserError | CheckpointMismatchError) and not isinstance(error, StoreUnavailableError)
    return AttemptEnding.FINAL if is_certain else AttemptEnding.FAILURE


def _ignore(line: Entry) -> None:
    """Workers other than 0 write no metrics."""


def _context(
    orders: BundleOrders,
    order: RunOrder,
    turn: Turn,
    *,
    fence: Fence,
    note: Note,
    end: Callable[[AttemptEnding, str], None],
) -> Context:
    parent, folder = order.config.parent, fence.folder.path
    minutes = orders.stall_seconds / 60
    stalled = f"no progress for {minutes:g} minutes; the stacks of all workers are in {folder / STACKS}"
    policy = orders.checkpoint
    return Context(
        folder=folder,
        data_root=expand_environment(order.data_root),
        parent_weights=orders.store.run(parent).path / WEIGHTS_FILE if parent else None,
        micro_batch=turn.micro_batch,
        zero_stage=orders.group.zero_stage,
        reading=ReadOptions(cache=orders.cache, skip_up_to=orders.skip_up_to),
        checkpoint=CheckpointPolicy(seconds=policy.seconds, steps=policy.steps, keep=policy.keep),
        stall_seconds=orders.stall_seconds,
        on_stall=lambda: end(AttemptEnding.STALL, stalled),
        should_stop=_stop_check(orders),
        is_current=fence.is_current,
        manifest={"attempt": fence.attempt},
        on_start=lambda manifest: note(
            origin_line((manifest or {}).get("attempt"), (manifest or {}).get("step", 0), time.time())
        ),
        report=lambda metrics: note({**metrics, "time": time.time()}),
    )


def _stop_check(orders: BundleOrders) -> Callable[[], bool]:
    """A function that says whether to save and stop: the study is stopped, or the group is resized. Worker 0 checks for all."""
    last_check = time.monotonic()

    def should_stop() -> bool:
        nonlocal last_check
        if dist.get_rank() or time.monotonic() - last_check < STOP_CHECK_SECONDS:
            return False
        last_check = time.monotonic()
        stop = stop_request(orders.study_folder)
        return (stop is not None and stop.state in SAVING_STOPS) or _should_resize(orders)

    return should_stop


def _should_resize(orders: BundleOrders) -> bool:
    """Whether the trial requested a restart with more workers than these."""
    return orders.wanted_workers() > dist.get_world_size()


def _appender(path: Path) -> Note:
    def note(line: Entry) -> None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    return note
