"""The sections of a study file about its results: imported tables, claims to judge, targets to forecast."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from orchestrator.spec.values import Count, Name
from vitmodel.config.base import Frozen

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
    """A table of published results."""

    name: Name = Field(examples=["vit-paper-table6"])
    """Name of the imported table."""
    table: str | None = Field(default=None, examples=["data/table6.csv"])
    """A CSV file, relative to the study file; without it the table was imported before with `vitscale import-results`."""
    source: str = Field(default="", examples=["Dosovitskiy et al. 2021, Table 6"])
    """Where the results were published."""
    columns: dict[str, str] = Field(default={}, examples=["{variant: model}"])
    """Column names in the table, by ours, where they differ."""
    constants: dict[str, str | float] = Field(default={}, examples=["{family: vit, phase: zero-shot}"])
    """Values that all rows of the table have, by our column name."""
    times: dict[str, float] = Field(default={}, examples=["{params: 1e6}"])
    """Factors that turn numbers of the table into our units, by our column name."""


class Claims(Frozen):
    """Which claims are judged, on which rows, and at which confidence. A view is a task, or the mean over tasks."""

    check: tuple[ClaimName, ...] | None = None
    """Claims that are judged; default: all that have rows."""
    tasks: tuple[str, ...] | None = Field(default=None, min_length=1, examples=["[imagenet, cifar10]"])
    """Tasks whose mean is the first view; default: all."""
    leave_out: tuple[str, ...] | None = Field(default=None, examples=["[flowers]"])
    """Tasks without which the mean is also judged; default: tasks at their ceiling."""
    on: dict[ClaimName, str] = Field(default={}, examples=["{larger_needs_data: imagenet}"])
    """The view on which a claim is judged, where it is not the first."""
    test_images: dict[str, Count] = Field(default={}, examples=["{imagenet: 50k}"])
    """Test images of a task, where the rows do not have them."""
    challenger: str = "vit"
    """Family that is compared with `rival`."""
    rival: str = "resnet"
    """Family that `challenger` is compared with."""
    hybrid: str = "hybrid"
    """Family of hybrids."""
    pairs: tuple[tuple[str, str], ...] = Field(default=(), examples=["[[L/16, B/16]]"])
    """Pairs of variants (larger, smaller) for the claim larger_needs_data."""
    form: LawForm = "auto"
    """Form of the laws over compute on which verdicts rest."""
    level: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence level of intervals and verdicts."""
    seed_spread: float = Field(default=0.03, ge=0)
    """Standard deviation of the log error between seeds, assumed where no run was repeated with another seed."""
    times_less: tuple[float, float] = (2.0, 4.0)
    """Range of the compute ratio for the claim two_to_four_times_less."""
    few_epochs: float | None = Field(default=None, gt=0, examples=["7"])
    """Fine-tune epochs that count as few; default: the most that are at most half of the longest fine-tuning."""
    few_epochs_excess: float = Field(default=0.05, gt=0)
    """Few epochs suffice where their error is at most this share above that of the most epochs."""
    saturated_gain: float = Field(default=0.01, gt=0)
    """Saturated: the error falls by less than this share for each doubling of compute."""


class Target(Frozen):
    """A run whose result is forecast."""

    variant: str = Field(examples=["L/16"])
    """Model variant."""
    dataset_size: Count = Field(examples=["300M"])
    """Unique training images."""
    task: str | None = Field(default=None, examples=["imagenet"])
    """Task on which it is judged; default: the first view."""
    epochs: float | None = Field(default=None, gt=0, examples=["7"])
    """Epochs of pretraining; default: the study's first length."""

    @property
    def label(self) -> str:
        """`L/16 at 300,000,000 images`, with length and task where they are given."""
        where = f" on {self.task}" if self.task else ""
        length = f", {self.epochs:g} epochs" if self.epochs else ""
        return f"{self.variant} at {self.dataset_size:,} images{length}{where}"
