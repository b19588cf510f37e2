"""Pareto fronts of error against compute or data. Pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws.points import Array
from orchestrator.laws.tolerance import group_numbers


def pareto(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """The front (x, y) in ascending x: every point with a lower error than all cheaper ones (the best one of equal x)."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    order = np.lexsort((ys, group_numbers(xs)))
    xs, ys = xs[order], ys[order]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(ys)[:-1]])
    on_front = ys < best_before
    return xs[on_front], ys[on_front]


def front_inverse(x: ArrayLike, y: ArrayLike, errors: ArrayLike) -> Array:
    """log x at which the front, interpolated linearly in logarithms, falls to each error; nan outside the front."""
    front_x, front_y = pareto(x, y)
    goal = np.log(np.asarray(errors, dtype=float))
    ends = np.log(front_y[::-1])
    inside = (goal >= ends[0] - 1e-9) & (goal <= ends[-1] + 1e-9)
    return np.where(inside, np.interp(goal, ends, np.log(front_x[::-1])), np.nan)
