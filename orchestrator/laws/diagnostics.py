"""The Law of a solved fit, with diagnostics: noise, standard errors, parameters at a bound or not determined by the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from orchestrator.laws.bootstrap import noise_of, used_freedom
from orchestrator.laws.law import Diagnostics, Law, Rollout
from orchestrator.laws.points import Array, Points, is_short, trend
from orchestrator.laws.problem import FitProblem, fitted_log_error, log_scale_at, residuals
from orchestrator.laws.rollout import NO_ROLLOUT
from orchestrator.laws.solver import jacobian
from orchestrator.laws.weights import effective_points


def describe(
    problem: FitProblem,
    theta: Array,
    points: Points,
    centre: Array,
    growth: float,
    *,
    converged: bool,
    agreeing: int,
    rollout: Rollout,
    candidates: Mapping[str, float],
) -> Law:
    """The Law at theta (k,), with its diagnostics."""
    log_scale = log_scale_at(problem, theta, np.log(points.y))
    return Law(
        form=problem.form.name,
        formula=problem.form.formula,
        params=problem.form.natural(theta, log_scale, centre),
        diagnostics=replace(
            _diagnose(problem, theta, points),
            growth=growth,
            converged=converged,
            agreeing_starts=agreeing,
            rollout=rollout,
            candidates=dict(candidates),
        ),
        theta=theta,
        log_scale=log_scale,
        centre=centre,
        points=points,
        problem=problem,
    )


def _diagnose(problem: FitProblem, theta: Array, points: Points) -> Diagnostics:
    """The diagnostics that follow from the solution alone; `describe` fills in those of the search."""
    log_y = np.log(points.y)
    rest = log_y - fitted_log_error(problem, theta, log_y)
    share = problem.weights / problem.weights.sum()
    noise = noise_of(problem, rest, used_freedom(problem, theta, log_y))
    errors, condition = _standard_errors(problem, theta, log_y, noise)
    parameters = list(zip(problem.form.parameters, theta.tolist(), strict=True))
    return Diagnostics(
        points=len(log_y),
        effective_points=effective_points(problem.weights),
        growth=0.0,
        trend=trend(points),
        objective=float((residuals(problem, theta[None], log_y) ** 2).sum()),
        rmse=float(np.sqrt(share @ rest**2)),
        noise=noise,
        converged=False,
        agreeing_starts=0,
        bounds_hit=tuple(p.name for p, value in parameters if min(value - p.low, p.high - value) < 1e-3),
        unidentified=tuple(p.name for p, value in parameters if errors[p.name] > _max_standard_error(p.name, value)),
        condition=condition,
        standard_errors=errors,
        rollout=NO_ROLLOUT,
        candidates={},
        short_range=is_short(points),
    )


def _max_standard_error(name: str, value: float) -> float:
    """The largest standard error of an identified parameter: half its value, so that it differs significantly from zero."""
    is_exponent = name in ("a", "b", "c") or (name.startswith("c") and name[1:].isdigit())
    return abs(float(value)) / 2 if is_exponent else 0.5


def _standard_errors(problem: FitProblem, theta: Array, log_y: Array, noise: float) -> tuple[dict[str, float], float]:
    """Linearised standard error of each theta (inf if the data do not determine it) and the condition number."""
    names = [parameter.name for parameter in problem.form.parameters]
    if not names:
        return {}, 1.0
    base = residuals(problem, theta[None], log_y)
    slopes = jacobian(lambda t: residuals(problem, t, log_y), theta[None], base)[0]
    norms = np.linalg.norm(slopes, axis=0)
    if not (norms > 1e-9).all():
        return {name: float("inf") if size <= 1e-9 else noise / size for name, size in zip(names, norms, strict=True)}, np.inf
    _, size, right = np.linalg.svd(slopes / norms, full_matrices=False)
    if size[-1] <= 1e-10 * size[0]:
        return dict.fromkeys(names, float("inf")), float("inf")
    spread = np.sqrt(((right / size[:, None]) ** 2).sum(axis=0))
    level = noise * np.sqrt(float(problem.weights.max()))
    return dict(zip(names, (level * spread / norms).tolist(), strict=True)), float(size[0] / size[-1])
