"""Verifies a file of weights, and compares two files. Reads files; writes nothing.

A file has no problems if its tensors are exactly those of its model, all values are finite, and a conversion to every
layout that supports the model, and back, gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig
from vitmodel.models.build import build
from vitmodel.models.classifier import Classifier
from vitmodel.weights.files import published, read_tensors
from vitmodel.weights.interchange import heads_of, import_weights, native_model
from vitmodel.weights.layouts import entries_of, from_layout, to_layout
from vitmodel.weights.recognise import LAYOUTS, Layout, classes_of, detect_layout, has_head, image_size_of

FIXED_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The content of a file, and its problems."""

    path: Path
    layout: str  # "ours" for our own files
    model: ModelConfig
    image_size: int
    classes: int
    tensors: int
    params: int
    round_trips: dict[str, bool]  # by layout: whether a conversion to it and back gives the same bits
    problems: tuple[str, ...]


def verify_file(path: Path, model: ModelConfig | None = None, layout: Layout | None = None) -> Verified:
    """Read a file strictly and check its values. Raises UserError if names or shapes are not those of the model."""
    is_ours = layout is None and native_model(path) is not None
    config, state = import_weights(path, model, layout)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    not_finite = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    trips = _round_trips(config, state)
    problems = [f"{name} has values that are not finite" for name in not_finite]
    problems += [
        f"a conversion to layout {name} and back does not give the same bits" for name, same in trips.items() if not same
    ]
    if not is_ours and not _reproduces_file(path, config, state, layout):
        problems.append("converted back, the tensors do not have the same bits as those of the file")
    return Verified(
        path=path,
        layout="ours" if is_ours else layout or detect_layout(published(read_tensors(path)), path),
        model=config,
        image_size=image_size_of(config, shapes),
        classes=classes_of(shapes),
        tensors=len(state),
        params=sum(tensor.numel() for tensor in state.values()),
        round_trips=trips,
        problems=tuple(problems),
    )


def logit_difference(
    first: tuple[ModelConfig, dict[str, Tensor]], second: tuple[ModelConfig, dict[str, Tensor]]
) -> tuple[float, float]:
    """Largest absolute difference of two models' logits on fixed images, and the largest absolute logit of the first.

    Raises UserError if their image sizes or classes differ.
    """
    sides = [image_size_of_state(*weights) for weights in (first, second)]
    heads = [classes_of(_shapes(state)) for _, state in (first, second)]
    for field, values in (("image size", sides), ("classes", heads)):
        if values[0] != values[1]:
            raise UserError(f"the two files differ in {field}: {values[0]} and {values[1]}", field=field)
    images = fixed_images(sides[0])
    with torch.no_grad():
        logits = [module(model, state)(images) for model, state in (first, second)]
    return float((logits[0] - logits[1]).abs().max()), float(logits[0].abs().max())


def module(model: ModelConfig, state: dict[str, Tensor]) -> Classifier:
    """The module with these weights, in evaluation mode, for images of the size that they fit."""
    with torch.device("meta"):
        built = build(model, image_size_of_state(model, state), classes_of(_shapes(state)))
    built.load_state_dict(state, assign=True)
    return built.eval()


def fixed_images(side: int) -> Tensor:
    """Two fixed images (2, 3, side, side) in [-1, 1]: sine waves of several lengths and directions."""
    position = torch.arange(side, dtype=torch.float64) / side
    rows, columns = position[:, None], position[None, :]
    waves = [
        torch.sin(2 * torch.pi * (u * rows + v * columns) + channel)
        for channel, (u, v) in enumerate([(1, 2), (3, 1), (5, 4), (7, 0), (2, 9), (11, 6)])
    ]
    return torch.stack(waves).view(FIXED_IMAGES, 3, side, side).float()


def image_size_of_state(model: ModelConfig, state: dict[str, Tensor]) -> int:
    """Pixels per side of the images that these weights fit."""
    return image_size_of(model, _shapes(state))


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _round_trips(model: ModelConfig, state: dict[str, Tensor]) -> dict[str, bool]:
    """For each layout that supports the model: whether a conversion to it and back gives the same bits."""
    same: dict[str, bool] = {}
    for layout in LAYOUTS:
        try:
            entries = entries_of(model, layout)
        except UserError:
            continue
        back = from_layout(to_layout(state, entries, heads_of(model)), entries)
        same[layout] = back.keys() == state.keys() and all(_same_bits(back[name], state[name]) for name in state)
    return same


def _reproduces_file(path: Path, model: ModelConfig, state: dict[str, Tensor], layout: Layout | None) -> bool:
    original = published(read_tensors(path))
    layout = layout or detect_layout(original, path)
    converted = to_layout(state, entries_of(model, layout, has_head=has_head(original)), heads_of(model))
    return converted.keys() == original.keys() and all(_same_bits(converted[name], original[name]) for name in original)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether shapes and bits are equal; a NaN equals itself."""
    if one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))
