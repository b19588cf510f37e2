"""Evaluation on a whole split: batches are padded and masked, every sample counts once, on any number of workers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from vitmodel.data.augment import normalise
from vitmodel.data.reader import Dataset
from vitmodel.training.engine import device

Forward = Callable[[Tensor], Tensor]


@torch.no_grad()
def evaluate(forward: Forward, dataset: Dataset, *, batch_size: int, worker: int = 0, workers: int = 1) -> dict[str, float]:
    """Mean loss, top-1 and the number of samples, the same on every worker. Collective."""
    sums = torch.zeros(3, dtype=torch.float64, device=device())  # loss, correct, count
    stride = batch_size * workers
    for start in range(0, dataset.size, stride):
        places = np.arange(start + worker * batch_size, start + (worker + 1) * batch_size)
        mask = torch.from_numpy(places < dataset.size).to(device())
        places = np.minimum(places, dataset.size - 1)
        labels = torch.from_numpy(dataset.labels[places]).to(device())
        logits = forward(normalise(dataset.read(places), device())).float()
        losses = F.cross_entropy(logits, labels, reduction="none")
        correct = logits.argmax(dim=1) == labels
        sums += torch.stack([(losses * mask).sum().double(), (correct & mask).sum().double(), mask.sum().double()])
    if workers > 1:
        dist.all_reduce(sums)
    loss, correct_count, count = sums.tolist()
    return {"eval/loss": loss / count, "eval/top1": correct_count / count, "eval/samples": count}


@torch.no_grad()
def features(forward: Forward, dataset: Dataset, samples: np.ndarray, *, batch_size: int) -> Tensor:
    """Representations of the given samples, fp32 on the CPU: (samples, D)."""
    parts = [samples[start : start + batch_size] for start in range(0, len(samples), batch_size)]
    return torch.cat([forward(normalise(dataset.read(part), device())).float().cpu() for part in parts])
