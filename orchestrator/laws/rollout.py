"""Roll-outs: a form is fitted on the points up to a cut and scored on the points beyond it."""

from __future__ import annotations

import numpy as np

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


def roll_out(form: FunctionalForm, points: Points, options: FitOptions) -> Rollout:
    """The form fitted on the points up to each cut and scored on the points up to twice the cut (at least the next one)."""
    misses = []
    for cut in _cuts(points, form.num_parameters):
        is_past = points.first <= cut
        following = points.first[~is_past].min()
        scored = points.part(~is_past & (points.first <= max(HORIZON * cut, following)))
        misses.append(np.log(_forecast(form, points.part(is_past), scored.x, options)) - np.log(scored.y))
    if not misses:
        return NO_ROLLOUT
    squares = np.array([float(np.mean(miss**2)) for miss in misses])
    mean = float(squares.mean())
    spread = float(squares.std(ddof=1) / np.sqrt(len(squares)) / mean) if len(squares) > 1 and mean > 0 else float("nan")
    return Rollout(rmse=mean**0.5, bias=float(np.mean([miss.mean() for miss in misses])), spread=spread, cuts=len(misses))


def _cuts(points: Points, parameters: int) -> list[float]:
    """The largest x of each past that has more distinct x than parameters, and points beyond it."""
    x = points.first
    cuts = []
    for share in CUTS:
        past = x[x <= share * x.max() * (1 + ROUNDING)]
        if count_distinct(past) > parameters and len(past) < len(x):
            cuts.append(float(past.max()))
    return sorted(set(cuts))


def _forecast(form: FunctionalForm, past: Points, x: Array, options: FitOptions) -> Array:
    problem, centre, _ = build_problem(form, past, options)
    log_y = np.log(past.y)
    theta = solve(problem, log_y, starts=STARTS).theta[0]
    z = x / (centre if form.columns == 2 else centre[0])
    return np.asarray(np.exp(log_scale_at(problem, theta, log_y) + form.log_shape(theta[None], z))[0])
