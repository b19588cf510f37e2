"""BiT's hyper-rule (Kolesnikov et al. 2020, section 3.3): fine-tuning settings from the number and the size of the images."""

from __future__ import annotations

from typing import NamedTuple

PRESET = "bit_hyperrule"
SMALL_IMAGE = 96  # pixels per side; smaller images are small
MEDIUM, LARGE = 20_000, 500_000  # training examples from which a task is medium, or large


class HyperRule(NamedTuple):
    """The settings of one task."""

    steps: int  # at batch 512
    warmup: int  # steps; not in the paper, from the published code
    mixup: float


def bit_hyperrule(examples: int) -> HyperRule:
    """Length of the schedule, warm-up and mixup for a task with this number of training examples."""
    if examples < MEDIUM:
        return HyperRule(steps=500, warmup=100, mixup=0.0)
    return HyperRule(steps=10_000 if examples < LARGE else 20_000, warmup=500, mixup=0.1)


def hyperrule_resolution(image_size: int) -> int:
    """Pixels per side of the crop: 128 (of 160) for images smaller than 96 x 96, else 384 (of 448)."""
    return 128 if image_size < SMALL_IMAGE else 384
