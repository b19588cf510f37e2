"""Random numbers of samples: functions of (seed, epoch, sample) and of a purpose, so that they do not depend on a resume, on
the workers or on how a batch is split.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitmodel.data.order import Batch, hash_uint64

# Purposes. Each has its own number, so that its draws are independent of all others. The order's own purposes: order.py.
BATCH_CROPS, PATCH_MASKS, MIXING, STORED_CROPS, OPERATIONS = 77, 78, 79, 80, 81


def hashes(batch: Batch, seed: int, purpose: int, count: int, *, first: int = 0) -> NDArray[np.uint64]:
    """(B, count) hashes, from number `first` on."""
    return hash_uint64(seed, purpose, batch.epochs[:, None], batch.samples[:, None], np.arange(first, first + count))


def uniform(batch: Batch, seed: int, purpose: int, count: int, *, first: int = 0) -> NDArray[np.float64]:
    """(B, count) numbers in [0, 1), from number `first` on."""
    return hashes(batch, seed, purpose, count, first=first).astype(np.float64) / 2.0**64
