"""The findings of a study as frozen data: curves with laws, comparisons, verdicts on claims, forecasts of targets.

`findings.findings(frame, study)` computes them; the report, the notebooks and the command line only read them. Errors are
fractions, x is images (dataset_size) or FLOPs (pretrain_flops), intervals have the level `Findings.level`; an unknown number
is nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from orchestrator.laws.law import Law
from orchestrator.laws.ratios import Ratio

Axis = Literal["pretrain_flops", "dataset_size"]


class Verdict(StrEnum):
    """Whether a claim holds. CANNOT_TELL: the interval contains the limit between holds and fails."""

    HOLDS = "holds"
    FAILS = "fails"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number with its interval. unit: "x" (a factor), "%" (relative difference of error), "images"."""

    what: str
    value: float
    low: float
    high: float
    unit: Literal["x", "%", "images"]

    def __str__(self) -> str:
        if all(math.isnan(number) for number in (self.value, self.low, self.high)):
            return "unknown"
        if self.unit == "images" and self.value == self.low == self.high and math.isinf(self.value):
            return "not reached: still behind at the most images"
        if self.unit == "images" and self.value == self.low == self.high == 0:
            return "none: ahead at every measured number of images"
        return f"{_text(self.value, self.unit)} [{_text(self.low, self.unit)}, {_text(self.high, self.unit)}]"


def _text(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "unknown" if math.isnan(value) else "never" if value > 0 else "any"
    return f"{value:+.1f}%" if unit == "%" else f"{value:.3g}{'x' if unit == 'x' else ''}"


@dataclass(frozen=True, kw_only=True)
class View:
    """The error that is judged: the mean over `tasks`, or one task, in one phase. how: the amount of fine-tuning, as text."""

    name: str
    tasks: tuple[str, ...]
    phase: Literal["finetune", "probe", "pretrain"]
    how: str


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """A pretraining in a view: its error, and the rows that the error comes from.

    The standard deviation of its log error, from the finite test sets alone (`noise`) and from these and the seed (`spread`).
    recipe: the one that was chosen, if several were swept; optimism: by how much the log error of the best recipe is expected
    to be too low, because it is the best of several noisy runs.
    """

    family: str
    variant: str
    params: int
    dataset: str
    dataset_size: int
    epochs: float
    pretrain_flops: float
    seed: int
    error: float
    noise: float
    spread: float
    runs: tuple[str, ...]
    recipe: str = ""
    optimism: float = 0.0

    @property
    def block(self) -> str:
        """The runs that share their noise: one model and seed on one number of images, with all lengths and fine-tunes."""
        return f"{self.family} {self.variant} {self.dataset} {self.dataset_size} {self.seed}"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A pretraining that is in no curve over compute, or in none at all, and the reason."""

    family: str
    variant: str
    dataset_size: int
    runs: tuple[str, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class RowRule:
    """Which rows of a view make curves, as text, and the rows that do not, with the reason of each."""

    view: str
    text: str
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A family's error over compute (variant ""), or a variant's over data, and its law or the reason why it has none."""

    view: str
    family: str
    variant: str
    axis: Axis
    points: tuple[CurvePoint, ...]
    law: Law | None = field(repr=False)
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times the compute (or images: `axis`) of `second` the family `first` needs at equal error.

    method: a form's name, or "fronts"; for images also "M2 laws over images" or "fronts over images".
    """

    view: str
    first: str
    second: str
    method: str
    ratio: Ratio
    axis: Axis = "pretrain_flops"


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """The verdict on a claim in one view. `number` decides it, `parts` explain it; `runs` are the ids of the rows used.

    headline: true in one view per claim, the one that the study selects; the others show whether single tasks agree.
    provisional: the verdict rests on an assumed spread between seeds; `settle` states the two runs that would measure it.
    """

    name: str
    says: str
    view: str
    headline: bool
    verdict: Verdict
    number: Measure
    parts: tuple[Measure, ...]
    method: str
    sentence: str
    runs: tuple[str, ...]
    provisional: bool = False
    settle: str = ""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A target's predicted error and its prediction band. `made_before`: saved while the target had no result.

    by: the law that was used (along data, along compute, or over sizes and data); `beyond`: how far the target lies beyond
    the rows on each axis (3 = three times the largest). measured is nan until the target is done; `refused` states why there
    is no prediction.
    """

    target: str
    view: str
    variant: str
    dataset_size: int
    error: float
    low: float
    high: float
    form: str
    by: str
    beyond: Mapping[str, float]
    rollout_rmse: float
    runs: tuple[str, ...]
    made: str  # ISO 8601, UTC
    made_before: bool
    measured: float
    state: Literal["open", "inside", "outside", "refused"]
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All findings of a study. The first view is the main one."""

    study: str
    level: float
    views: tuple[View, ...]
    curves: tuple[Curve, ...]
    comparisons: tuple[Comparison, ...]
    ceilings: Mapping[str, str]  # task -> why its errors are mostly noise
    claims: tuple[ClaimVerdict, ...]
    forecasts: tuple[Forecast, ...]
    rows: tuple[RowRule, ...] = ()
