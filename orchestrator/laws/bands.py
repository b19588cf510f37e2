"""How sure a law is: a wild bootstrap over runs or blocks, and the bands and inversions of its draws.

Each draw flips and stretches the residuals of a whole run (or of a block of neighbours on one learning curve) by one random
factor and refits (Wu 1986; Cameron, Gelbach, Miller 2008 for runs as clusters). x stays where it was measured, unequal
noise stays where it was, and what hangs together stays together. Residuals are first freed of the fit's own pull on them
(its leverage over the block, as in CR3). Deterministic: the seed is a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

from orchestrator.laws.forms import Form
from orchestrator.laws.points import Array, LawError, Points, effective_points
from orchestrator.laws.solver import Task, descend, jacobian, residuals, scale_of

DRAWS = 200
SEED = 20221
WEBB = np.sqrt([0.5, 1.0, 1.5])  # and their negatives: six factors of mean 0 and variance 1 (Webb 2023)
MOST_LEVERAGE = 0.9
LEAST_BLOCKS = 6
MOST_TOGETHER = 0.9  # correlation of neighbours
LEAST_FREEDOM = 2.0
FARTHEST = 60.0  # in log x from the centre of the data: further than anyone will ever train
HALVINGS = 70


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Refitted laws: theta (R, k), log_scale (R,); the noise (standard deviation of log error) of one point; freedom."""

    theta: Array
    log_scale: Array
    noise: float
    freedom: float


def bootstrap(task: Task, theta: Array, found: Points, count: int = DRAWS) -> Draws:
    """`count` refits of the law whose solution is theta (k,), every one started there."""
    samples = resampled(task, theta, found, count)
    moved = descend(task, np.repeat(theta[None], count, axis=0), samples).theta if len(theta) else np.zeros((count, 0))
    scale = scale_of(task, samples - task.form.log_shape(moved, task.z))[:, 0]
    return draws_of(task, theta, found, moved, scale)


def resampled(task: Task, theta: Array, found: Points, count: int, salt: int = 0) -> Array:
    """log y (count, n) of the law's own past as it might have been: its residuals by block times random factors."""
    log_y = np.log(found.y)
    blocks, short = blocks_of(task, theta, found)
    rest = short * freed_residuals(task, theta, log_y, blocks)
    return np.asarray(log_fit(task, theta, log_y) + rest * factors(blocks, count, salt)[:, blocks])


def draws_of(task: Task, theta: Array, found: Points, moved: Array, log_scale: Array) -> Draws:
    """Refits `moved` (R, k) with the noise and the degrees of freedom of the fit they were made from."""
    log_y = np.log(found.y)
    lost = spent(task, theta, log_y)
    blocks, _ = blocks_of(task, theta, found)
    shares = np.asarray(np.bincount(blocks, task.weights), dtype=np.float64)
    freedom = max(LEAST_FREEDOM, effective_points(shares) - lost)
    noise = noise_of(task, log_y - log_fit(task, theta, log_y), lost)
    return Draws(theta=moved, log_scale=log_scale, noise=noise, freedom=freedom)


def log_fit(task: Task, theta: Array, log_y: Array) -> Array:
    """The law's log error (n,) at the fitted points."""
    shape = task.form.log_shape(theta[None], task.z)
    return np.asarray((shape + scale_of(task, log_y - shape))[0])


def noise_of(task: Task, rest: Array, lost: float) -> float:
    """Standard deviation of log error about the law, the degrees of freedom that the parameters took given back."""
    share = task.weights / task.weights.sum()
    effective = 1 / float((share**2).sum())
    return float(np.sqrt(share @ rest**2 * effective / max(effective - lost, 0.5)))


def pull(task: Task, theta: Array, log_y: Array) -> Array:
    """Orthonormal columns (n, parameters) of the weighted fit: U U' takes log errors to fitted ones, diagonal the leverage."""
    slopes = np.sqrt(task.weights)[:, None] if task.log_scale is None else np.zeros((len(log_y), 0))
    if len(theta):
        base = residuals(task, theta[None], log_y)
        slopes = np.hstack([slopes, jacobian(lambda t: residuals(task, t, log_y), theta[None], base)[0]])
    left, size, _ = np.linalg.svd(slopes / np.maximum(np.linalg.norm(slopes, axis=0), 1e-300), full_matrices=False)
    return np.asarray(left[:, size > 1e-7 * size.max()])


def spent(task: Task, theta: Array, log_y: Array) -> float:
    """The degrees of freedom that the fit took."""
    return float(pull(task, theta, log_y).shape[1])


def freed_residuals(task: Task, theta: Array, log_y: Array, blocks: NDArray[np.int64]) -> Array:
    """Log residuals (n,) freed of the fit's pull, block by block: (1 - H_block)^-1 r, in the weighted space."""
    columns, root = pull(task, theta, log_y), np.sqrt(task.weights)
    rest = (log_y - log_fit(task, theta, log_y)) * root
    freed = np.zeros_like(rest)
    for block in np.unique(blocks):
        own = blocks == block
        left, size, _ = np.linalg.svd(columns[own], full_matrices=False)
        excess_of = 1 / (1 - np.minimum(size**2, MOST_LEVERAGE)) - 1
        freed[own] = rest[own] + left @ (excess_of * (left.T @ rest[own]))
    return np.asarray(freed / root)


def blocks_of(task: Task, theta: Array, found: Points) -> tuple[NDArray[np.int64], float]:
    """The block (n,) of each point, numbered from 0, and the factor by which blocks this short understate the noise.

    A block is a run; without runs a point, or neighbours where residuals hang together (rows of a single run are one
    learning curve). Blocks of neighbours are as long as their correlation asks (Carlstein 1986, for a first-order
    autoregression), but leave six effective blocks; what a block cuts off of the long-run variance is put back.
    """
    if found.runs is not None and len(np.unique(found.runs)) > 1:
        return np.unique(found.runs, return_inverse=True)[1].astype(np.int64), 1.0
    log_y = np.log(found.y)
    rest = (log_y - log_fit(task, theta, log_y)) * np.sqrt(task.weights)
    number, size = effective_points(task.weights), float(rest @ rest)
    together = float(rest[1:] @ rest[:-1]) / size if size > 0 else 0.0
    points_back = np.arange(len(rest))[::-1]  # the last block, which weighs most, is whole
    if together < (1 / np.sqrt(number) if found.runs is None else 0.0):
        return points_back.astype(np.int64), 1.0
    together = min(together + (1 + 3 * together + len(theta)) / number, MOST_TOGETHER)  # residuals understate it (Kendall 1954)
    wanted = (2 * together / (1 - together**2)) ** (2 / 3) * number ** (1 / 3)
    length = int(np.clip(np.ceil(wanted), 1, max(1, number // LEAST_BLOCKS)))
    lags = np.arange(1, length)
    kept = 1 + 2 * float(((1 - lags / length) * together**lags).sum())
    return (points_back // length).astype(np.int64), float(np.sqrt((1 + together) / (1 - together) / kept))


def factors(blocks: NDArray[np.int64], count: int, salt: int = 0) -> Array:
    """Random factors (count, blocks), balanced: every draw comes with its mirror image."""
    random = np.random.default_rng((SEED, salt))
    half = random.choice(np.concatenate([WEBB, -WEBB]), size=(count // 2, int(blocks.max()) + 1))
    return np.concatenate([half, -half])


def excess(rollout_rmse: float, noise: float) -> float:
    """What a law's roll-outs were off by beyond the noise of a point (standard deviation of log error)."""
    return float(np.sqrt(max(rollout_rmse**2 - noise**2, 0.0))) if np.isfinite(rollout_rmse) else 0.0


def band(draws: Draws, form: Form, z: Array, *, middle: Array, level: float, spread: Array) -> Array:
    """Lower and upper log error (2, n) at z around `middle` (n,): the draws, blurred by a normal of standard deviation
    `spread` (n,), and widened from normal to Student's t for few runs."""
    values = draws.log_scale[:, None] + form.log_shape(draws.theta, z)
    levels = norm.ppf((np.arange(len(values)) + 0.5) / len(values))
    values = values + spread * np.random.default_rng(SEED).permutation(levels)[:, None]
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    widening = float(t.ppf(tails[1], draws.freedom) / norm.ppf(tails[1]))
    return np.asarray(middle + widening * (np.quantile(values, tails, axis=0) - middle))


def invert(theta: Array, log_scale: Array, form: Form, centre: float, y: ArrayLike) -> Array:
    """The x (R, n) at which each of R laws comes down to each error; inf: never, 0: never above it.

    Raises LawError for a form of two columns, errors not above zero, or a law that rises on its way.
    """
    goal = np.log(np.atleast_1d(np.asarray(y, dtype=float)))
    if form.columns != 1 or not np.isfinite(goal).all():
        raise LawError("only a law of one x can be inverted, at errors above zero", reason="bad input")
    line = np.exp(np.linspace(-FARTHEST / 3, FARTHEST / 3, 200))
    if (np.diff(form.log_shape(theta, line), axis=1) > 1e-9).any():
        raise LawError("the law rises somewhere, so an error has no single x", reason="rising")
    wanted = goal - log_scale[:, None]
    low, high = np.full(wanted.shape, -FARTHEST), np.full(wanted.shape, FARTHEST)
    never_above = form.log_shape(theta, np.exp(low)) <= wanted
    never_below = form.log_shape(theta, np.exp(high)) > wanted
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        still = form.log_shape(theta, np.exp(middle)) > wanted
        low, high = np.where(still, middle, low), np.where(still, high, middle)
    found = np.exp((low + high) / 2) * centre
    return np.asarray(np.where(never_below, np.inf, np.where(never_above, 0.0, found)))
