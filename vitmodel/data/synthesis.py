"""Generated sources: fractal images, and scikit-learn's digits enlarged.

An image depends only on the configuration of the source and on its number, so packing may run in any number of processes and
datasets of the same configuration are equal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitmodel.data.generated import DigitsConfig, FractalConfig
from vitmodel.data.images import encode_png
from vitmodel.data.order import hash_uint64, permutation
from vitmodel.data.sources import EncodedImage, SampleList, Source

Array = NDArray[np.float64]


# --- fractals -------------------------------------------------------------------------------------------------

_WALKERS = 64  # points that play the chaos game in parallel
_BURN_IN = 12
_MAX_MAPS = 6


class Systems(NamedTuple):
    """K iterated function systems: maps x -> Ax + b. Unused maps have probability 0."""

    matrices: Array  # K, maps, 2, 2
    offsets: Array  # K, maps, 2
    probabilities: Array  # K, maps


def fractals(config: FractalConfig) -> Source:
    """All images of a fractal dataset. An image is drawn when it is read."""
    splits = {}
    for split, count in (("train", config.train), ("val", config.val)):
        labels = np.arange(count) % config.classes
        items = [(split, number, label) for number, label in enumerate(labels.tolist())]
        splits[split] = SampleList(labels=labels, items=items)
    text = f"iterated function systems, {config.classes} classes (method: FractalDB, Kataoka et al. 2020)"
    return Source(
        splits=splits,
        read=partial(_read_fractals, config),
        classes=config.classes,
        image_size=config.image_size,
        source=text,
        licence="generated; free of rights",
    )


def _read_fractals(config: FractalConfig, items: Sequence[tuple[str, int, int]]) -> Iterator[EncodedImage]:
    splits, numbers, labels = zip(*items, strict=True)
    for image in _render(config, _systems(config), np.array(labels), splits[0], np.array(numbers)):
        yield EncodedImage(encode_png(image), "")


def _uniform(shape: tuple[int, ...], *key: int | NDArray[np.int64]) -> Array:
    """Uniform numbers in [0, 1) as a function of the key (arrays in the key lead the shape)."""
    cells = np.arange(int(np.prod(shape))).reshape(shape)
    lead = [np.reshape(part, np.shape(part) + (1,) * len(shape)) for part in key]
    return hash_uint64(*lead, cells).astype(np.float64) / 2.0**64


def _rotation(angles: Array) -> Array:
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


@lru_cache(maxsize=4)
def _systems(config: FractalConfig) -> Systems:
    """Contracting systems, drawn through their singular values so that none diverges (Anderson and Farrell 2022)."""
    classes, seed = np.arange(config.classes), config.seed
    count = 2 + (_uniform((1,), seed, 1, classes) * (_MAX_MAPS - 1)).astype(int)  # 2 to 6 maps
    used = np.arange(_MAX_MAPS) < count
    angles = _uniform((_MAX_MAPS, 2), seed, 2, classes) * 2 * np.pi
    scales = 0.25 + 0.55 * _uniform((_MAX_MAPS, 2), seed, 3, classes)
    signs = np.where(_uniform((_MAX_MAPS, 2), seed, 4, classes) < 0.5, -1.0, 1.0)
    matrices = _rotation(angles[..., 0]) * (scales * signs)[..., None, :] @ _rotation(angles[..., 1])
    offsets = 2 * _uniform((_MAX_MAPS, 2), seed, 5, classes) - 1
    weights = np.where(used, np.abs(np.linalg.det(matrices)) + 0.02, 0.0)
    return Systems(matrices, offsets, weights / weights.sum(-1, keepdims=True))


def _render(
    config: FractalConfig, systems: Systems, labels: NDArray[np.int64], split: str, numbers: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Draw one perturbed instance for each label: uint8 images (n, S, S)."""
    key = (config.seed, 10 + (split == "val"), numbers)
    size = config.image_size
    scale = 1 + config.variation * (2 * _uniform((_MAX_MAPS, 6), *key) - 1)
    matrices = systems.matrices[labels] * scale[..., :4].reshape(-1, _MAX_MAPS, 2, 2)
    offsets = systems.offsets[labels] * scale[..., 4:]
    maps = np.concatenate([matrices.reshape(-1, _MAX_MAPS, 4), offsets], axis=-1).astype(np.float32)
    x, y = _play(config, maps, systems.probabilities[labels], key)
    pixels = _cells(x, size) * size + _cells(y, size) + np.arange(len(labels))[:, None] * size**2
    density = np.bincount(pixels.ravel(), minlength=len(labels) * size**2).reshape(-1, size, size)
    light = np.log1p(density) / np.log1p(density.max(axis=(1, 2), keepdims=True))
    return (255 * light).astype(np.uint8)


def _cells(coordinates: NDArray[np.float32], size: int) -> NDArray[np.int64]:
    """Coordinates (n, points) as pixel rows or columns of an image, scaled to fill it except for a border of one pixel."""
    low, high = coordinates.min(axis=1, keepdims=True), coordinates.max(axis=1, keepdims=True)
    return ((coordinates - low) * ((size - 2) / (high - low + 1e-9)) + 1).clip(0, size - 1).astype(np.int64)


def _play(
    config: FractalConfig, maps: NDArray[np.float32], probabilities: Array, key: tuple[int, int, NDArray[np.int64]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The chaos game: x and y (n, points) on the attractor of each of n systems of maps (a, b, c, d, e, f)."""
    n = len(maps)
    cumulative, rows = probabilities.cumsum(-1), np.arange(n)[:, None] * _MAX_MAPS
    flat = maps.reshape(-1, 6)
    x = y = np.zeros((n, _WALKERS), dtype=np.float32)
    visited_x, visited_y = [], []
    for step in range(config.points // _WALKERS + _BURN_IN):
        draw = _uniform((_WALKERS,), *key, 7, step)
        chosen = sum((draw > cumulative[:, k, None]).astype(np.int64) for k in range(_MAX_MAPS - 1))
        a, b, c, d, e, f = np.moveaxis(flat[rows + chosen], -1, 0)
        x, y = (a * x + b * y + e).clip(-1e6, 1e6), (c * x + d * y + f).clip(-1e6, 1e6)
        if step >= _BURN_IN:
            visited_x.append(x)
            visited_y.append(y)
    return np.concatenate(visited_x, axis=1), np.concatenate(visited_y, axis=1)


# --- digits ---------------------------------------------------------------------------------------------------


def digits(config: DigitsConfig) -> Source:
    """scikit-learn's digits, divided into train and test class by class."""
    _, targets = _load_digits()
    shuffled = permutation(len(targets), config.seed)
    rank = np.empty(len(targets), dtype=np.int64)  # position of each image within its class, in shuffled order
    for digit in range(10):
        members = shuffled[targets[shuffled] == digit]
        rank[members] = np.arange(len(members))
    in_train = rank < np.floor(config.train_fraction * np.bincount(targets))[targets]
    rows = {"train": np.flatnonzero(in_train), "test": np.flatnonzero(~in_train)}
    return Source(
        splits={split: SampleList(labels=targets[numbers], items=numbers.tolist()) for split, numbers in rows.items()},
        read=partial(_read_digits, config.image_size),
        classes=10,
        image_size=config.image_size,
        source="scikit-learn's handwritten digits (UCI ML repository, Alpaydin and Kaynak 1998)",
        licence="CC BY 4.0",
    )


@lru_cache(maxsize=1)
def _load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    return (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8), targets.astype(np.int64)


def _read_digits(size: int, items: Sequence[int]) -> Iterator[EncodedImage]:
    pixels, _ = _load_digits()
    for number in items:
        enlarged = Image.fromarray(pixels[number]).resize((size, size), Image.Resampling.BICUBIC)
        yield EncodedImage(encode_png(np.asarray(enlarged)), "")
