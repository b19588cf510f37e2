"""What a study file asks of its rows beside its runs: imported tables, claims to judge, targets to forecast.

Sections of the study file's shape (schema.py puts them in their place); frozen and strict.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vitmodel.config.base import Frozen

MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
NAME = r"^[a-z0-9_-][a-z0-9._-]{0,63}$"  # a folder's name: neither .. nor hidden
Name = Annotated[str, Field(pattern=NAME)]


def as_count(value: Any) -> Any:
    """Counts may be written 16k, 30M or 1e6."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?)", value)):
        value = float(Fraction(match[1]) * MULTIPLES[match[2]])  # 2.3M in floats is not whole
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(as_count), Field(gt=0)]

ClaimName = Literal[
    "larger_needs_data",
    "overtakes_with_data",
    "less_compute",
    "two_to_four_times_less",
    "hybrid_advantage_vanishes",
    "few_epochs_suffice",
    "no_saturation",
]
LawForm = Literal["auto", "M1", "M2", "M3", "zhai"]


class Import(Frozen):
    """A table of someone's results. `table` is a CSV beside the study file; without it, `vitscale import-results` was first.

    columns: the name of ours to the name in the table, where they differ.
    """

    name: Name
    table: str | None = None
    source: str = ""
    columns: dict[str, str] = Field(default={})


class Claims(Frozen):
    """Which claims are judged, on which rows, and how sure one must be.

    tasks: their mean is the first view; leave_out: also the mean without these (default: those at their ceiling). pairs:
    (larger, smaller) variants. test_images: where the rows do not say it. seed_spread: standard deviation of log error
    between seeds, assumed where no run was repeated with another seed.
    """

    check: tuple[ClaimName, ...] | None = None
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1)
    leave_out: tuple[str, ...] | None = None
    on: dict[ClaimName, str] = Field(default={})  # the view (a task's name) on which a claim is judged, if not the first
    test_images: dict[str, Count] = Field(default={})
    challenger: str = "vit"
    rival: str = "resnet"
    hybrid: str = "hybrid"
    pairs: tuple[tuple[str, str], ...] = ()
    form: LawForm = "auto"  # of the laws over compute that the verdicts rest on
    level: float = Field(default=0.9, gt=0.5, lt=1)
    seed_spread: float = Field(default=0.03, ge=0)
    times_less: tuple[float, float] = (2.0, 4.0)
    few_epochs: float | None = Field(default=None, gt=0)
    few_epochs_excess: float = Field(default=0.05, gt=0)  # error this much above that of the most epochs is "enough"
    saturated_gain: float = Field(default=0.01, gt=0)  # error that falls by less for each doubling of compute is saturated


class Target(Frozen):
    """A run to forecast: a variant pretrained on so many images, judged on a task (default: the first view)."""

    variant: str
    dataset_size: Count
    task: str | None = None
    epochs: float | None = Field(default=None, gt=0)  # of pretraining; default: the study's first length

    @property
    def label(self) -> str:
        """`L/16 at 300000000 images`, and the task where one is named."""
        where = f" on {self.task}" if self.task else ""
        length = f", {self.epochs:g} epochs" if self.epochs else ""
        return f"{self.variant} at {self.dataset_size:,} images{length}{where}"
