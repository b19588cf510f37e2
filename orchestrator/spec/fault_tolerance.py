"""The sections of a study file about fault tolerance: checkpoints, elastic worker groups, retries."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from orchestrator.spec.values import Auto, Interval, Written
from vitmodel.config.base import Frozen


class Checkpoint(Frozen):
    """How often a run in progress is saved, and how many of its complete checkpoints are retained."""

    every: Interval = "10 min"
    """Time or steps between two checkpoints."""
    keep: int = Field(default=2, ge=1)
    """Complete checkpoints that are retained while a run is in progress."""

    @property
    def steps(self) -> int | None:
        """The interval in steps; None where it is a time."""
        return int(float(self.every.removesuffix("steps"))) if self.every.endswith("steps") else None

    @property
    def seconds(self) -> float | None:
        """The interval in seconds; None where it is a number of steps."""
        match = re.fullmatch(r"([\d.]+) ?(s|min|h)", self.every)
        return float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]] if match else None


class Workers(Frozen):
    """An elastic worker group: as many workers as fit, within a range. The global batch stays the same."""

    min: int = Field(gt=0, examples=["2"])
    """Fewest workers."""
    max: int = Field(gt=0, examples=["8"])
    """Most workers."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _workers_kind(value: Any) -> str:
    return "range" if isinstance(value, dict | Workers) else "number"


_OneNumber = Annotated[int, Field(gt=0)] | Auto
AnyWorkers = Annotated[
    Annotated[Workers, Tag("range")] | Annotated[_OneNumber, Tag("number")],
    Discriminator(_workers_kind),
    Written(
        noun="number of workers",
        forms="auto, a whole number above 0, or a range such as {min: 2, max: 8}",
        example="{min: 2, max: 8}",
    ),
]


class StopAfter(Frozen):
    """End the study after a number of failed runs."""

    stop_after: int = Field(gt=0, examples=["3"])
    """Failed runs after which the study ends."""


class Retries(Frozen):
    """Attempts after the first one, by the cause that ended the attempt before."""

    written: ClassVar = Written(
        noun="number of retries",
        forms="a number of failures such as 5, or a mapping such as {failures: 5, preemptions: 10}",
        example="{failures: 5, preemptions: 10}",
    )

    failures: int = Field(default=2, ge=0)
    """Retries after errors and after workers that died."""
    preemptions: int = Field(default=10, ge=0)
    """Retries after preemptions."""
    oom: int = Field(default=3, ge=0)
    """Retries after running out of memory, each with half the micro-batch."""
    stalls: int = Field(default=1, ge=0)
    """Retries after a stall: `resources.stall_minutes` without progress."""
    pause_seconds: float = Field(default=5.0, ge=0)
    """Pause before the first retry; doubled for each further one, up to 5 minutes."""


def _as_retries(value: Any) -> Any:
    """A number alone is the number of failures."""
    return {"failures": value} if isinstance(value, int) else value


class OnFailure(Frozen):
    """How often a run is retried, and whether the other runs continue once it has failed."""

    retries: Annotated[Retries, BeforeValidator(_as_retries)] = Retries()
    """Attempts after the first one, by cause; a number alone is `failures`."""
    then: Annotated[
        Literal["continue", "stop"] | StopAfter,
        Written(noun="policy", forms="continue, stop, or {stop_after: 3}", example="{stop_after: 3}"),
    ] = "continue"
    """What happens to the other runs: `continue`, `stop`, or stop after a number of failed runs."""
