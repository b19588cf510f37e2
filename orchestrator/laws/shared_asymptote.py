"""Form M2 for several families at once, with one asymptote for all of them: y = a_f x^-c_f + e.

For families that are evaluated on one task, e is the noise of the task (wrong labels, ambiguous images), not a property of
the family. The shared e is searched on a line. At a given e, the law of each family has two parameters; all families are
solved at all values of e in one batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws.bootstrap import DRAWS, describe_draws, resample
from orchestrator.laws.diagnostics import describe
from orchestrator.laws.forms import FAR, FORMS, Parameter
from orchestrator.laws.law import Law
from orchestrator.laws.points import Array, LawError, Points, check_points, require_enough_data, require_not_rising
from orchestrator.laws.problem import FitOptions, FitProblem, build_problem
from orchestrator.laws.rollout import roll_out
from orchestrator.laws.solver import descend

LEVELS = 33  # values of e in the first search, as shares of the smallest observed error
REFINEMENTS = 5  # of the interval around the best e
START_EXPONENT = 0.5
FORM = FORMS["M2"]


def _above_floor(theta: Array, z: Array) -> Array:
    """log(y / e) = log(1 + exp(k) z^-c) for theta = (c, k)."""
    return np.logaddexp(0.0, theta[:, 1:2] - theta[:, :1] * np.log(z))


GIVEN_FLOOR = replace(
    FORM,
    name="M2 given e",
    parameters=(FORM.parameters[0], Parameter(name="k", low=-FAR, high=30.0, starts=1)),
    log_shape=_above_floor,
)


@dataclass(frozen=True, kw_only=True)
class _Family:
    points: Points
    problem: FitProblem
    centre: Array
    growth: float


def fit_shared(families: Mapping[str, tuple[ArrayLike, ArrayLike]], growth: float | None = None) -> dict[str, Law]:
    """One M2 law for each family, given as (x, y), all with the same e. The loss is squared and summed over all points.

    Raises LawError for fewer than two families, and for points that `fit` does not accept. Intervals of the laws come from a
    joint bootstrap, so they account for the shared e. The roll-out of a law is that of M2 for its family alone.
    """
    if len(families) < 2:
        raise LawError(
            f"{len(families)} family cannot share an asymptote", reason="too few points", allowed="two families or more"
        )
    members = [_family(check_points(*xy), growth) for xy in families.values()]
    log_e, ends = _search(members, [np.log(member.points.y)[None] for member in members])
    solved = [_at_floor(member, end[0], log_e[0]) for member, end in zip(members, ends, strict=True)]
    samples = [resample(problem, theta, points, DRAWS, salt) for salt, (problem, theta, points) in enumerate(solved)]
    log_es, refits = _search(members, samples)
    laws = {}
    for name, member, (problem, theta, points), end in zip(families, members, solved, refits, strict=True):
        rollout = roll_out(FORM, points, FitOptions(growth=growth))
        theta_draws = np.stack([end[:, 0], -end[:, 1]], axis=1)
        draws = describe_draws(problem, theta, points, theta_draws, log_es + end[:, 1])
        law = describe(
            problem, theta, points, member.centre, member.growth, converged=True, agreeing=1, rollout=rollout, candidates={}
        )
        laws[name] = replace(law, joint_draws=draws)
    return laws


def _family(points: Points, growth: float | None) -> _Family:
    require_enough_data(points, FORM.num_parameters)
    require_not_rising(points)
    problem, centre, used_growth = build_problem(FORM, points, FitOptions(growth=growth))
    return _Family(points=points, problem=problem, centre=centre, growth=used_growth)


def _at_floor(member: _Family, end: Array, log_e: float) -> tuple[FitProblem, Array, Points]:
    """The family's M2 at its solution (c, k): e / scale = exp(-k), and the scale follows from e."""
    problem = replace(member.problem, log_scale=float(log_e + end[1]))
    return problem, np.array([end[0], -end[1]]), member.points


def _search(members: list[_Family], logs: list[Array]) -> tuple[Array, list[Array]]:
    """For R samples of log y (R, n) per family: the log e (R,) that minimises the sum over families, and solutions (R, 2)."""
    smallest = np.min([log_y.min(axis=1) for log_y in logs], axis=0)
    shares = np.linspace(0.0, 1.1, LEVELS)[:, None] + 1e-4
    line = np.log(shares) + smallest  # (levels, R)
    for _ in range(REFINEMENTS):
        costs, _ends = _costs(members, logs, line)
        best = np.clip(costs.argmin(axis=0), 1, len(line) - 2)
        rows = np.arange(len(smallest))
        line = np.linspace(line[best - 1, rows], line[best + 1, rows], 9)
    costs, ends = _costs(members, logs, line)
    best, rows = costs.argmin(axis=0), np.arange(len(smallest))
    return line[best, rows], [end[best, rows] for end in ends]


def _costs(members: list[_Family], logs: list[Array], line: Array) -> tuple[Array, list[Array]]:
    """The summed objective (levels, R) at each log e, and each family's (c, k) at that e (levels, R, 2)."""
    total, ends = np.zeros(line.shape), []
    for member, log_y in zip(members, logs, strict=True):
        problem = replace(member.problem, form=GIVEN_FLOOR, log_scale=0.0)
        above = (log_y[None] - line[:, :, None]).reshape(-1, log_y.shape[1])
        begin = np.stack([np.full(len(above), START_EXPONENT), above.mean(axis=1)], axis=1)
        result = descend(problem, begin, above)
        total += result.objective.reshape(line.shape)
        ends.append(result.theta.reshape(*line.shape, 2))
    return total, ends
