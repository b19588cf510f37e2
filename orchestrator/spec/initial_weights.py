"""Weights that take the place of a pretraining (`init: PATH`): which model the file holds, and whether it is the stated one.

Reads the file's header, and its bytes for the hash, never its tensors. Every tensor is checked when the run is executed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.spec.pretrain import InitFile
from vitmodel.config.base import UserError
from vitmodel.config.models import FAMILIES, ModelConfig
from vitmodel.flops.count import count_params
from vitmodel.weights.header import content_hash, hf_choices, read_header
from vitmodel.weights.recognise import (
    FILE_DECIDES,
    Shapes,
    check_same_model,
    classes_of,
    detect_layout,
    has_head,
    image_size_of,
    published_shapes,
    resolve_model,
    shows_heads,
)


def read_initial(path: Path, model: ModelConfig | None, stated: dict[str, Any]) -> tuple[ModelConfig, InitFile]:
    """The model of a file, and the file's identity. `model`: the one that the study states; `stated`: the keys of its entry.

    Raises UserError where the file is missing, of another architecture, or contradicts what was stated.
    """
    tensors, metadata = read_header(path)
    shapes = published_shapes(tensors)
    held = _ours(metadata, model, path) if "model" in metadata else _foreign(shapes, model, path)
    for key, value in stated.items():
        if key in FILE_DECIDES - {"variant"} and (actual := getattr(held, key, value)) != value:
            raise UserError(f"{key} is {actual} in {path.name}, not {value}", field=key, allowed=str(actual))
    _check_count(held, shapes, path)
    image_size = image_size_of(held, shapes)
    file = InitFile(path=str(path), identity=content_hash(path), image_size=image_size, classes=classes_of(shapes))
    return held, file


def _ours(metadata: dict[str, str], model: ModelConfig | None, path: Path) -> ModelConfig:
    """The model of a file that vitscale wrote."""
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    try:
        held = adapter.validate_json(metadata["model"])
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"the metadata of the file does not describe a model: {key or 'not JSON'}", file=str(path)) from None
    check_same_model(held, model, path)
    return held.model_copy(update={"variant": model.variant}) if model else held


def _foreign(shapes: Shapes, model: ModelConfig | None, path: Path) -> ModelConfig:
    """The model of a file of another codebase."""
    layout = detect_layout(shapes, path)
    choices = hf_choices(path) if layout == "hf" else {}
    resolved = resolve_model(shapes, model, layout, path, choices)
    if model is None and not shows_heads(shapes, layout, choices):
        raise UserError("the file does not show the number of heads; name the model", file=str(path), field="init")
    return resolved


def _check_count(model: ModelConfig, shapes: Shapes, path: Path) -> None:
    """Raise UserError where the file and the model differ in their number of values, the cheapest check of the architecture."""
    if FAMILIES[model.family].has_statistics:  # its file also holds BatchNorm's statistics, and its configuration
        return
    side, classes = image_size_of(model, shapes), classes_of(shapes)
    wanted = count_params(model, side, classes)
    if not has_head(shapes):
        wanted -= count_params(model, side, 2) - count_params(model, side, 1)
    held = sum(math.prod(shape) for shape in shapes.values())
    if held != wanted:
        raise UserError(
            f"the file holds {held:,} values, {model.variant} has {wanted:,}: another architecture; "
            f"`vitscale weights verify {path} --model ...` lists every tensor",
            file=str(path),
        )
