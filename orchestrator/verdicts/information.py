"""How much a further run would narrow a forecast: the law linearised at its fit, with one row added.

The covariance of the law's parameters follows from the finished runs. A further run adds its row to their information matrix
(one step of Fedorov's exchange).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.laws import Law
from orchestrator.verdicts.answers import CurvePoint
from orchestrator.verdicts.evidence import Evidence
from orchestrator.verdicts.extrapolation import Extrapolation

STEP = 1e-4  # of the differences in theta: exponents and logarithms
PRIOR_SPREAD = 1.0  # standard deviation of a parameter without any run: theta are of order one
MIN_NOISE = 1e-4


def gradient(law: Law, x: np.ndarray) -> np.ndarray:
    """Derivatives (k + 1,) of the law's log error at x with respect to its log scale and theta."""
    z = law.centred(x)
    moved = law.theta + STEP * np.eye(len(law.theta))
    shapes = law.problem.form.log_shape(np.vstack([law.theta[None], moved]), z)[:, 0]
    return np.concatenate([[1.0], (shapes[1:] - shapes[0]) / STEP])


def information(law: Law, rows: Sequence[np.ndarray], spreads: Sequence[float]) -> np.ndarray:
    """Fisher information (k + 1, k + 1) of the rows, with a weak prior, so that every parameter has a finite variance."""
    slopes = np.array([gradient(law, x) / noise_of_run(law, s) for x, s in zip(rows, spreads, strict=True)])
    return np.asarray(slopes.T @ slopes + np.eye(slopes.shape[1]) / PRIOR_SPREAD**2)


def width(extrapolation: Extrapolation, known: np.ndarray, evidence: Evidence) -> float:
    """Upper over lower end of the target's band, from the information `known` and the noise of one new run."""
    slope = gradient(extrapolation.law, extrapolation.x)
    noise = noise_of_run(extrapolation.law, evidence.seed_spread)
    variance = float(slope @ np.linalg.solve(known, slope)) + noise**2
    return math.exp(2 * evidence.critical_value * math.sqrt(variance))


def noise_of_run(law: Law, spread: float) -> float:
    """Standard deviation of a run's log error: its spread, or that of the rows about the law, whichever is larger."""
    return max(spread, law.diagnostics.noise, MIN_NOISE)


def position(point: CurvePoint, extrapolation: Extrapolation) -> np.ndarray:
    """The position of a point on the axes of the law."""
    values = [float(getattr(point, axis)) for axis in extrapolation.beyond]
    return np.array([values]) if len(values) > 1 else np.array(values)
