"""Is a file of weights whole, and do two files mean the same? Reads files; writes nothing.

A file is whole where its tensors are exactly its model's, all finite, and where they go into every layout that has a place
for them and come back bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitmodel.config.base import UserError
from vitmodel.config.models import ModelConfig
from vitmodel.models.build import Module, build
from vitmodel.weights.files import published, read_tensors
from vitmodel.weights.interchange import heads_of, import_weights, own_model
from vitmodel.weights.layouts import tensors_of, to_foreign, to_own
from vitmodel.weights.recognise import LAYOUTS, Layout, classes_of, detect_layout, has_head, image_size_of

FIXED_IMAGES = 2


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a file holds and what is wrong with it."""

    path: Path
    layout: str  # "ours" for a file of this project
    model: ModelConfig
    image_size: int
    classes: int
    tensors: int
    params: int
    round_trips: dict[str, bool]  # layout: bit for bit the same after going there and back
    problems: tuple[str, ...]


def verify_file(path: Path, model: ModelConfig | None = None, layout: Layout | None = None) -> Verified:
    """Read a file strictly and check its values. Raises UserError where keys or shapes are not the model's."""
    is_ours = layout is None and own_model(path) is not None
    config, state = import_weights(path, model, layout)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    strange = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    trips = _round_trips(config, state)
    problems = [f"{name} holds values that are not finite" for name in strange]
    problems += [f"layout {name} does not give back the same bits" for name, same in trips.items() if not same]
    if not is_ours and not _gives_back_the_file(path, config, state, layout):
        problems.append("translated back, the tensors are not those of the file, bit for bit")
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
    """Largest absolute difference of two models' logits on a fixed image, and the largest logit of the first.

    Raises UserError where image sizes or classes differ: then there is nothing to compare.
    """
    sides = [image_size_of_state(*weights) for weights in (first, second)]
    heads = [classes_of(_shapes(state)) for _, state in (first, second)]
    for what, values in (("image size", sides), ("classes", heads)):
        if values[0] != values[1]:
            raise UserError(f"the two differ in {what}: {values[0]} and {values[1]}", field=what)
    images = fixed_images(sides[0])
    with torch.no_grad():
        logits = [module(model, state)(images) for model, state in (first, second)]
    return float((logits[0] - logits[1]).abs().max()), float(logits[0].abs().max())


def module(model: ModelConfig, state: dict[str, Tensor]) -> Module:
    """The module that these tensors make, for images of the size that they were made for, in evaluation mode."""
    with torch.device("meta"):
        built = build(model, image_size_of_state(model, state), classes_of(_shapes(state)))
    built.load_state_dict(state, assign=True)
    return built.eval()


def fixed_images(side: int) -> Tensor:
    """Two images (2, 3, side, side) in [-1, 1], the same everywhere and always: waves of several lengths and directions."""
    place = torch.arange(side, dtype=torch.float64) / side
    rows, columns = place[:, None], place[None, :]
    waves = [
        torch.sin(2 * torch.pi * (u * rows + v * columns) + channel)
        for channel, (u, v) in enumerate([(1, 2), (3, 1), (5, 4), (7, 0), (2, 9), (11, 6)])
    ]
    return torch.stack(waves).view(FIXED_IMAGES, 3, side, side).float()


def image_size_of_state(model: ModelConfig, state: dict[str, Tensor]) -> int:
    """Pixels per side that these weights are made for."""
    return image_size_of(model, _shapes(state))


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _round_trips(model: ModelConfig, state: dict[str, Tensor]) -> dict[str, bool]:
    """For each layout that has a place for the model: whether the tensors come back bit for bit."""
    found: dict[str, bool] = {}
    for layout in LAYOUTS:
        try:
            entries = tensors_of(model, layout)
        except UserError:
            continue
        back = to_own(to_foreign(state, entries, heads_of(model)), entries)
        found[layout] = back.keys() == state.keys() and all(_same_bits(back[name], state[name]) for name in state)
    return found


def _gives_back_the_file(path: Path, model: ModelConfig, state: dict[str, Tensor], layout: Layout | None) -> bool:
    theirs = published(read_tensors(path))
    layout = layout or detect_layout(theirs, path)
    again = to_foreign(state, tensors_of(model, layout, has_head=has_head(theirs)), heads_of(model))
    return again.keys() == theirs.keys() and all(_same_bits(again[name], theirs[name]) for name in theirs)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal shapes and bits, so that a NaN equals itself."""
    if one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))
