"""The files of the store as frozen models. Whatever is read back is validated; a broken file is one error that names it.

Fields are only ever added, with a default: files of earlier versions stay readable.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from orchestrator.plan.records import Record, RunFacts
from orchestrator.store.state import State
from vitmodel.config.base import UserError
from vitmodel.config.run import RunConfig

Model = TypeVar("Model", bound=Record)


class AttemptEnding(StrEnum):
    """How an attempt ended, where it did not end with a result."""

    FAILURE = "failure"  # an error that another attempt may not have
    KILLED = "killed"  # it left no record
    PREEMPTION = "preemption"
    OOM = "oom"
    STALL = "stall"
    STOPPED = "stopped"  # on request: by a limit, or to continue with another number of workers
    FINAL = "final"  # an error that would occur again; the run's failure states which


class Provenance(Record):
    """What a result was made with."""

    host: str = ""
    python: str = ""
    packages: dict[str, str] = Field(default_factory=dict)  # name to version
    git: str = ""  # commit of the code; ends with -dirty where the working tree had changes
    job: str = ""  # Ray job id


class RunResult(Record):
    """result.json: written last, it marks a run as done. Hours and seconds count every attempt."""

    run_id: str
    metrics: dict[str, float]
    last: dict[str, float] = Field(default_factory=dict)  # the last entry of the training curve
    workers: int
    zero_stage: int
    cpus_per_worker: int
    gpus_per_worker: int
    micro_batch: int | None = None
    seconds: float | None = None
    gpu_hours: float
    core_hours: float
    peak_flops: float  # FLOP/s of all workers together
    attempts: int = 1
    attempt: int | None = None  # whose curve it is
    finished: float = 0.0  # Unix time
    provenance: Provenance = Provenance()

    @property
    def total_seconds(self) -> float:
        """Wall-clock seconds of all attempts. Results of the first version have only hours of what the workers reserved."""
        if self.seconds is not None:
            return self.seconds
        for hours, per_worker in ((self.core_hours, self.cpus_per_worker), (self.gpu_hours, self.gpus_per_worker)):
            if per_worker:
                return 3600 * hours / (self.workers * per_worker)
        return self.metrics["time/run_seconds"]


class Failure(Record):
    """failure.json: why the last attempt has no result."""

    state: State
    reason: str
    time: float = 0.0  # Unix time


class StopRequest(Record):
    """stop.json of a study: no further run starts, and runs that are not done get this state and reason."""

    state: State
    reason: str


class LeaseRecord(Record):
    """lease.json of a study: the driver that holds it."""

    token: str
    host: str
    pid: int
    time: float  # Unix time of the last heartbeat


class RunRecord(Record):
    """config.json of a run."""

    config: RunConfig
    facts: RunFacts


class AttemptEnd(Record):
    """end-NNN.json: how attempt NNN ended."""

    end: AttemptEnding
    reason: str = ""
    micro_batch: int = 0
    time: float = 0.0


class ResizeRequest(Record):
    """<bundle>.resize.json: the elastic group of this bundle should stop at a checkpoint and restart with `workers`."""

    workers: int


def read(path: Path, model: type[Model]) -> Model | None:
    """The content of a file, None where it does not exist. Raises UserError for a file that is damaged."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"damaged file: {first['msg']}", file=str(path), field=where) from None


def as_json(record: Record) -> dict[str, object]:
    """A record as plain data for `vitmodel.files.write_json`."""
    return record.model_dump(mode="json")
