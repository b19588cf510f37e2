"""Roll-outs: a form is fitted on the points up to a cut and scored on the points beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.laws.forms import FunctionalForm
from orchestrator.laws.law import Rollout
from orchestrator.laws.points import Array, Points
from orchestrator.laws.problem import FitOptions, build_problem, log_scale_at
from orchestrator.laws.solver import solve
from orchestrator.laws.tolerance import ROUNDING, count_distinct

CUTS = (0.35, 0.5, 0.7)  # shares of the largest x
HORIZON = 2.01  # points up to this many times the cut are scored: a factor of two, with a tolerance
STARTS = 3
NO_ROLLOUT = Rollout(rmse=float("nan"), bias=float("nan"), spread=float("nan"), cuts=0)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A past, and the points beyond it that are scored: masks (n,), and the number of distinct x in the past."""

    is_past: NDArray[np.bool_]
    is_scored: NDArray[np.bool_]
    past_sizes: int


def make_cuts(points: Points, parameters: int) -> list[Cut]:
    """Each past that has more distinct x than parameters, with the points up to twice the cut (at least the next one)."""
    x = points.first
    ends = sorted({float(x[x <= share * x.max() * (1 + ROUNDING)].max(initial=x.min())) for share in CUTS})
    cuts = []
    for end in ends:
        is_past = x <= end
        sizes = count_distinct(points.x[is_past])
        if sizes > parameters and not is_past.all():
            is_scored = ~is_past & (x <= max(HORIZON * end, x[~is_past].min()))
            cuts.append(Cut(is_past=is_past, is_scored=is_scored, past_sizes=sizes))
    return cuts


def roll_out(form: FunctionalForm, points: Points, options: FitOptions) -> Rollout:
    """The form fitted on the points up to each cut and scored on the points beyond it."""
    misses = []
    for cut in make_cuts(points, form.num_parameters):
        scored = points.part(cut.is_scored)
        misses.append(np.log(_forecast(form, points.part(cut.is_past), scored.x, options)) - np.log(scored.y))
    return rollout_of(misses)


def rollout_of(misses: Sequence[Array]) -> Rollout:
    """The summary of the log errors (predicted over measured) at each cut."""
    if not misses:
        return NO_ROLLOUT
    squares = np.array([float(np.mean(miss**2)) for miss in misses])
    mean = float(squares.mean())
    spread = float(squares.std(ddof=1) / np.sqrt(len(squares)) / mean) if len(squares) > 1 and mean > 0 else float("nan")
    return Rollout(rmse=mean**0.5, bias=float(np.mean([miss.mean() for miss in misses])), spread=spread, cuts=len(misses))


def _forecast(form: FunctionalForm, past: Points, x: Array, options: FitOptions) -> Array:
    problem, centre, _ = build_problem(form, past, options)
    log_y = np.log(past.y)
    theta = solve(problem, log_y, starts=STARTS).theta[0]
    z = x / (centre if form.columns == 2 else centre[0])
    return np.asarray(np.exp(log_scale_at(problem, theta, log_y) + form.log_shape(theta[None], z))[0])
