"""The uncertainty of a fitted law: refits by a wild bootstrap over runs or blocks of points.

A draw multiplies the residuals of a whole run (or of a block of neighbours on one learning curve) by one random factor and
refits (Wu 1986; Cameron, Gelbach, Miller 2008 for runs as clusters). This preserves the measured x, unequal noise, and
correlation within a run. Residuals are first corrected for the leverage of their block (as in CR3). Deterministic: the seed
is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.laws.points import Array, Points
from orchestrator.laws.problem import FitProblem, best_log_scale, fitted_log_error, residuals
from orchestrator.laws.solver import descend, jacobian
from orchestrator.laws.weights import effective_points

DRAWS = 200
SEED = 20221
WEBB = np.sqrt([0.5, 1.0, 1.5])  # and their negatives: six factors of mean 0 and variance 1 (Webb 2023)
MAX_LEVERAGE = 0.9
MIN_BLOCKS = 6
MAX_CORRELATION = 0.9  # of neighbours
MIN_FREEDOM = 2.0
ENOUGH_FREEDOM = 4.0


@dataclass(frozen=True, kw_only=True)
class BootstrapDraws:
    """Refitted laws: theta (R, k), log_scale (R,). noise: standard deviation of one point's log error; freedom: its degrees."""

    theta: Array
    log_scale: Array
    noise: float
    freedom: float


def bootstrap(problem: FitProblem, theta: Array, points: Points, count: int = DRAWS) -> BootstrapDraws:
    """`count` refits of the law whose solution is theta (k,). Each refit starts at theta."""
    samples = resample(problem, theta, points, count)
    refits = descend(problem, np.repeat(theta[None], count, axis=0), samples).theta if len(theta) else np.zeros((count, 0))
    scale = best_log_scale(problem, samples - problem.form.log_shape(refits, problem.z))[:, 0]
    return describe_draws(problem, theta, points, refits, scale)


Fit = tuple[FitProblem, Array]  # and its solution theta (k,)


def cleanest(fits: Sequence[Fit], points: Points) -> Fit:
    """The fit with the least noise, of the first one and those that leave enough degrees of freedom to measure it."""
    empty = np.zeros((0, 0)), np.zeros(0)
    known = [(fit, describe_draws(*fit, points, *empty)) for fit in fits]
    known = [known[0], *((fit, draws) for fit, draws in known[1:] if draws.freedom >= ENOUGH_FREEDOM)]
    return min(known, key=lambda pair: pair[1].noise)[0]


def bootstrap_members(members: Sequence[Fit], source: Fit, points: Points, count: int = DRAWS) -> Array:
    """Refits (R, sum of k + 1) of several fits of the same points: theta and log scale of each, side by side.

    Every fit's curve gets the resampled residuals of `source`: a fit whose weights grow fast follows the last points too
    closely to show their noise. The refits of one form are one batch.
    """
    log_y = np.log(points.y)
    noise = resample(*source, points, count) - fitted_log_error(*source, log_y)
    found: dict[int, Array] = {}
    for name in dict.fromkeys(problem.form.name for problem, _ in members):
        numbers = [i for i, (problem, _) in enumerate(members) if problem.form.name == name]
        samples = np.concatenate([fitted_log_error(*members[i], log_y) + noise for i in numbers])
        begin = np.concatenate([np.repeat(members[i][1][None], count, axis=0) for i in numbers])
        weights = np.repeat([members[i][0].weights for i in numbers], count, axis=0)
        problem = replace(members[numbers[0]][0], weights=weights)
        theta = descend(members[numbers[0]][0], begin, samples, weights).theta
        scale = best_log_scale(problem, samples - problem.form.log_shape(theta, problem.z))
        found |= dict(zip(numbers, np.split(np.hstack([theta, scale]), len(numbers)), strict=True))
    return np.hstack([found[i] for i in range(len(members))])


def resample(problem: FitProblem, theta: Array, points: Points, count: int, salt: int = 0) -> Array:
    """Resampled log y (count, n): the law plus its residuals, multiplied by one random factor for each block."""
    log_y = np.log(points.y)
    blocks, correction = assign_blocks(problem, theta, points)
    rest = correction * corrected_residuals(problem, theta, log_y, blocks)
    return np.asarray(fitted_log_error(problem, theta, log_y) + rest * random_factors(blocks, count, salt)[:, blocks])


def describe_draws(problem: FitProblem, theta: Array, points: Points, refits: Array, log_scale: Array) -> BootstrapDraws:
    """The draws with theta `refits` (R, k), and the noise and degrees of freedom of the original fit at theta (k,)."""
    log_y = np.log(points.y)
    used = used_freedom(problem, theta, log_y)
    blocks, _ = assign_blocks(problem, theta, points)
    shares = np.asarray(np.bincount(blocks, problem.weights), dtype=np.float64)
    freedom = max(MIN_FREEDOM, effective_points(shares) - used)
    noise = noise_of(problem, log_y - fitted_log_error(problem, theta, log_y), used)
    return BootstrapDraws(theta=refits, log_scale=log_scale, noise=noise, freedom=freedom)


def noise_of(problem: FitProblem, rest: Array, used: float) -> float:
    """Standard deviation of log error about the law, corrected for the degrees of freedom that the parameters used."""
    share = problem.weights / problem.weights.sum()
    effective = 1 / float((share**2).sum())
    return float(np.sqrt(share @ rest**2 * effective / max(effective - used, 0.5)))


def hat_columns(problem: FitProblem, theta: Array, log_y: Array) -> Array:
    """Orthonormal columns U (n, parameters) of the weighted fit: U U' is its hat matrix, with the leverages on the diagonal."""
    slopes = np.sqrt(problem.weights)[:, None] if problem.log_scale is None else np.zeros((len(log_y), 0))
    if len(theta):
        base = residuals(problem, theta[None], log_y)
        slopes = np.hstack([slopes, jacobian(lambda t: residuals(problem, t, log_y), theta[None], base)[0]])
    left, size, _ = np.linalg.svd(slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300), full_matrices=False)
    return np.asarray(left[:, size > 1e-7 * size.max()])


def used_freedom(problem: FitProblem, theta: Array, log_y: Array) -> float:
    """The degrees of freedom that the fit used."""
    return float(hat_columns(problem, theta, log_y).shape[1])


def corrected_residuals(problem: FitProblem, theta: Array, log_y: Array, blocks: NDArray[np.int64]) -> Array:
    """Log residuals (n,) corrected for leverage, block by block: (1 - H_block)^-1 r, in the weighted space."""
    columns, root = hat_columns(problem, theta, log_y), np.sqrt(problem.weights)
    rest = (log_y - fitted_log_error(problem, theta, log_y)) * root
    corrected = np.zeros_like(rest)
    for block in np.unique(blocks):
        mask = blocks == block
        left, size, _ = np.linalg.svd(columns[mask], full_matrices=False)
        extra = 1 / (1 - np.minimum(size**2, MAX_LEVERAGE)) - 1
        corrected[mask] = rest[mask] + left @ (extra * (left.T @ rest[mask]))
    return np.asarray(corrected / root)


def assign_blocks(problem: FitProblem, theta: Array, points: Points) -> tuple[NDArray[np.int64], float]:
    """The block (n,) of each point, numbered from 0, and the factor by which blocks of this length understate the noise.

    A block is a run. Without runs it is a point, or several neighbours if residuals are correlated (the rows of one run are
    one learning curve). Blocks of neighbours have the length that their correlation requires (Carlstein 1986, for a
    first-order autoregression), limited to six effective blocks. The factor restores the long-run variance that the limited
    length omits.
    """
    if points.runs is not None and len(np.unique(points.runs)) > 1:
        return np.unique(points.runs, return_inverse=True)[1].astype(np.int64), 1.0
    log_y = np.log(points.y)
    rest = (log_y - fitted_log_error(problem, theta, log_y)) * np.sqrt(problem.weights)
    number, size = effective_points(problem.weights), float(rest @ rest)
    correlation = float(rest[1:] @ rest[:-1]) / size if size > 0 else 0.0
    points_back = np.arange(len(rest))[::-1]  # the last block has the largest weights, so it is a full one
    if correlation < (1 / np.sqrt(number) if points.runs is None else 0.0):
        return points_back.astype(np.int64), 1.0
    # residuals understate the correlation of the noise (Kendall 1954)
    correlation = min(correlation + (1 + 3 * correlation + len(theta)) / number, MAX_CORRELATION)
    required = (2 * correlation / (1 - correlation**2)) ** (2 / 3) * number ** (1 / 3)
    length = int(np.clip(np.ceil(required), 1, max(1, number // MIN_BLOCKS)))
    lags = np.arange(1, length)
    preserved = 1 + 2 * float(((1 - lags / length) * correlation**lags).sum())
    return (points_back // length).astype(np.int64), float(np.sqrt((1 + correlation) / (1 - correlation) / preserved))


def random_factors(blocks: NDArray[np.int64], count: int, salt: int = 0) -> Array:
    """Random factors (count, blocks), balanced: the second half is the negative of the first."""
    random = np.random.default_rng((SEED, salt))
    half = random.choice(np.concatenate([WEBB, -WEBB]), size=(count // 2, int(blocks.max()) + 1))
    return np.concatenate([half, -half])
