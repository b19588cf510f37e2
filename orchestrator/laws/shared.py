"""M2 for several families at once, with one asymptote for all: y = a_f x^-c_f + e.

For families judged on one task, e is the task's own noise (labels, images nobody can tell) and not the family's. The shared
e is searched on a line; given e, each family's law has two parameters and all families and all e are solved side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws import bands
from orchestrator.laws.fitting import describe, roll_out, task_of
from orchestrator.laws.forms import FAR, FORMS, Axis
from orchestrator.laws.law import Law
from orchestrator.laws.points import Array, LawError, Points, points, refuse_rising, refuse_too_little
from orchestrator.laws.solver import Asked, Task, descend

LEVELS = 33  # of e, first as shares of the smallest error that was seen, then in ever narrower strips
REFINEMENTS = 5
FIRST_EXPONENT = 0.5
FORM = FORMS["M2"]


def _above_floor(theta: Array, z: Array) -> Array:
    """log(y / e) = log(1 + exp(k) z^-c) for theta = (c, k)."""
    return np.logaddexp(0.0, theta[:, 1:2] - theta[:, :1] * np.log(z))


GIVEN_FLOOR = replace(
    FORM, name="M2 given e", axes=(FORM.axes[0], Axis(name="k", low=-FAR, high=30.0, starts=1)), log_shape=_above_floor
)


@dataclass(frozen=True, kw_only=True)
class _Family:
    found: Points
    task: Task
    centre: Array
    growth: float


def fit_shared(families: Mapping[str, tuple[ArrayLike, ArrayLike]], growth: float | None = None) -> dict[str, Law]:
    """One M2 law a family, (x, y) each, all with the same e; squared loss, sums over all points.

    Raises LawError for fewer than two families, and for what `fit` refuses of each. A law's intervals come from a joint
    bootstrap, so they know that e was shared; its roll-out is that of M2 alone.
    """
    if len(families) < 2:
        raise LawError("a shared asymptote needs two families or more", reason="too few points")
    members = [_family(points(*xy), growth) for xy in families.values()]
    log_e, ends = _search(members, [np.log(member.found.y)[None] for member in members])
    solved = [_at_floor(member, end[0], log_e[0]) for member, end in zip(members, ends, strict=True)]
    pasts = [bands.resampled(task, theta, found, bands.DRAWS, salt) for salt, (task, theta, found) in enumerate(solved)]
    log_es, moved = _search(members, pasts)
    laws = {}
    for name, member, (task, theta, found), end in zip(families, members, solved, moved, strict=True):
        rollout = roll_out(FORM, found, Asked(growth=growth))
        theta_draws = np.stack([end[:, 0], -end[:, 1]], axis=1)
        draws = bands.draws_of(task, theta, found, theta_draws, log_es + end[:, 1])
        law = describe(
            task, theta, found, member.centre, member.growth, converged=True, agreeing=1, rollout=rollout, candidates={}
        )
        laws[name] = replace(law, joint_draws=draws)
    return laws


def _family(found: Points, growth: float | None) -> _Family:
    refuse_too_little(found, FORM.parameters)
    refuse_rising(found)
    task, centre, used = task_of(FORM, found, Asked(growth=growth))
    return _Family(found=found, task=task, centre=centre, growth=used)


def _at_floor(member: _Family, end: Array, log_e: float) -> tuple[Task, Array, Points]:
    """The family's M2 at its end (c, k): e / scale = exp(-k), and the scale itself is known from e."""
    task = replace(member.task, log_scale=float(log_e + end[1]))
    return task, np.array([end[0], -end[1]]), member.found


def _search(members: list[_Family], logs: list[Array]) -> tuple[Array, list[Array]]:
    """For each of R pasts (log y (R, n) a family) the e that makes the sum over families least: log e (R,), ends (R, 2)."""
    least = np.min([log_y.min(axis=1) for log_y in logs], axis=0)
    shares = np.linspace(0.0, 1.1, LEVELS)[:, None] + 1e-4
    line = np.log(shares) + least  # (levels, R)
    for _ in range(REFINEMENTS):
        costs, _ends = _costs(members, logs, line)
        best = np.clip(costs.argmin(axis=0), 1, len(line) - 2)
        rows = np.arange(len(least))
        line = np.linspace(line[best - 1, rows], line[best + 1, rows], 9)
    costs, ends = _costs(members, logs, line)
    best, rows = costs.argmin(axis=0), np.arange(len(least))
    return line[best, rows], [end[best, rows] for end in ends]


def _costs(members: list[_Family], logs: list[Array], line: Array) -> tuple[Array, list[Array]]:
    """The summed objective (levels, R) at each log e, and each family's (c, k) there (levels, R, 2)."""
    total, ends = np.zeros(line.shape), []
    for member, log_y in zip(members, logs, strict=True):
        task = replace(member.task, form=GIVEN_FLOOR, log_scale=0.0)
        above = (log_y[None] - line[:, :, None]).reshape(-1, log_y.shape[1])
        begin = np.stack([np.full(len(above), FIRST_EXPONENT), above.mean(axis=1)], axis=1)
        found = descend(task, begin, above)
        total += found.objective.reshape(line.shape)
        ends.append(found.theta.reshape(*line.shape, 2))
    return total, ends
