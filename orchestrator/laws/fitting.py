"""Fits a law to points: one form, or the form that forecast best in roll-outs.

Reads arrays, returns a Law. Forms are chosen by roll-out (fit the past, score the future), never by how well they follow the
points they were fitted to.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

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
from orchestrator.laws.rollout import roll_out
from orchestrator.laws.solver import solve
from orchestrator.laws.tolerance import count_distinct
from vitmodel.config.base import suggest

AHEAD = 2.0  # candidates with similar roll-out errors are compared at this many times the largest x
SIMILAR = 1.5  # ratio of roll-out errors; the RMSE of three roll-outs is uncertain by about 1 / sqrt(2 x 3) = 40%
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

    form: a name in FORMS, or "auto" (chosen by roll-out). weights: precision of each log error (`noise_weights`), up to a
    common factor. chance: the error of guessing, for M4; fitted if None. runs: the run of each row, for the bootstrap.
    growth: weights also grow as x^growth; None: 2, or less if there are few points.
    Raises LawError: fewer distinct x than parameters + 1 or than 4, less than a decade in x, an error that rises with x,
    values that are not positive and finite.
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
    return _fit(form, points, options, rollout, {form.name: rollout.rmse})


def fit_auto(points: Points, options: FitOptions) -> Law:
    """The law that forecasts best: flat if there is no falling trend, else one of the candidates, chosen by roll-out.

    Few cuts cannot separate forms whose roll-out error is within 1.5 times the best. Of these forms, the one with the median
    forecast at twice the largest x is chosen (of two, the one with the lower roll-out error): a compromise between floors
    that are too high and too low. Without roll-outs (too few points), all candidates are compared in this way.
    A known chance level makes M4 a candidate.
    """
    require_enough_data(points, 2)
    require_not_rising(points)
    if trend(points) == "flat":
        without_chance = replace(options, chance=None)
        return _fit(FLAT, points, without_chance, roll_out(FLAT, points, without_chance), {})
    distinct = count_distinct(points.x)
    names = CANDIDATES if options.chance is None else (*CANDIDATES, "M4")
    forms = [FORMS[name] for name in names if distinct > FORMS[name].num_parameters]
    rollouts = {form.name: roll_out(form, points, options) for form in forms}
    best = min((r.rmse for r in rollouts.values() if np.isfinite(r.rmse)), default=np.inf)
    similar = [form for form in forms if not rollouts[form.name].rmse > SIMILAR * best]
    scores = {name: rollout.rmse for name, rollout in rollouts.items()}
    laws = [_fit(form, points, options, rollouts[form.name], scores) for form in similar]
    ahead = np.array([AHEAD * points.first.max()])
    ordered = sorted(laws, key=lambda law: float(law.predict(ahead)[0]))
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    chosen = min(middle, key=lambda law: scores[law.form])
    return replace(chosen, rivals=tuple(law for law in laws if law is not chosen))


def _fit(form: FunctionalForm, points: Points, options: FitOptions, rollout: Rollout, candidates: Mapping[str, float]) -> Law:
    problem, centre, growth = build_problem(form, points, options)
    log_y = np.log(points.y)
    result = solve(problem, log_y)
    theta, converged = _polish(problem, result.theta[0], log_y) if form.parameters else (result.theta[0], True)
    agreeing = int((result.objective <= result.objective.min() * 1.001 + 1e-15).sum())
    return describe(
        problem, theta, points, centre, growth, converged=converged, agreeing=agreeing, rollout=rollout, candidates=candidates
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
