"""Few-shot linear probe on frozen features, in closed form: ridge regression onto targets of +-1
(ViT paper, section 4.1, "few-shot accuracies"; big_vision's evaluator). The penalty is chosen by leave-one-out error
on the shots themselves, never on the test images.

Shapes: N shots x classes, D features, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PENALTIES = tuple(10.0**power for power in range(-4, 5))


def first_shots(labels: NDArray[np.int64], classes: int, shots: int) -> NDArray[np.int64]:
    """Numbers of the first `shots` samples of each class, in the dataset's order. Raises ValueError where a class has fewer."""
    chosen = [np.flatnonzero(labels == label)[:shots] for label in range(classes)]
    short = [label for label, members in enumerate(chosen) if len(members) < shots]
    if short:
        raise ValueError(f"class {short[0]} has fewer than {shots} training images")
    return np.concatenate(chosen)


class LinearProbe:
    """A linear classifier fitted in closed form to (N, D) features."""

    def __init__(self, features_ND: Tensor, labels_N: Tensor, classes: int) -> None:
        x = features_ND.double()
        self.mean, self.scale = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
        x = self._prepare(x)
        targets = torch.full((len(x), classes), -1.0, dtype=torch.float64)
        targets[torch.arange(len(x)), labels_N] = 1.0
        self.bias = targets.mean(dim=0)
        self.penalty, self.weight_DK = _ridge(x, targets - self.bias)

    def _prepare(self, features_ND: Tensor) -> Tensor:
        return (features_ND.double() - self.mean) / self.scale

    def __call__(self, features_ND: Tensor) -> Tensor:
        """Scores (N, K)."""
        return self._prepare(features_ND) @ self.weight_DK + self.bias


def _ridge(x_ND: Tensor, y_NK: Tensor) -> tuple[float, Tensor]:
    """The penalty with the least leave-one-out squared error, and its weights, from one decomposition."""
    u, s, vt = torch.linalg.svd(x_ND, full_matrices=False)
    projected = u.T @ y_NK

    def leave_one_out(penalty: float) -> float:
        shrink = s**2 / (s**2 + penalty * len(x_ND))
        residual = y_NK - u @ (shrink[:, None] * projected)
        leverage = (u**2 * shrink).sum(dim=1, keepdim=True) + 1.0 / len(x_ND)  # the mean was taken out, too
        return float((residual / (1 - leverage).clamp_min(1e-6)).square().sum())

    penalty = min(PENALTIES, key=leave_one_out)
    return penalty, vt.T @ ((s / (s**2 + penalty * len(x_ND)))[:, None] * projected)
