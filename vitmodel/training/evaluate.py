"""Evaluation on a whole split: batches are padded and masked, so that every sample counts once on any number of workers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from vitmodel.data.augment import normalise
from vitmodel.data.order import Batch, Ints
from vitmodel.data.reader import Dataset
from vitmodel.training.engine import device

REAL_HITS, REAL_IMAGES = "eval/real_hits", "eval/real_images"  # means over the split; their ratio is eval/real_top1

Forward = Callable[[Tensor], Tensor]
Scores = Callable[[Tensor, Tensor, np.ndarray], dict[str, Tensor]]  # images, labels, samples to (B,) by metric


def evaluate(forward: Forward, dataset: Dataset, *, batch_size: int, worker: int = 0, workers: int = 1) -> dict[str, float]:
    """A classifier's mean loss, top-1 accuracy and number of samples, the same on every worker. Collective."""
    return mean_scores(
        lambda images, labels, _: classification_scores(forward(images), labels),
        dataset,
        batch_size=batch_size,
        worker=worker,
        workers=workers,
    )


def classification_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of each sample, and whether its label has the largest logit.

    Labels are (B,), or (B, 1 + N) for a dataset with several correct labels per image: the label, then up to N correct
    labels, padded with -1. Then the scores include whether the prediction is among them (Beyer et al. 2020, "ReaL"), and
    whether the image has any.
    """
    label, sets = (labels, None) if labels.ndim == 1 else (labels[:, 0], labels[:, 1:])
    predicted = logits.argmax(dim=1)
    scores = {"eval/loss": F.cross_entropy(logits.float(), label, reduction="none"), "eval/top1": predicted == label}
    if sets is None:
        return scores
    return {**scores, REAL_HITS: (sets == predicted[:, None]).any(dim=1), REAL_IMAGES: (sets >= 0).any(dim=1)}


@torch.no_grad()
def mean_scores(scores: Scores, dataset: Dataset, *, batch_size: int, worker: int = 0, workers: int = 1) -> dict[str, float]:
    """The mean of every score over a split, and the number of samples, the same on every worker. Collective."""
    sums: dict[str, Tensor] = {}
    stride, last = batch_size * workers, dataset.size - 1
    starts = range(worker * batch_size, -(-dataset.size // stride) * stride, stride)
    ahead = dataset.batches(_batch(np.minimum(np.arange(start, start + batch_size), last)) for start in starts)
    for start, loaded in zip(starts, ahead, strict=True):
        numbers = np.arange(start, start + batch_size)
        places = np.minimum(numbers, last)
        mask = torch.from_numpy(loaded.batch.samples == numbers).to(device())  # no padding, no replacements
        labels = torch.from_numpy(_with_label_sets(dataset, loaded.labels, places)).to(device())
        batch_scores = {**scores(normalise(loaded.images, device()), labels, places), "eval/samples": torch.ones_like(mask)}
        for name, values in batch_scores.items():
            sums[name] = sums.get(name, 0) + (values * mask).sum().double()
    totals = torch.stack(list(sums.values()))
    if workers > 1:
        dist.all_reduce(totals)
    means = dict(zip(sums, totals.tolist(), strict=True))
    count = means.pop("eval/samples")
    result = {name: total / count for name, total in means.items()}
    if REAL_IMAGES in result:  # images without a correct label do not count
        result["eval/real_top1"] = result.pop(REAL_HITS) / result.pop(REAL_IMAGES)
    return {**result, "eval/samples": count}


def _batch(samples: Ints) -> Batch:
    return Batch(samples, np.zeros_like(samples))


def _with_label_sets(dataset: Dataset, labels: Ints, places: Ints) -> Ints:
    """Labels, each followed by its set of correct labels if the dataset has them."""
    if dataset.label_sets is None:
        return labels
    return np.column_stack([labels, dataset.label_sets[places]])


@torch.no_grad()
def features(forward: Forward, dataset: Dataset, samples: Ints, *, batch_size: int) -> tuple[Tensor, Tensor]:
    """Representations of the given samples, fp32 on the CPU: (samples, D), and their classes (samples,).

    Where an image replaces a bad one, the class is that of the replacement.
    """
    representations, labels = [], []
    parts = (_batch(samples[start : start + batch_size]) for start in range(0, len(samples), batch_size))
    for loaded in dataset.batches(parts):
        representations.append(forward(normalise(loaded.images, device())).float().cpu())
        labels.append(torch.from_numpy(loaded.labels))
    return torch.cat(representations), torch.cat(labels)
