"""Which patches of an image are hidden from the model: a function of (seed, epoch, sample) alone, so it survives a resume
and a change of workers. Shapes: B batch, T patches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitmodel.data.order import Batch, hash_uint64

_PURPOSE = 78


def patch_order(batch: Batch, seed: int, patches: int) -> NDArray[np.int64]:
    """For each sample a permutation of its patches (B, T). An objective hides a fixed number of the first or last ones."""
    keys = hash_uint64(seed, _PURPOSE, batch.epochs[:, None], batch.samples[:, None], np.arange(patches))
    return np.argsort(keys, axis=1, kind="stable")
