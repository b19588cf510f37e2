"""The shapes of scaling laws in logarithms, and their parameters in the unit of x: the mathematics of `forms`.

shape(theta (B, k), z) is log(error / scale), (B, n), for z (n,), for one row (B, n) per theta, or for two columns (n, 2).
natural(theta (k,), log_scale, centre) undoes the centring of x. Pure functions.
"""

from __future__ import annotations

import numpy as np

from orchestrator.laws.points import Array


def flat(theta: Array, z: Array) -> Array:
    return np.zeros((len(theta), z.shape[-1]))


def power(theta: Array, z: Array) -> Array:
    return -theta[:, :1] * np.log(z)


def power_floor(theta: Array, z: Array) -> Array:
    return np.logaddexp(-theta[:, :1] * np.log(z), theta[:, 1:2])


def bent_power(theta: Array, z: Array) -> Array:
    return theta[:, :1] * np.logaddexp(-np.log(z), theta[:, 1:2])


def shifted_power_floor(theta: Array, z: Array) -> Array:
    return np.logaddexp(-theta[:, :1] * np.logaddexp(np.log(z), theta[:, 1:2]), theta[:, 2:3])


def sigmoid_power(theta: Array, z: Array) -> Array:
    """M4 solved for y: with y = e0 (q + (1 - q) s(u)), s the logistic function, u solves log s(u) - alpha log s(-u) = t.

    The left side rises with a slope between 1 and alpha and is convex or concave, so Newton's method converges from its
    asymptote.
    """
    c, shift, log_alpha, log_floor = (theta[:, i : i + 1] for i in range(4))
    alpha = np.exp(log_alpha)
    target = shift - c * np.log(z)
    u = np.where(target < 0, target, target / alpha)
    for _ in range(8):
        rest = -np.logaddexp(0, -u) + alpha * np.logaddexp(0, u) - target
        sigmoid = 0.5 * (1 + np.tanh(u / 2))
        u = u - rest / (1 - sigmoid + alpha * sigmoid)
    floor = np.exp(log_floor)
    return np.asarray(np.log(floor + (1 - floor) * 0.5 * (1 + np.tanh(u / 2))))


def broken_power(theta: Array, z: Array) -> Array:
    """log(z^-c0 prod_i (1 + (z / d_i)^(1 / f_i))^(-c_i f_i) + r), theta = (c0, log r, then c_i, log d_i, log f_i)."""
    log_z = np.log(z)
    total = -theta[:, :1] * log_z
    for first in range(2, theta.shape[1], 3):
        change, where, width = (theta[:, first + i : first + i + 1] for i in range(3))
        total = total - change * np.exp(width) * np.logaddexp(0, (log_z - where) / np.exp(width))
    return np.logaddexp(total, theta[:, 1:2])


def two_powers(theta: Array, z: Array) -> Array:
    size = -theta[:, :1] * np.log(z[:, 0])
    data = theta[:, 2:3] - theta[:, 1:2] * np.log(z[:, 1])
    return np.logaddexp(np.logaddexp(size, data), theta[:, 3:4])


def flat_natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
    return {"e": float(np.exp(log_scale))}


def power_natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
    return {"a": float(np.exp(log_scale) * centre[0] ** theta[0]), "c": float(theta[0])}


def power_floor_natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
    return {**power_natural(theta, log_scale, centre), "e": float(np.exp(log_scale + theta[1]))}


def bent_natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
    return {**power_natural(theta, log_scale, centre), "gamma": float(np.exp(theta[1]) / centre[0])}


def shifted_natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
    floor = float(np.exp(log_scale + theta[2]))
    return {**power_natural(theta, log_scale, centre), "d": float(np.exp(theta[1]) * centre[0]), "e": floor}


def sigmoid_natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
    c, shift, log_alpha, log_floor = (float(value) for value in theta)
    alpha, chance = float(np.exp(log_alpha)), float(np.exp(log_scale))
    gap = np.log(chance) + np.log1p(-np.exp(log_floor))
    beta = float(np.exp(shift + (1 - alpha) * gap) * centre[0] ** c)
    return {"beta": beta, "c": c, "alpha": alpha, "e": chance * float(np.exp(log_floor)), "chance": chance}


def broken_natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
    parameters = {"b": float(np.exp(log_scale) * centre[0] ** theta[0]), "c0": float(theta[0])}
    for number, first in enumerate(range(2, len(theta), 3), start=1):
        parameters |= {
            f"c{number}": float(theta[first]),
            f"d{number}": float(np.exp(theta[first + 1]) * centre[0]),
            f"f{number}": float(np.exp(theta[first + 2])),
        }
    return {**parameters, "e": float(np.exp(log_scale + theta[1]))}


def two_natural(theta: Array, log_scale: float, centre: Array) -> dict[str, float]:
    scale = float(np.exp(log_scale))
    return {
        "A": scale * float(centre[0] ** theta[0]),
        "a": float(theta[0]),
        "B": scale * float(np.exp(theta[2]) * centre[1] ** theta[1]),
        "b": float(theta[1]),
        "E": scale * float(np.exp(theta[3])),
    }
