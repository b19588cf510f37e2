"""What a study's rows have to say, as frozen data: curves with laws, comparisons, verdicts on claims, forecasts of targets.

`findings.findings(frame, study)` makes it; the report, the notebooks and the command line only read it. Errors are fractions,
x is images (dataset_size) or FLOPs (pretrain_flops), intervals are at the level of `Findings.level`; an unknown number is nan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from orchestrator.laws.ratios import Ratio
from orchestrator.laws.law import Law

Axis = Literal["pretrain_flops", "dataset_size"]


class Verdict(StrEnum):
    """What the rows say of a claim. CANNOT_TELL: the interval straddles the line between holds and fails."""

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
        return f"{_said(self.value, self.unit)} [{_said(self.low, self.unit)}, {_said(self.high, self.unit)}]"


def _said(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "?" if math.isnan(value) else "never" if value > 0 else "any"
    return f"{value:+.1f}%" if unit == "%" else f"{value:.3g}{'x' if unit == 'x' else ''}"


@dataclass(frozen=True, kw_only=True)
class View:
    """What error is judged: the mean over `tasks` (or one of them) in one phase, measured one way (`how`, in words)."""

    name: str
    tasks: tuple[str, ...]
    phase: Literal["finetune", "probe", "pretrain"]
    how: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One pretraining as a view sees it: its error, the rows it is made of, and how far its log error may be off (standard
    deviations): by its finite test sets alone (`noise`), and by these and the seed (`spread`).
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


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A family's error over compute (variant ""), or a variant's over data, and its law or why there is none."""

    view: str
    family: str
    variant: str
    axis: Axis
    points: tuple[Point, ...]
    law: Law | None = field(repr=False)
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times the compute of `second` the family `first` needs at equal error. method: a form's name, or "fronts"."""

    view: str
    first: str
    second: str
    method: str
    ratio: Ratio


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence about scaling, judged. `number` decides the verdict, `parts` explain it; `runs` are the ids of the rows used.

    headline: one a claim, on the view that the study asks for; the others show whether single tasks agree.
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


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A target's predicted error and 90% band. `made_before`: saved while the target had no result.

    by: which law (along data, along compute, or over sizes and data); `beyond` says how far each axis lies outside the rows
    (3 = three times the largest). measured is nan until the target is done; `refused` says why there is no prediction.
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
    """Everything the rows say. The first view is the one the study is about."""

    study: str
    level: float
    views: tuple[View, ...]
    curves: tuple[Curve, ...]
    comparisons: tuple[Comparison, ...]
    ceilings: Mapping[str, str]  # task -> why its errors are mostly noise
    claims: tuple[Claim, ...]
    forecasts: tuple[Forecast, ...]
