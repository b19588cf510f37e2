"""Few-shot linear probe on frozen features: ridge regression onto targets of +-1, solved in closed form
(ViT paper, section 4.1, "few-shot accuracies"; big_vision's evaluator).

The penalty has the least leave-one-out error on the shots themselves; the test images are never used to choose it.
Shapes: N shots x classes, D features, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-4, 5))  # per shot


def first_shots(labels: NDArray[np.int64], classes: int, shots: int) -> NDArray[np.int64]:
    """Indices of the first `shots` samples of each class, in the dataset's order. Raises ValueError if a class has fewer."""
    chosen = [np.flatnonzero(labels == label)[:shots] for label in range(classes)]
    short = [label for label, members in enumerate(chosen) if len(members) < shots]
    if short:
        raise ValueError(f"class {short[0]} has fewer than {shots} training images")
    return np.concatenate(chosen)


class LinearProbe:
    """A linear classifier fitted in closed form to (N, D) features."""

    def __init__(self, features_ND: Tensor, labels_N: Tensor, classes: int) -> None:
        from sklearn.linear_model import RidgeCV  # takes a second to import, and only probes need it
        from threadpoolctl import threadpool_limits

        x = features_ND.double()
        self.mean, self.scale = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
        targets = torch.full((len(x), classes), -1.0, dtype=torch.float64)
        targets[torch.arange(len(x)), labels_N] = 1.0
        alphas = [penalty * len(x) for penalty in PENALTIES]
        with threadpool_limits(torch.get_num_threads()):
            ridge = RidgeCV(alphas).fit(self._standardise(x).numpy(), targets.numpy())
        self.penalty = PENALTIES[alphas.index(ridge.alpha_)]
        self.weight_DK, self.bias_K = torch.from_numpy(ridge.coef_.T), torch.from_numpy(ridge.intercept_)

    def _standardise(self, features_ND: Tensor) -> Tensor:
        return (features_ND.double() - self.mean) / self.scale

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Scores (N, K)."""
        return self._standardise(features_ND) @ self.weight_DK + self.bias_K
