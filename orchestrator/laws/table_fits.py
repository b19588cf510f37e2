"""Kinds of fits to a group of rows of a table: a law of one column, one with a shared floor, a joint law, an IsoFLOP analysis.

Reads arrays and options, returns frozen data. Does not know files.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from orchestrator.laws.fitting import fit
from orchestrator.laws.isoflop_fit import SAME_COMPUTE, IsoFlop, isoflop
from orchestrator.laws.joint import DELTA, JointLaw, fit_joint
from orchestrator.laws.law import Law
from orchestrator.laws.optimum import Cost, Optimum, fit_cost, optimum
from orchestrator.laws.pareto_front import pareto
from orchestrator.laws.points import Array, LawError
from orchestrator.laws.problem import Loss
from orchestrator.laws.shared_asymptote import fit_shared
from vitmodel.config.base import UserError

JOINT = "L(N,D)"


@dataclass(frozen=True, kw_only=True)
class FitChoices:
    """How rows are fitted; None means the default of the form. block and flops_column name columns of the table."""

    form: str = "auto"
    loss: Literal["squared", "huber"] | None = None
    weights: Literal["equal", "growing"] | None = None
    chance: float | None = None
    block: str | None = None
    frontier: bool = False
    share_floor: bool = False
    is_isoflop: bool = False
    tolerance: float = SAME_COMPUTE
    flops_per_parameter: float = 6.0
    flops_column: str | None = None

    @property
    def columns(self) -> int:
        """The number of x columns."""
        return 2 if self.is_isoflop or self.form == JOINT else 1


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows of a group: x (n, columns), y (n,), the block of each row, and the FLOPs of an example of each."""

    x: Array
    y: Array
    blocks: tuple[Hashable, ...] | None = None
    flops: Array | None = None


@dataclass(frozen=True, kw_only=True)
class JointFit:
    """A joint law with its compute-optimal allocation, or the reason why it has none."""

    law: JointLaw
    optimum: Optimum | None
    refused: str


AnyFit: TypeAlias = Law | JointFit | IsoFlop


def check_choices(choices: FitChoices) -> None:
    """Raise UserError for options that exclude each other."""
    is_joint = choices.form == JOINT and not choices.is_isoflop
    wrong = {
        "--form": (choices.is_isoflop and choices.form != "auto", "--isoflop is a parabola at each compute and has no form"),
        "--frontier": (choices.frontier and choices.columns == 2, "a frontier needs a single --x column"),
        "--share-floor": (choices.share_floor and choices.form not in ("auto", "M2"), "only form M2 can share its floor"),
        "--weights": (choices.weights == "growing" and choices.columns == 2, "rows of two columns have equal weights"),
        "--loss": (choices.loss is not None and (choices.is_isoflop or choices.share_floor), "the loss is squared here"),
        "--chance": (choices.chance is not None and choices.form not in ("auto", "M4"), "only M4 has a chance level"),
        "--block": (choices.block is not None and (choices.is_isoflop or choices.share_floor), "has no effect here"),
        "--isoflop": (choices.is_isoflop and choices.share_floor, "excludes --share-floor"),
        "--flops-per-example": (choices.flops_column is not None and not is_joint, f"is used by --form '{JOINT}'"),
    }
    for option, (is_wrong, why) in wrong.items():
        if is_wrong:
            raise UserError(f"this option does not fit the others: {why}", field=option)


def fit_rows(rows: Rows, choices: FitChoices) -> AnyFit:
    """The fit of one group. Raises LawError."""
    if choices.is_isoflop:
        return isoflop(rows.x[:, 0], rows.x[:, 1], rows.y, choices.tolerance)
    if choices.form == JOINT:
        return _joint(rows, choices)
    x, y, blocks = _one_column(rows, choices)
    growth = 0.0 if choices.weights == "equal" else None
    loss = Loss(kind=choices.loss or "squared")
    return fit(x, y, choices.form, chance=choices.chance, runs=blocks, growth=growth, loss=loss)


def fit_with_shared_floor(groups: Mapping[str, Rows], choices: FitChoices) -> dict[str, Law]:
    """M2 laws of several groups with one floor. Raises LawError."""
    curves = {name: _one_column(rows, choices)[:2] for name, rows in groups.items()}
    return fit_shared(curves, growth=0.0 if choices.weights == "equal" else None)


def _joint(rows: Rows, choices: FitChoices) -> JointFit:
    delta = None if choices.loss == "squared" else DELTA
    law = fit_joint(rows.x[:, 0], rows.x[:, 1], rows.y, delta=delta, blocks=rows.blocks)
    try:
        cost = Cost(factor=choices.flops_per_parameter) if rows.flops is None else fit_cost(rows.x[:, 0], rows.flops)
        return JointFit(law=law, optimum=optimum(law, cost), refused="")
    except LawError as error:
        return JointFit(law=law, optimum=None, refused=error.message)


def _one_column(rows: Rows, choices: FitChoices) -> tuple[Array, Array, Sequence[Hashable] | None]:
    """x, y and blocks: all rows, or those on the frontier, where y is below that of every cheaper row."""
    x, y = rows.x[:, 0], rows.y
    if not choices.frontier:
        return x, y, rows.blocks
    front_x, front_y = pareto(x, y)
    if rows.blocks is None:
        return front_x, front_y, None
    index = [int(np.flatnonzero((x == at) & (y == value))[0]) for at, value in zip(front_x, front_y, strict=True)]
    return front_x, front_y, [rows.blocks[i] for i in index]
