"""Configurations of generated datasets, and their identity, which is known before they are generated."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field

from vitmodel.config.base import Frozen

GENERATOR_VERSION = 1  # must be increased when the same configuration gives other bytes
DIGITS_PER_CLASS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)  # scikit-learn's load_digits


class FractalConfig(Frozen):
    """Images of iterated function systems, as in FractalDB (Kataoka et al. 2020, section 3): a class is a system,
    and its images are drawn with perturbed parameters."""

    generate: Literal["fractals"]
    """The generator's name."""
    classes: int = Field(gt=1, le=100_000, examples=["256"])
    """Number of classes."""
    train: int = Field(gt=0, examples=["18000"])
    """Number of training images."""
    val: int = Field(gt=0, examples=["2048"])
    """Number of validation images."""
    image_size: int = Field(default=32, ge=8, le=512)
    """Pixels per side."""
    variation: float = Field(default=0.2, ge=0, le=0.5)
    """Each parameter of a class is scaled by 1 plus or minus this share (FractalDB: 0.2)."""
    points: int = Field(default=1536, ge=64)
    """Points that are drawn per image."""
    seed: int = 0
    """Seed of the classes and of the images."""


class DigitsConfig(Frozen):
    """scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998, UCI), real 8 x 8 images, enlarged."""

    generate: Literal["digits"]
    """The generator's name."""
    image_size: int = Field(default=32, ge=8, le=512)
    """Pixels per side; the stored images are 8 x 8 and are enlarged."""
    train_fraction: float = Field(default=0.6, gt=0, lt=1)
    """Share of each class that is in the train split; the rest is the test split."""
    seed: int = 0
    """Seed of the split."""


GeneratedConfig = FractalConfig | DigitsConfig


def identity(config: GeneratedConfig) -> str:
    """Identity of a generated dataset. Equal identities mean equal bytes, because the generators are deterministic."""
    text = json.dumps({"version": GENERATOR_VERSION, **config.model_dump()}, sort_keys=True)
    return "generated-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def train_samples(config: GeneratedConfig) -> int:
    """Images in the train split."""
    if isinstance(config, FractalConfig):
        return config.train
    return sum(int(config.train_fraction * count) for count in DIGITS_PER_CLASS)


def classes(config: GeneratedConfig) -> int:
    """Number of classes."""
    return config.classes if isinstance(config, FractalConfig) else len(DIGITS_PER_CLASS)


def eval_split(config: GeneratedConfig) -> str:
    """Name of the split that runs are evaluated on."""
    return "val" if isinstance(config, FractalConfig) else "test"
