"""From points to a law: one form fitted and described, or the form that would have forecast best.

Reads checked points, returns a Law. Forms are chosen by roll-out (fit the past, score the future), never by how well they
follow the points they were fitted to.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

from orchestrator.laws import bands
from orchestrator.laws.forms import FLAT, FORMS, Form
from orchestrator.laws.law import Diagnostics, Law, Rollout, log_scale_of
from orchestrator.laws.points import (
    Array,
    LawError,
    Points,
    effective_points,
    growing_weights,
    points,
    refuse_rising,
    refuse_too_little,
    trend,
)
from orchestrator.laws.solver import Asked, Loss, Task, jacobian, residuals, solve
from vitmodel.config.base import suggest

CUTS = (0.35, 0.5, 0.7)  # roll-outs stand at these shares of the largest x
HORIZON = 2.01  # and look ahead by a factor of two
AHEAD = 2.0  # candidates that roll-outs cannot tell apart are compared here, times the largest x
ALIKE = 1.5  # the RMSE of three roll-outs is known to about 1 / sqrt(2 x 3) = 40%: less than this is no difference
CANDIDATES = ("M2", "M3", "zhai")  # a floor, a bend towards a floor, and both ends bent
NO_ROLLOUT = Rollout(rmse=float("nan"), bias=float("nan"), spread=float("nan"), cuts=0)


def fit_form(form: Form, found: Points, asked: Asked) -> Law:
    """The law of this form. Raises LawError for too few points or a range below a decade."""
    refuse_too_little(found, form.parameters)
    if not form.many_starts:  # broken laws may rise
        refuse_rising(found)
    rollout = roll_out(form, found, asked)
    return _law(form, found, asked, rollout, {form.name: rollout.rmse})


def fit_auto(found: Points, asked: Asked) -> Law:
    """The law that forecasts best: flat where nothing falls, else one of the candidates, by roll-out.

    Forms whose roll-out error is within half of the best cannot be told apart by so few cuts; of these the one is
    taken whose forecast for twice the largest x is the median (of two, the better in roll-out): it hedges between floors
    that are too high and too low.
    Without a roll-out (too few points) that is the choice among all of them. A known chance level makes M4 a candidate.
    """
    refuse_too_little(found, 2)
    refuse_rising(found)
    if trend(found) == "flat":
        return _law(FLAT, found, replace(asked, chance=None), roll_out(FLAT, found, replace(asked, chance=None)), {})
    different = len(np.unique(found.x, axis=0))
    names = CANDIDATES if asked.chance is None else (*CANDIDATES, "M4")
    forms = [FORMS[name] for name in names if different > FORMS[name].parameters]
    rollouts = {form.name: roll_out(form, found, asked) for form in forms}
    best = min((r.rmse for r in rollouts.values() if np.isfinite(r.rmse)), default=np.inf)
    alike = [form for form in forms if not rollouts[form.name].rmse > ALIKE * best]
    scores = {name: rollout.rmse for name, rollout in rollouts.items()}
    laws = [_law(form, found, asked, rollouts[form.name], scores) for form in alike]
    ahead = np.array([AHEAD * found.first.max()])
    ordered = sorted(laws, key=lambda law: float(law.predict(ahead)[0]))
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    chosen = min(middle, key=lambda law: scores[law.form])
    return replace(chosen, rivals=tuple(law for law in laws if law is not chosen))


def task_of(form: Form, found: Points, asked: Asked) -> tuple[Task, Array, float]:
    """What is to be solved, the centre of x (1,) or (2,), and the growth of the weights.

    Raises LawError for x with other columns than the form has, or an error at or above the chance level.
    """
    columns = found.x.reshape(len(found.x), -1)
    if columns.shape[1] != form.columns:
        raise LawError(f"{form.name} takes {form.columns} column(s) of x", reason="bad input", allowed=form.formula)
    known = asked.chance if form.scale_is_chance else None
    if known is not None and not known >= found.y.max():
        raise LawError(f"an error of {found.y.max():g} is above the chance level {known:g}", reason="bad input")
    weights, used = growing_weights(found, form.parameters, asked.growth)
    centre = np.exp(np.log(columns).mean(axis=0))
    z = (columns / centre) if form.columns == 2 else found.x / centre[0]
    log_scale = None if known is None else float(np.log(known))
    return Task(form=form, z=z, weights=weights, loss=asked.loss, log_scale=log_scale), centre, used


# --- roll-out -------------------------------------------------------------------------------------------------


def roll_out(form: Form, found: Points, asked: Asked) -> Rollout:
    """The form fitted on the points up to each cut and scored on those up to twice the cut (or the next one)."""
    misses = []
    for cut in _cuts(found, form.parameters):
        past = found.first <= cut
        ahead = found.first[~past].min()
        held = found.part(~past & (found.first <= max(HORIZON * cut, ahead)))
        misses.append(np.log(_predict(form, found.part(past), held.x, asked)) - np.log(held.y))
    if not misses:
        return NO_ROLLOUT
    squares = np.array([float(np.mean(miss**2)) for miss in misses])
    mean = float(squares.mean())
    spread = float(squares.std(ddof=1) / np.sqrt(len(squares)) / mean) if len(squares) > 1 and mean > 0 else float("nan")
    return Rollout(rmse=mean**0.5, bias=float(np.mean([miss.mean() for miss in misses])), spread=spread, cuts=len(misses))


def _cuts(found: Points, parameters: int) -> list[float]:
    """The largest x of each past that leaves more points than parameters, and a future."""
    x = found.first
    cuts = []
    for share in CUTS:
        past = x[x <= share * x.max()]
        if len(np.unique(past)) > parameters and len(past) < len(x):
            cuts.append(float(past.max()))
    return sorted(set(cuts))


def _predict(form: Form, past: Points, x: Array, asked: Asked) -> Array:
    task, centre, _ = task_of(form, past, asked)
    log_y = np.log(past.y)
    theta = solve(task, log_y, keep=3).theta[0]
    z = x / (centre if form.columns == 2 else centre[0])
    return np.asarray(np.exp(log_scale_of(task, theta, log_y) + form.log_shape(theta[None], z))[0])


# --- one fit, and what it has to say --------------------------------------------------------------------------


def _law(form: Form, found: Points, asked: Asked, rollout: Rollout, candidates: Mapping[str, float]) -> Law:
    task, centre, used = task_of(form, found, asked)
    log_y = np.log(found.y)
    ends = solve(task, log_y)
    theta, converged = _polished(task, ends.theta[0], log_y) if form.axes else (ends.theta[0], True)
    agreeing = int((ends.objective <= ends.objective.min() * 1.001 + 1e-15).sum())
    return describe(
        task, theta, found, centre, used, converged=converged, agreeing=agreeing, rollout=rollout, candidates=candidates
    )


def _polished(task: Task, theta: Array, log_y: Array) -> tuple[Array, bool]:
    """The solution taken to the end by scipy's trust-region solver, and whether that one is satisfied."""
    inside = np.clip(theta, task.low + 1e-10, task.high - 1e-10)
    found = least_squares(
        lambda t: residuals(task, t[None], log_y)[0], inside, bounds=(task.low, task.high), xtol=1e-10, ftol=1e-10, gtol=1e-10
    )
    before = float((residuals(task, theta[None], log_y) ** 2).sum())
    return (np.asarray(found.x) if 2 * found.cost < before else theta), bool(found.success)


def describe(
    task: Task,
    theta: Array,
    found: Points,
    centre: Array,
    growth: float,
    *,
    converged: bool,
    agreeing: int,
    rollout: Rollout,
    candidates: Mapping[str, float],
) -> Law:
    """The Law at theta (k,), with its diagnostics."""
    log_scale = log_scale_of(task, theta, np.log(found.y))
    return Law(
        form=task.form.name,
        formula=task.form.formula,
        params=task.form.natural(theta, log_scale, centre),
        diagnostics=replace(
            _diagnostics(task, theta, found),
            growth=growth,
            converged=converged,
            agreeing_starts=agreeing,
            rollout=rollout,
            candidates=dict(candidates),
        ),
        theta=theta,
        log_scale=log_scale,
        centre=centre,
        points=found,
        task=task,
    )


def _diagnostics(task: Task, theta: Array, found: Points) -> Diagnostics:
    """All that can be read from the solution itself; how it was found is still blank."""
    log_y = np.log(found.y)
    rest = log_y - bands.log_fit(task, theta, log_y)
    share = task.weights / task.weights.sum()
    noise = bands.noise_of(task, rest, bands.spent(task, theta, log_y))
    errors, condition = _standard_errors(task, theta, log_y, noise)
    axes = list(zip(task.form.axes, theta.tolist(), strict=True))
    return Diagnostics(
        points=len(log_y),
        effective_points=effective_points(task.weights),
        growth=0.0,
        trend=trend(found),
        objective=float((residuals(task, theta[None], log_y) ** 2).sum()),
        rmse=float(np.sqrt(share @ rest**2)),
        noise=noise,
        converged=False,
        agreeing_starts=0,
        bounds_hit=tuple(axis.name for axis, value in axes if min(value - axis.low, axis.high - value) < 1e-3),
        unidentified=tuple(axis.name for axis, value in axes if errors[axis.name] > _tolerable(axis.name, value)),
        condition=condition,
        standard_errors=errors,
        rollout=NO_ROLLOUT,
        candidates={},
    )


def _tolerable(name: str, value: float) -> float:
    """The largest standard error of an identified parameter: half of itself, so that it is told from zero."""
    exponent = name in ("a", "b", "c") or (name.startswith("c") and name[1:].isdigit())
    return abs(float(value)) / 2 if exponent else 0.5


def _standard_errors(task: Task, theta: Array, log_y: Array, noise: float) -> tuple[dict[str, float], float]:
    """Linearised standard error of each theta (inf where the data do not hold it) and the condition number."""
    names = [axis.name for axis in task.form.axes]
    if not names:
        return {}, 1.0
    slopes = jacobian(lambda t: residuals(task, t, log_y), theta[None], residuals(task, theta[None], log_y))[0]
    norms = np.linalg.norm(slopes, axis=0)
    if not (norms > 1e-9).all():
        return {name: float("inf") if size <= 1e-9 else noise / size for name, size in zip(names, norms, strict=True)}, np.inf
    _, size, right = np.linalg.svd(slopes / norms, full_matrices=False)
    if size[-1] <= 1e-10 * size[0]:
        return dict.fromkeys(names, float("inf")), float("inf")
    spread = np.sqrt(((right / size[:, None]) ** 2).sum(axis=0))
    level = noise * np.sqrt(float(task.weights.max()))
    return dict(zip(names, (level * spread / norms).tolist(), strict=True)), float(size[0] / size[-1])


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
    common factor. chance: the error of guessing, for M4; fitted where it is None. runs: which rows come from one run, for
    the bootstrap. growth: weights also grow as x^growth; None means 2, or less where points are few.
    Raises LawError: fewer different x than parameters + 1 or than 4, less than a decade in x, error that rises with x,
    values that are not positive and finite.
    """
    if form != "auto" and form not in FORMS:
        raise LawError(f"no form {form!r}{suggest(form, list(FORMS))}", reason="bad input", allowed=", ".join(["auto", *FORMS]))
    found = points(x, y, weights, runs)
    asked = Asked(loss=loss, chance=chance, growth=growth)
    columns = 1 if form == "auto" else FORMS[form].columns
    if found.x.reshape(len(found.x), -1).shape[1] != columns:
        raise LawError(f"form {form} takes {columns} column(s) of x", reason="bad input")
    if form == "auto":
        return fit_auto(found, asked)
    return fit_form(FORMS[form], found, asked)
