"""The patches of an image that are hidden from the model: a function of (seed, epoch, sample). Shapes: B batch, T patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitmodel.data.draws import PATCH_MASKS, hashes
from vitmodel.data.order import Batch


def patch_order(batch: Batch, seed: int, patches: int) -> NDArray[np.int64]:
    """A permutation of the patches for each sample (B, T). An objective hides a fixed number of the first or last ones."""
    return np.argsort(hashes(batch, seed, PATCH_MASKS, patches), axis=1, kind="stable")
