"""One bundle in one Ray Train worker group: for each unfinished run, call `vitmodel.training`.

Runs in every worker of the group. Worker 0 alone decides what is next and writes results; the others follow. An attempt
that fails leaves word why (attempts.py). Where others may hang because of it, the group ends; Ray Train starts it again,
and it takes up where the store says.
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

from orchestrator.secrets import expand_environment, redact
from orchestrator.spec.fault_tolerance import Retries
from orchestrator.store.attempts import End, attempts_of, next_attempt, record_end
from orchestrator.store.curve import origin_line
from orchestrator.store.fencing import Fence, is_driven
from orchestrator.store.layout import RunFolder, Store, number_of
from orchestrator.store.result import result_of
from orchestrator.store.state import SAVES, STOP_FILE, State
from vitmodel.config.base import UserError
from vitmodel.config.run import RunConfig
from vitmodel.data.badsamples import AwayError
from vitmodel.data.reader import Reading
from vitmodel.files import read_json
from vitmodel.training.checkpoint import CheckpointPolicy
from vitmodel.training.context import CHECKPOINTS, Context
from vitmodel.training.control import OutdatedError, StoppedError
from vitmodel.training.engine import ensure_process_group
from vitmodel.training.guard import has_notice
from vitmodel.training.loop import DivergedError
from vitmodel.training.resume import CheckpointMismatchError
from vitmodel.training.run import STACKS, execute
from vitmodel.weights.header import WEIGHTS_FILE

ASK_SECONDS = 1.0  # between two looks at whether to stop


@dataclass(frozen=True, kw_only=True)
class Turn:
    """An attempt that is to be made now, with word from worker 0 to all."""

    micro_batch: int
    pause_seconds: float
    is_resize: bool = False  # rather go on with more workers


class NoticeError(Exception):
    """A worker of this group was told that its machine goes away: all of them leave, between two runs."""


def work(bundle: dict[str, Any]) -> int:
    """Work through a bundle's runs in order; returns how many attempts were made here. The Ray Train function."""
    torch.set_num_threads(bundle["cpus_per_worker"])
    worker, _ = ensure_process_group()
    store = Store(Path(bundle["storage"]))
    if not (store.study(bundle["study"]) / "plan.json").exists():
        raise UserError("this node does not see the storage folder: it must be shared by all nodes", file=str(store.root))
    attempts = 0
    for item in bundle["runs"]:
        while (turn := _agree(_decide(store, bundle, item) if worker == 0 else None)) is not None:
            if turn.is_resize:
                return attempts
            time.sleep(turn.pause_seconds)
            _attempt(store, bundle, item, turn, worker)
            attempts += 1
    return attempts


def _decide(store: Store, bundle: dict[str, Any], item: dict[str, Any]) -> Turn | None:
    """The attempt to make at this run now; what is not to be tried and has no result gets its reason."""
    folder = store.run(item["run_id"])
    if not is_driven(store.study(bundle["study"]), bundle["session"]):
        return None  # another driver has taken the study over: what is left is its groups'
    if folder.state() is State.DONE:
        shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)  # nobody goes on from there any more
        return None
    stop = read_json(store.study(bundle["study"]) / STOP_FILE)
    parent = item["config"]["parent"]
    earlier, recipe = bundle["first_attempts"][item["run_id"]], item["config"]["recipe"]
    following = next_attempt(
        attempts_of(folder),
        earlier,
        Retries.model_validate(bundle["retries"]),
        planned_micro_batch=item["facts"]["placement"]["micro_batch"],
        share=recipe["batch_size"] // dist.get_world_size() if recipe else 1,
    )
    if folder.failure() is not None and folder.attempts() > earlier:
        return None  # settled in this session
    if stop:
        folder.fail(State(stop["state"]), stop["reason"])
    elif parent and store.run(parent).state() is not State.DONE:
        folder.fail(State.SKIPPED, f"parent {parent} has no result")
    elif following.failure is not None:
        folder.fail(following.failure, following.reason)
    else:
        return Turn(
            micro_batch=following.micro_batch,
            pause_seconds=following.pause_seconds,
            is_resize=_is_to_resize(bundle),
        )
    return None


def _agree(turn: Turn | None) -> Turn | None:
    """Worker 0's decision, known to all. Raises NoticeError on all where one was told to leave."""
    box: list[Any] = [None] * dist.get_world_size()
    if dist.get_world_size() > 1:
        dist.all_gather_object(box, (turn, has_notice()))
    else:
        box = [(turn, has_notice())]
    if any(noticed for _, noticed in box):
        raise NoticeError
    decided: Turn | None = box[0][0]
    return decided


def _attempt(store: Store, bundle: dict[str, Any], item: dict[str, Any], turn: Turn, worker: int) -> None:
    """Execute one run and leave its result, or how the attempt ended. Raises where the group cannot go on."""
    folder, config = store.run(item["run_id"]), RunConfig.model_validate_json(json.dumps(item["config"]))
    metrics_file = _begin(folder, bundle, item, worker)
    number = number_of(metrics_file)
    fence = Fence(study=store.study(bundle["study"]), session=bundle["session"], folder=folder, attempt=number)
    note = _noting(metrics_file) if worker == 0 else _ignore

    def end(kind: End, reason: str) -> None:
        record_end(folder, number, kind, redact(reason, bundle["variables"]), turn.micro_batch)

    try:
        metrics = execute(config, _context(store, bundle, item, turn, fence=fence, note=note, end=end))
        if worker == 0 and not fence.is_current():
            raise OutdatedError("another group works on this run now")
    except DivergedError as error:  # seen by all workers at once
        end(End.FINAL, str(error))
        folder.fail(State.DIVERGED, str(error))
    except StoppedError as error:  # likewise
        end(End.PREEMPTION if error.is_preemption else End.STOPPED, str(error))
        if error.is_preemption:
            raise
    except OutdatedError as error:
        end(End.STOPPED, str(error))
        raise
    except Exception as error:
        kind = kind_of(error)
        end(kind, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-6)}")
        if dist.get_world_size() > 1 or kind is End.OOM:  # the others wait in a collective; what memory holds is uncertain
            raise
        del error
        gc.collect()
    else:
        if worker == 0 and folder.result() is None:  # else another study's group, at the same run, was first
            folder.finish(result_of(bundle, fence, metrics, workers=dist.get_world_size(), micro_batch=turn.micro_batch))
            shutil.rmtree(folder.path / CHECKPOINTS, ignore_errors=True)


def _begin(folder: RunFolder, bundle: dict[str, Any], item: dict[str, Any], worker: int) -> Path:
    """The metrics file of a new attempt, known to all workers."""
    box: list[Any] = [None]
    if worker == 0:
        facts = {"config": item["config"], "facts": item["facts"]}
        box = [folder.begin(facts, dist.get_world_size(), bundle["session"])]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    metrics_file: Path = box[0]
    return metrics_file


def kind_of(error: Exception) -> End:
    """Whether an error may not come again, comes again for certain, or speaks of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return End.OOM  # on a CPU it is a plain RuntimeError of its allocator
    is_certain = isinstance(error, UserError | CheckpointMismatchError) and not isinstance(error, AwayError)
    return End.FINAL if is_certain else End.FAILURE


def _ignore(line: dict[str, Any]) -> None:
    """Workers other than 0 note nothing."""


def _context(
    store: Store,
    bundle: dict[str, Any],
    item: dict[str, Any],
    turn: Turn,
    *,
    fence: Fence,
    note: Callable[[dict[str, Any]], None],
    end: Callable[[End, str], None],
) -> Context:
    parent, folder = item["config"]["parent"], store.run(item["run_id"]).path
    minutes = bundle["stall_seconds"] / 60
    return Context(
        folder=folder,
        data_root=expand_environment(item["data_root"]),
        parent_weights=store.run(parent).path / WEIGHTS_FILE if parent else None,
        micro_batch=turn.micro_batch,
        zero_stage=bundle["zero_stage"],
        reading=Reading(cache=bundle["cache"], skip_up_to=bundle["skip_up_to"]),
        checkpoint=CheckpointPolicy(**bundle["checkpoint"]),
        stall_seconds=bundle["stall_seconds"],
        on_stall=lambda: end(End.STALL, f"no progress for {minutes:g} minutes; all workers' stacks are in {folder / STACKS}"),
        should_stop=_asked_to_stop(store, bundle),
        is_current=fence.is_current,
        manifest={"attempt": fence.attempt},
        on_start=lambda manifest: note(
            origin_line((manifest or {}).get("attempt"), (manifest or {}).get("step", 0), time.time())
        ),
        report=lambda metrics: note({**metrics, "time": time.time()}),
    )


def _asked_to_stop(store: Store, bundle: dict[str, Any]) -> Callable[[], bool]:
    """Whether the study is to stop, or the group is to go on with another number of workers. Worker 0 asks for all."""
    asked = [time.monotonic()]

    def ask() -> bool:
        if dist.get_rank() or time.monotonic() - asked[0] < ASK_SECONDS:
            return False
        asked[0] = time.monotonic()
        stop = read_json(store.study(bundle["study"]) / STOP_FILE)
        return bool(stop and State(stop["state"]) in SAVES) or _is_to_resize(bundle)

    return ask


def _is_to_resize(bundle: dict[str, Any]) -> bool:
    """Whether the launcher found room for more workers than these."""
    return (read_json(Path(bundle["resize"])) or {}).get("workers", 0) > dist.get_world_size() if bundle["resize"] else False


def _noting(path: Path) -> Callable[[dict[str, Any]], None]:
    def note(line: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    return note
