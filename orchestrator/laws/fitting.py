"""Fits a law to points: one form, or an average of forms, weighted by roll-out.

Reads arrays, returns a Law. Forms are weighted by roll-out (fit the past, score the future), never by how well they follow the
points they were fitted to.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares
from scipy.stats import f as f_test

from orchestrator.laws.blend import Candidate, blend, candidates
from orchestrator.laws.diagnostics import describe
from orchestrator.laws.forms import FLAT, FORMS, FunctionalForm
from orchestrator.laws.law import Law, Rollout
from orchestrator.laws.points import (
    Array,
    LawError,
    Points,
    check_points,
    require_enough_data,
    require_not_rising,
    trend,
)
from orchestrator.laws.problem import FitOptions, FitProblem, Loss, build_problem, residuals
from orchestrator.laws.rollout import make_cuts, roll_out, rollout_of
from orchestrator.laws.solver import descend, solve
from orchestrator.laws.tolerance import count_distinct
from vitmodel.config.base import suggest

NO_FLOOR = -7.0  # log of the floor over the law's error in the middle of the data: a thousandth of it
SIMILAR = 1.5  # ratio of roll-out errors; the RMSE of three roll-outs is uncertain by about 1 / sqrt(2 x 3) = 40%
REJECTED = 0.01  # significance at which the points reject a form with fewer parameters
CANDIDATES = ("M2", "M3", "zhai")  # with a floor, with a bend towards a floor, with bends at both ends
SQUARED = Loss()


def fit(
    x: ArrayLike,
    y: ArrayLike,
    form: str = "auto",
    weights: ArrayLike | None = None,
    chance: float | None = None,
    *,
    runs: Sequence[Hashable] | None = None,
    growth: float | None = None,
    loss: Loss = SQUARED,
) -> Law:
    """Fit y, an error above zero, as a law of x (n,), or (n, 2) for form "L(N,D)".

    form: a name in FORMS, or "auto" (an average, weighted by roll-out). weights: precision of each log error
    (`noise_weights`), up to a common factor. chance: the error of guessing, for M4; fitted if None. runs: the run of each
    row, for the bootstrap. growth: weights also grow as x^growth. None: 0 for a single form; "auto" averages growths of 0, 1
    and 2, and has the parameters of 0.
    Raises LawError: fewer distinct x than parameters + 1 or than 4, less than a factor of four in x, an error that rises with
    x, values that are not positive and finite.
    """
    if form != "auto" and form not in FORMS:
        raise LawError(
            f"unknown form {form!r}{suggest(form, list(FORMS))}", reason="bad input", allowed=", ".join(["auto", *FORMS])
        )
    points = check_points(x, y, weights, runs)
    options = FitOptions(loss=loss, chance=chance, growth=growth)
    columns, expected = points.x.reshape(len(points.x), -1).shape[1], 1 if form == "auto" else FORMS[form].columns
    if columns != expected:
        raise LawError(f"x has {columns} column(s)", reason="bad input", allowed=f"{expected} for form {form}")
    if form == "auto":
        return fit_auto(points, options)
    return fit_form(FORMS[form], points, options)


def fit_form(form: FunctionalForm, points: Points, options: FitOptions) -> Law:
    """The law of this form. Raises LawError for too few points or a range below a decade."""
    require_enough_data(points, form.num_parameters)
    if not form.sequence_points:  # broken power laws may rise
        require_not_rising(points)
    rollout = roll_out(form, points, options)
    return without_floor(_fit(form, points, options, rollout, scores={form.name: rollout.rmse}))


def fit_auto(points: Points, options: FitOptions) -> Law:
    """The average of the candidates, weighted by roll-out, with the parameters of one form; flat without a falling trend.

    Few cuts cannot tell which form is best, so none is chosen for predictions: each counts the more, the smaller its roll-out
    error. The parameters are those of M2; of M1, if the floor is at 0; of zhai (or M4, with a known chance level), if its
    roll-out error is less than two thirds of M2's and the points reject M2.
    """
    require_enough_data(points, 2)
    require_not_rising(points)
    if trend(points) == "flat":
        without_chance = replace(options, chance=None)
        return _fit(FLAT, points, without_chance, roll_out(FLAT, points, without_chance), scores={})
    distinct = count_distinct(points.x)
    names = CANDIDATES if options.chance is None else (*CANDIDATES, "M4")
    forms = [FORMS[name] for name in names if distinct > FORMS[name].num_parameters]
    cuts = make_cuts(points, min(form.num_parameters for form in forms))
    choices = [choice for form in forms for choice in candidates(form, points, options, cuts)]
    return blend(_named(choices, points, options), choices)


def _named(choices: Sequence[Candidate], points: Points, options: FitOptions) -> Law:
    """The law whose parameters are reported: weights by noise, or with the growth of `options`."""
    growth = 0.0 if options.growth is None else options.growth
    own = {choice.problem.form.name: choice for choice in choices if choice.growth == growth}
    common = min(len(choice.misses) for choice in own.values())
    errors = {name: rollout_of(choice.misses[-common:]).rmse for name, choice in own.items()} if common else {}
    better = [name for name in ("zhai", "M4") if SIMILAR * errors.get(name, np.inf) < errors.get("M2", np.inf)]
    better = [name for name in better if _needs(own[name], own["M2"], points)]
    name = min(better, key=lambda rival: errors[rival]) if better else "M2"
    chosen = replace(options, growth=growth)
    law = _fit(FORMS[name], points, chosen, rollout_of(own[name].misses), scores={}, start=own[name].theta)
    return without_floor(law) if name == "M2" else law


def _needs(larger: Candidate, smaller: Candidate, points: Points) -> bool:
    """Whether the points reject the form with fewer parameters (F test)."""
    costs = [float((residuals(c.problem, c.theta[None], np.log(points.y)) ** 2).sum()) for c in (larger, smaller)]
    extra = larger.problem.form.num_parameters - smaller.problem.form.num_parameters
    freedom = len(points.y) - larger.problem.form.num_parameters
    return freedom > 0 and bool(f_test.sf((costs[1] - costs[0]) / extra / (costs[0] / freedom), extra, freedom) < REJECTED)


def without_floor(law: Law) -> Law:
    """M1 in place of an M2 whose floor is at 0: the same curve with a parameter less. Its intervals allow for a floor."""
    if law.form != "M2" or law.theta[1] > NO_FLOOR:
        return law
    params = {name: law.params[name] for name in ("a", "c")}
    diagnostics = replace(law.diagnostics, bounds_hit=(), unidentified=())
    return replace(law, form="M1", formula=FORMS["M1"].formula, params=params, diagnostics=diagnostics)


def _fit(
    form: FunctionalForm,
    points: Points,
    options: FitOptions,
    rollout: Rollout,
    *,
    scores: Mapping[str, float],
    start: Array | None = None,
) -> Law:
    """The law of this form, searched from a grid, or from `start` if its solution is nearly known."""
    problem, centre, growth = build_problem(form, points, options)
    log_y = np.log(points.y)
    result = solve(problem, log_y) if start is None else descend(problem, start[None], log_y)
    theta, converged = _polish(problem, result.theta[0], log_y) if form.parameters else (result.theta[0], True)
    agreeing = int((result.objective <= result.objective.min() * 1.001 + 1e-15).sum())
    return describe(
        problem, theta, points, centre, growth, converged=converged, agreeing=agreeing, rollout=rollout, candidates=scores
    )


def _polish(problem: FitProblem, theta: Array, log_y: Array) -> tuple[Array, bool]:
    """The solution refined by scipy's trust-region solver, and whether that solver converged."""
    start = np.clip(theta, problem.low + 1e-10, problem.high - 1e-10)
    result = least_squares(
        lambda t: residuals(problem, t[None], log_y)[0],
        start,
        bounds=(problem.low, problem.high),
        xtol=1e-10,
        ftol=1e-10,
        gtol=1e-10,
    )
    before = float((residuals(problem, theta[None], log_y) ** 2).sum())
    return (np.asarray(result.x) if 2 * result.cost < before else theta), bool(result.success)
