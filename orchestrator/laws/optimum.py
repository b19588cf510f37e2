"""The compute-optimal model size and amount of data of a joint law, as power laws of compute. Pure functions.

Compute is C = factor N^power D: factor 6 and power 1 for language models (Kaplan et al. 2020). The least A N^-a + B D^-b at
fixed C has N = G (C / factor)^(b / (a + power b)) with G^(a + power b) = a A / (power b B), and D follows from C
(Hoffmann et al. 2022, equation 4, for power 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws.joint import JointLaw, natural
from orchestrator.laws.points import Array, LawError

Interval = tuple[float, float]
AHEAD = 100.0  # the last compute that is shown, as a multiple of the largest of the rows


@dataclass(frozen=True, kw_only=True)
class Cost:
    """FLOPs of a row: factor N^power D."""

    factor: float = 6.0
    power: float = 1.0

    def flops(self, size: ArrayLike, data: ArrayLike) -> Array:
        """The compute of each row."""
        return np.asarray(self.factor * np.asarray(size, dtype=float) ** self.power * np.asarray(data, dtype=float))


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The best size and data at one compute, the y that the law predicts there, each with a 90% interval."""

    compute: float
    size: float
    size_interval: Interval
    data: float
    data_interval: Interval
    y: float


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """N = size_factor C^size_exponent and D = data_factor C^data_exponent, with 90% intervals of the exponents."""

    cost: Cost
    size_exponent: float
    size_exponent_interval: Interval
    size_factor: float
    data_exponent: float
    data_exponent_interval: Interval
    data_factor: float
    at: tuple[Allocation, ...]


def fit_cost(size: ArrayLike, flops_per_example: ArrayLike) -> Cost:
    """The cost whose FLOPs of an example, factor N^power, are closest to these, row by row. Raises LawError for bad values."""
    n, flops = np.asarray(size, dtype=float), np.asarray(flops_per_example, dtype=float)
    if not (np.isfinite(flops).all() and (flops > 0).all()):
        raise LawError(
            "a value of the FLOPs of an example is missing or not positive", reason="not positive", allowed="above 0"
        )
    u = np.log(n) - np.log(n).mean()
    power = float(u @ np.log(flops) / (u @ u))
    if power <= 0:
        raise LawError("the FLOPs of an example do not grow with N", reason="bad input", allowed="larger models cost more")
    return Cost(factor=float(np.exp(np.mean(np.log(flops) - power * np.log(n)))), power=power)


def optimum(law: JointLaw, cost: Cost | None = None, level: float = 0.9) -> Optimum:
    """The compute-optimal N and D of a law, shown at whole decades of compute from the rows' to a hundred times beyond.

    Raises LawError if a term of the law is 0 or an exponent is: then N or D has no best value.
    """
    price = cost or Cost()
    if {"A", "B", "a", "b"} & set(law.at_zero) or not (law.params["a"] > 0 and law.params["b"] > 0):
        raise LawError(
            "the error does not depend on both N and D, so no allocation is best",
            reason="no solution",
            allowed="rows in which N and D vary independently",
        )
    values, draws = natural(law.theta[None], law.centre), natural(law.draws, law.centre)
    best, drawn = _laws(values, price), _laws(draws, price)
    intervals = [law.interval(float(best[0, index]), _known(drawn[:, index]), level) for index in (0, 1)]
    return Optimum(
        cost=price,
        size_exponent=float(best[0, 0]),
        size_exponent_interval=intervals[0],
        size_factor=float(np.exp(best[0, 2])),
        data_exponent=float(best[0, 1]),
        data_exponent_interval=intervals[1],
        data_factor=float(np.exp(best[0, 3])),
        at=tuple(_allocation(law, best, drawn, compute, level) for compute in _decades(law, price)),
    )


def _laws(values: Array, cost: Cost) -> Array:
    """(R, 4) for E, A, B, a, b (R, 5): exponents of N and D in C, then the logs of their factors."""
    _, factor_a, factor_b, a, b = values.T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        total = a + cost.power * b
        size, log_price = b / total, np.log(cost.factor)
        log_size = (np.log(a / (cost.power * b)) + np.log(factor_a) - np.log(factor_b)) / total - size * log_price
        return np.column_stack([size, a / total, log_size, -log_price - cost.power * log_size])


def _allocation(law: JointLaw, best: Array, drawn: Array, compute: float, level: float) -> Allocation:
    log_c = np.log(compute)
    log_n, log_d = (best[0, index + 2] + best[0, index] * log_c for index in (0, 1))
    intervals = []
    for index, value in ((0, log_n), (1, log_d)):
        low, high = law.interval(float(value), _known(drawn[:, index + 2] + drawn[:, index] * log_c), level)
        intervals.append((float(np.exp(low)), float(np.exp(high))))
    n, d = float(np.exp(log_n)), float(np.exp(log_d))
    y = float(law.predict([n], [d])[0])
    return Allocation(compute=compute, size=n, size_interval=intervals[0], data=d, data_interval=intervals[1], y=y)


def _known(values: Array) -> Array:
    """Draws without those in which a term vanished."""
    return values[np.isfinite(values)]


def _decades(law: JointLaw, cost: Cost) -> list[float]:
    """Whole powers of ten of compute, from the smallest of the rows to AHEAD times the largest."""
    compute = cost.flops(law.x[:, 0], law.x[:, 1])
    first, last = np.ceil(np.log10(compute.min())), np.floor(np.log10(AHEAD * compute.max()))
    return [float(10.0**power) for power in range(int(first), int(last) + 1)]
