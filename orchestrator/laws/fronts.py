"""What needs no law: Pareto fronts, IsoFLOP minima, and tasks so near their ceiling that their mean says nothing.

Pure functions of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws.points import Array, LawError

LOUD_NOISE = 0.1  # relative binomial noise of an error above which its logarithm is mostly luck
CEILING_ERROR = 0.01  # without the size of the test set: an error this small is a ceiling
LEAST_SIZES = 3  # of an IsoFLOP curve


def pareto(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """The front (x, y): by growing x, every point with less error than all cheaper ones (of equal x the best)."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    order = np.lexsort((ys, xs))
    xs, ys = xs[order], ys[order]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(ys)[:-1]])
    keep = ys < best_before
    return xs[keep], ys[keep]


def front_inverse(x: ArrayLike, y: ArrayLike, errors: ArrayLike) -> Array:
    """log x at which the front, straight between its points in logarithms, comes down to each error; nan outside it."""
    front_x, front_y = pareto(x, y)
    goal = np.log(np.asarray(errors, dtype=float))
    ends = np.log(front_y[::-1])
    inside = (goal >= ends[0] - 1e-9) & (goal <= ends[-1] + 1e-9)
    return np.where(inside, np.interp(goal, ends, np.log(front_x[::-1])), np.nan)


# --- ceilings -------------------------------------------------------------------------------------------------


def ceilings(errors: Mapping[str, Mapping[str, ArrayLike]], test_images: Mapping[str, int] | None = None) -> dict[str, str]:
    """The tasks at their ceiling, each with the reason. `errors`: task -> family -> error rates (fractions) of its runs.

    A task is at its ceiling when the better half of some family's runs make so few mistakes that the test set's own noise
    moves their error by more than a tenth (fewer than about 100 mistakes); without its size, when they err below 1%. A mean
    over tasks hides such a task's saturation in one family and its head start in another: show it with and without.
    """
    found: dict[str, str] = {}
    for task, families in errors.items():
        for family, values in families.items():
            best = float(np.quantile(np.asarray(values, dtype=float), 0.25))
            images = (test_images or {}).get(task)
            noise = np.sqrt((1 - best) / (best * images)) if images and best > 0 else np.inf
            if (images is None and best < CEILING_ERROR) or (images is not None and noise > LOUD_NOISE):
                mistakes = "" if images is None else f", {best * images:.0f} of {images} images"
                found.setdefault(task, f"{family} errs on {100 * best:.2g}%{mistakes}")
    return found


# --- IsoFLOP --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The best size at one compute: from a parabola in log size, and only if it lies inside the sizes that were tried."""

    state: Literal["interior", "edge", "no minimum", "too few sizes"]
    size: float
    error: float


def isoflop_minimum(size: ArrayLike, error: ArrayLike) -> Minimum:
    """The least error along one IsoFLOP curve, by a parabola through log error over log size.

    "edge": the best run or the parabola's bottom is at or beyond the smallest or largest size, so the true best size was not
    tried; "no minimum": the parabola opens downwards. Numbers are nan unless the minimum is interior.
    """
    sizes, errors = np.asarray(size, dtype=float), np.asarray(error, dtype=float)
    nothing = {"size": float("nan"), "error": float("nan")}
    if len(np.unique(sizes)) < LEAST_SIZES:
        return Minimum(state="too few sizes", **nothing)
    u, v = np.log(sizes), np.log(errors)
    bend, slope, level = np.polyfit(u - u.mean(), v, 2)
    if bend <= 0:
        return Minimum(state="no minimum", **nothing)
    bottom = -slope / (2 * bend)
    best = sizes[np.argmin(errors)]
    if not u.min() < bottom + u.mean() < u.max() or best in (sizes.min(), sizes.max()):
        return Minimum(state="edge", **nothing)
    return Minimum(state="interior", size=float(np.exp(bottom + u.mean())), error=float(np.exp(level + slope * bottom / 2)))


@dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """Best size against compute: size = factor * compute^exponent through the interior minima; nan with fewer than two."""

    minima: Mapping[float, Minimum]
    exponent: float
    factor: float


def isoflop(compute: ArrayLike, size: ArrayLike, error: ArrayLike) -> IsoFlop:
    """The minimum of every IsoFLOP curve (rows of equal compute, FLOPs) and the power law through the interior ones.

    Raises LawError for values that are not positive.
    """
    c, n, y = (np.asarray(values, dtype=float) for values in (compute, size, error))
    if not ((c > 0).all() and (n > 0).all() and (y > 0).all()):
        raise LawError("compute, size and error must be positive", reason="not positive")
    minima = {float(value): isoflop_minimum(n[c == value], y[c == value]) for value in np.unique(c)}
    inside = [(value, found.size) for value, found in minima.items() if found.state == "interior"]
    if len(inside) < 2:
        return IsoFlop(minima=minima, exponent=float("nan"), factor=float("nan"))
    logs = np.log(np.array(inside))
    exponent, offset = np.polyfit(logs[:, 0], logs[:, 1], 1)
    return IsoFlop(minima=minima, exponent=float(exponent), factor=float(np.exp(offset)))
