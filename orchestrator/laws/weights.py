"""Weights of data points in a fit: by their noise, and growing towards the largest x. Pure functions of arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from orchestrator.laws.points import Array, LawError, Points
from orchestrator.laws.tolerance import group_numbers

MAX_GROWTH = 2.0  # weights grow as x^2 if there are enough points
POINTS_PER_PARAMETER = 4.0  # effective points for each parameter that growing weights must leave


def effective_points(weights: Array) -> float:
    """The effective sample size of weighted points (Kish): (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def growing_weights(points: Points, parameters: int, growth: float | None = None) -> tuple[Array, float]:
    """The points' precision times x^growth, scaled to a maximum of 1; and the growth.

    An extrapolation starts at the largest x, so points at small x matter least. growth None: 2, or the largest value below 2
    that leaves four effective sizes (distinct x) for each parameter: a fit to few sizes cannot ignore most of them, and more
    seeds of one size add no information on the shape.
    """
    position = np.log(points.first) - np.log(points.first).max()
    size = group_numbers(points.x)

    def weights(power: float) -> Array:
        product = points.weights * np.exp(power * position)
        return np.asarray(product / product.max())

    def effective_sizes(power: float) -> float:
        return effective_points(np.asarray(np.bincount(size, weights(power)), dtype=np.float64))

    if growth is not None:
        return weights(growth), growth
    needed = min(POINTS_PER_PARAMETER * parameters, effective_sizes(0.0))
    candidates = np.linspace(MAX_GROWTH, 0.0, 41)
    largest = next((float(p) for p in candidates if effective_sizes(p) >= needed * (1 - 1e-9)), 0.0)
    return weights(largest), largest


def noise_weights(y: ArrayLike, test_images: ArrayLike, seed_spread: float = 0.0) -> Array:
    """Precision of each log error: 1 / (binomial variance of a finite test set + variance between seeds).

    y: error rates as fractions; test_images: size of the test set; seed_spread: standard deviation of log error between
    seeds (see `seed_spread`). The binomial part is (1 - y) / (y n), by the delta method. Raises LawError for other values.
    """
    ys, images = np.asarray(y, dtype=float), np.asarray(test_images, dtype=float)
    if (ys <= 0).any() or (ys >= 1).any() or (images <= 0).any():
        raise LawError(
            "invalid error rate or test set size",
            reason="bad input",
            allowed="error rates between 0 and 1 (exclusive), test sets of at least one image",
        )
    return np.asarray(1 / ((1 - ys) / (ys * images) + seed_spread**2))


def seed_spread(x: ArrayLike, y: ArrayLike) -> float:
    """Standard deviation of log error between runs at the same x, pooled over x; nan if no x is repeated."""
    log_y, size = np.log(np.asarray(y, dtype=float)), group_numbers(x)
    groups = [log_y[size == number] for number in np.unique(size)]
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return float(np.sqrt(squares / freedom)) if freedom else float("nan")
