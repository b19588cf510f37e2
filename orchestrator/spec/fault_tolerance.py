"""The parts of a study file about lasting: checkpoints, groups of changing size, retries. Frozen, strict."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from vitmodel.config.base import Frozen

Auto = Literal["auto"]


def _interval(value: str) -> str:
    if re.fullmatch(r"\d+(\.\d+)? ?(s|min|h|steps)", value) and float(value.split(maxsplit=1)[0].rstrip("sminhtep")) > 0:
        return value
    raise ValueError("an interval is a time such as 10 min, 90 s or 1 h, or a number of steps such as 500 steps")


class Checkpoint(Frozen):
    """How often the state of a training is written, and how many complete checkpoints of it stay."""

    every: Annotated[str, AfterValidator(_interval)] = "10 min"
    keep: int = Field(default=2, ge=1)

    @property
    def steps(self) -> int | None:
        """Where the interval is one of steps."""
        return int(float(self.every.removesuffix("steps"))) if self.every.endswith("steps") else None

    @property
    def seconds(self) -> float | None:
        """Where the interval is a time."""
        match = re.fullmatch(r"([\d.]+) ?(s|min|h)", self.every)
        return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]] if match else None


class Workers(Frozen):
    """A worker group takes as many workers as the cluster has room for, between these. The global batch stays."""

    min: int = Field(gt=0)
    max: int = Field(gt=0)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _workers_kind(value: Any) -> str:
    return "range" if isinstance(value, dict | Workers) else "number"


_OneNumber = Annotated[int, Field(gt=0)] | Auto
AnyWorkers = Annotated[Annotated[Workers, Tag("range")] | Annotated[_OneNumber, Tag("number")], Discriminator(_workers_kind)]


class StopAfter(Frozen):
    """End the study after this many failed runs."""

    stop_after: int = Field(gt=0)


class Retries(Frozen):
    """Attempts after the first, by what ended the one before."""

    failures: int = Field(default=2, ge=0)  # errors, and workers that died
    preemptions: int = Field(default=10, ge=0)
    oom: int = Field(default=3, ge=0)  # each with half the micro-batch
    stalls: int = Field(default=1, ge=0)
    pause_seconds: float = Field(default=5.0, ge=0)  # before the first; doubled each time, up to 5 minutes


def _as_retries(value: Any) -> Any:
    """A number alone is the number of failures."""
    return {"failures": value} if isinstance(value, int) else value


class OnFailure(Frozen):
    """How often a run is tried again, and whether the others go on once it has failed."""

    retries: Annotated[Retries, BeforeValidator(_as_retries)] = Retries()
    then: Literal["continue", "stop"] | StopAfter = "continue"
