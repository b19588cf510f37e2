"""Weights that a study starts from in place of a pretraining (`init: PATH`): what the file holds, and whether it is this model.

Reads the file's header and its bytes for the hash, never its tensors. Every tensor is checked when the file is imported.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.spec.schema import InitFile
from vitmodel.config.base import UserError
from vitmodel.config.models import CnnConfig, ModelConfig
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
    """The model of a file, and what identifies it. `model`: the one asked for; `stated`: what was said of it key by key.

    Raises UserError where the file is missing, of another architecture, or contradicts what was stated.
    """
    tensors, metadata = read_header(path)
    shapes = published_shapes(tensors)
    found = _own(metadata, model, path) if "model" in metadata else _foreign(shapes, model, path)
    for key, value in stated.items():
        if key in FILE_DECIDES - {"variant"} and (is_so := getattr(found, key, value)) != value:
            raise UserError(f"{key} is {is_so} in {path.name}, not {value}", field=key, allowed=str(is_so))
    _check_count(found, shapes, path)
    image_size = image_size_of(found, shapes)
    file = InitFile(path=str(path), identity=content_hash(path), image_size=image_size, classes=classes_of(shapes))
    return found, file


def _own(metadata: dict[str, str], model: ModelConfig | None, path: Path) -> ModelConfig:
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    try:
        own = adapter.validate_json(metadata["model"])
    except ValidationError as error:
        raise UserError(f"its model cannot be read: {error.errors()[0]['msg']}", file=str(path)) from None
    check_same_model(own, model, path)
    return own.model_copy(update={"variant": model.variant}) if model else own


def _foreign(shapes: Shapes, model: ModelConfig | None, path: Path) -> ModelConfig:
    layout = detect_layout(shapes, path)
    said = hf_choices(path) if layout == "hf" else {}
    found = resolve_model(shapes, model, layout, path, said)
    if model is None and not shows_heads(shapes, layout, said):
        raise UserError("this file does not show how many heads there are: name the model", file=str(path), field="init")
    return found


def _check_count(model: ModelConfig, shapes: Shapes, path: Path) -> None:
    """Raise UserError where the file holds another number of values than the model: the cheapest sign of another one."""
    if isinstance(model, CnnConfig):  # its file holds BatchNorm's statistics too, and carries its model
        return
    side, classes = image_size_of(model, shapes), classes_of(shapes)
    wanted = count_params(model, side, classes)
    if not has_head(shapes):
        wanted -= count_params(model, side, 2) - count_params(model, side, 1)
    held = sum(math.prod(shape) for shape in shapes.values())
    if held != wanted:
        raise UserError(
            f"holds {held:,} values, {model.variant} has {wanted:,}: another architecture, "
            f"`vitscale weights verify {path} --model ...` names every tensor",
            file=str(path),
        )
