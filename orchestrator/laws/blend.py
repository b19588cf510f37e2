"""Several laws of one curve, and their weighted average: forms fitted with several growths of weights, weighted by roll-out.

A single form, chosen by few roll-outs, is chosen by their noise. The average of log predictions needs no choice: a member
counts the more, the smaller its roll-out error. The fits of one form, for all growths and cuts, are one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.laws.forms import FunctionalForm, Parameter
from orchestrator.laws.law import Law, Member, Rollout
from orchestrator.laws.points import Array, Points
from orchestrator.laws.problem import FitOptions, FitProblem, best_log_scale, build_problem
from orchestrator.laws.rollout import NO_ROLLOUT, Cut, rollout_of
from orchestrator.laws.solver import descend, start_grid

GROWTHS = (0.0, 1.0, 2.0)  # weights x^growth: equal, for curves of one shape; growing, for curves that bend at small x
SHARPNESS = 4.0  # a weight is the roll-out error to the power of minus this
LEAST_ERROR = 0.01  # is added in squares to every roll-out error: smaller differences are noise
PRIOR_ERRORS = {  # mean RMSE ahead of simulated curves (python bench/simulated_curves.py --curves 600)
    "M2": 0.053,
    "M2 x^1": 0.036,
    "M2 x^2": 0.032,
    "M3": 0.056,
    "M3 x^1": 0.038,
    "M3 x^2": 0.034,
    "zhai": 0.028,
    "zhai x^1": 0.030,
    "zhai x^2": 0.040,
}
OTHER_PRIOR_ERROR = 0.04  # of forms and growths without a simulation
LEAST_WEIGHT = 0.01  # members with less are left out
STARTS = 2
SCALE = Parameter(name="scale", low=-np.inf, high=np.inf, starts=0)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A form fitted with one growth of the weights, and its forecasts: log error missed at the scored points of each cut."""

    problem: FitProblem
    theta: Array
    log_scale: float
    growth: float
    misses: tuple[Array, ...]  # of the cuts that have enough points for this form: the last ones

    @property
    def label(self) -> str:
        """M2, or M2 x^1 for weights that grow as x."""
        return self.problem.form.name + (f" x^{self.growth:g}" if self.growth else "")


def candidates(form: FunctionalForm, points: Points, options: FitOptions, cuts: Sequence[Cut]) -> list[Candidate]:
    """The form fitted with each growth (or only with the one of `options`), to all points and to those up to each cut."""
    growths = GROWTHS if options.growth is None else (options.growth,)
    own = [cut for cut in cuts if cut.past_sizes > form.num_parameters]
    problems = [build_problem(form, points, replace(options, growth=growth))[0] for growth in growths]
    pasts = [np.ones(len(points.y)), *(cut.is_past.astype(float) for cut in own)]
    weights = np.array([problem.weights * past for problem in problems for past in pasts])
    theta, log_scale = _solve_all(problems[0], weights, np.log(points.y))
    log_law = log_scale[:, None] + form.log_shape(theta, problems[0].z)
    result = []
    for number, (problem, growth) in enumerate(zip(problems, growths, strict=True)):
        first = number * len(pasts)
        missed = [log_law[first + 1 + i][cut.is_scored] - np.log(points.y[cut.is_scored]) for i, cut in enumerate(own)]
        fitted = {"problem": problem, "theta": theta[first], "log_scale": float(log_scale[first])}
        result.append(Candidate(**fitted, growth=growth, misses=tuple(missed)))
    return result


def _solve_all(problem: FitProblem, weights: Array, log_y: Array) -> tuple[Array, Array]:
    """theta (R, k) and log scale (R,) of the best descent for each row of weights (R, n)."""
    grid = start_grid(problem)
    gap = log_y - problem.form.log_shape(grid, problem.z)
    total, linear, square = weights.sum(axis=1), gap @ weights.T, gap**2 @ weights.T
    scale = linear / total if problem.log_scale is None else problem.log_scale
    costs = square - 2 * scale * linear + scale**2 * total  # (G, R), of the squared loss
    begin = grid[np.argsort(costs, axis=0, kind="stable")[:STARTS]].transpose(1, 0, 2).reshape(-1, grid.shape[1])
    repeated = np.repeat(weights, STARTS, axis=0)
    ends = descend(problem, begin, log_y, repeated)
    best = ends.objective.reshape(-1, STARTS).argmin(axis=1) + STARTS * np.arange(len(weights))
    theta = ends.theta[best]
    gaps = log_y - problem.form.log_shape(theta, problem.z)
    return theta, best_log_scale(replace(problem, weights=weights), gaps)[:, 0]


def weigh(members: Sequence[Candidate]) -> Array:
    """The weight of each candidate: its roll-out error to the power of -4 over its prior error; they sum to 1."""
    logs = -np.log([PRIOR_ERRORS.get(member.label, OTHER_PRIOR_ERROR) for member in members])
    common = min(len(member.misses) for member in members)
    if common:
        squares = np.array([np.mean([np.mean(miss**2) for miss in member.misses[-common:]]) for member in members])
        logs = logs - 0.5 * SHARPNESS * np.log(squares + LEAST_ERROR**2)
    weights = np.exp(logs - logs.max())
    weights = np.where(weights < LEAST_WEIGHT * weights.sum(), 0.0, weights)
    return np.asarray(weights / weights.sum())


def blend(named: Law, choices: Sequence[Candidate]) -> Law:
    """The average of the candidates as a law with the parameters of `named`."""
    weights = weigh(choices)
    kept = [(choice, float(weight)) for choice, weight in zip(choices, weights, strict=True) if weight > 0]
    members = tuple(
        Member(label=c.label, weight=w, growth=c.growth, problem=c.problem, theta=c.theta, log_scale=c.log_scale)
        for c, w in kept
    )
    common = min(len(choice.misses) for choice, _ in kept)
    averaged = [sum(w * c.misses[len(c.misses) - common + i] for c, w in kept) for i in range(common)]
    singles = {c.label: rollout_of(c.misses).rmse for c in choices}
    rollout: Rollout = rollout_of([np.asarray(miss) for miss in averaged]) if common else NO_ROLLOUT
    diagnostics = replace(named.diagnostics, rollout=rollout, candidates=singles, weights={m.label: m.weight for m in members})
    return replace(named, diagnostics=diagnostics, members=members, average=average_of(named, members))


def average_of(named: Law, members: Sequence[Member]) -> FunctionalForm:
    """theta: that of the named law and its log scale, which give the parameters; then those of each member, averaged."""
    base = named.problem.form
    size = len(named.theta) + 1

    def log_shape(theta: Array, z: Array) -> Array:
        first, total = size, np.zeros((len(theta), 1))
        for member in members:
            last = first + len(member.theta)
            value = theta[:, last : last + 1] + member.problem.form.log_shape(theta[:, first:last], z)
            total = total + member.weight * value
            first = last + 1
        return np.asarray(total)

    def natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
        return base.natural(theta[: size - 1], float(theta[size - 1]) + log_scale, centre)

    parameters = [*base.parameters, SCALE]
    for member in members:
        parameters += [*member.problem.form.parameters, SCALE]
    return replace(base, name="auto", parameters=tuple(parameters), log_shape=log_shape, natural=natural)
