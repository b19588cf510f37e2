"""Tasks whose errors are so small that differences between them are mostly noise of the test set. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

MAX_NOISE = 0.1  # relative binomial noise of an error; above it, the logarithm of the error is mostly noise
CEILING_ERROR = 0.01  # if the size of the test set is unknown: a task with a smaller error is at its ceiling


def ceilings(errors: Mapping[str, Mapping[str, ArrayLike]], test_images: Mapping[str, int] | None = None) -> dict[str, str]:
    """The tasks at their ceiling, each with the reason. `errors`: task -> family -> error rates (fractions) of its runs.

    A task is at its ceiling if, for some family, the lower quartile of the error is so few mistakes that the noise of the test
    set is more than a tenth of it (fewer than about 100 mistakes); if the size of the test set is unknown, if the lower
    quartile is below 1%. Such a task distorts a mean over tasks: report the mean with and without it.
    """
    reasons: dict[str, str] = {}
    for task, families in errors.items():
        for family, values in families.items():
            best = float(np.quantile(np.asarray(values, dtype=float), 0.25))
            images = (test_images or {}).get(task)
            noise = np.sqrt((1 - best) / (best * images)) if images and best > 0 else np.inf
            if (images is None and best < CEILING_ERROR) or (images is not None and noise > MAX_NOISE):
                mistakes = "" if images is None else f", {best * images:.0f} of {images} images"
                reasons.setdefault(task, f"the error of {family} is {100 * best:.2g}%{mistakes}")
    return reasons
