"""Recognises a file of weights by the names and shapes of its tensors: the layout, the ViT, the image size.

Knows the names that the official code, big_vision, timm and transformers have used over the years, and the choices that a
layout implies but does not store (GELU, LayerNorm's epsilon). Pure: no torch and no files, so that studies can be planned
with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from vitmodel.config.base import UserError
from vitmodel.config.families.hybrid import HybridConfig
from vitmodel.config.families.vit import VIT_SIZES, ViTConfig
from vitmodel.config.models import ModelConfig

Layout = Literal["official", "timm", "hf"]
LAYOUTS: tuple[Layout, ...] = ("official", "timm", "hf")
Shapes = dict[str, tuple[int, ...]]

HF_EPS = 1e-12  # the default of Hugging Face's class, and the value in the published google/* files
HF_GELUS: dict[str, Literal["erf", "tanh"]] = {"gelu": "erf", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}

# Choices that a layout implies but does not store, measured with: official flax code, timm 1.0, transformers 5.
CHOICES: dict[Layout, dict[str, Any]] = {
    "official": {"gelu": "tanh", "layer_norm_eps": 1e-6},
    "timm": {"gelu": "erf", "layer_norm_eps": 1e-6},
    "hf": {"gelu": "erf", "layer_norm_eps": HF_EPS},
}

# Names, in all layouts, of the tensors that show the classes, the tokens, the class token and the pre-logits layer.
HEAD_BIASES = ("head.bias", "head/bias", "classifier.bias", "resnet/head/conv2d/bias", "head.fc.bias")
POSITIONS = ("pos_embed", "Transformer/posembed_input/pos_embedding", "vit.embeddings.position_embeddings")
CLASS_TOKENS = ("cls_token", "cls", "vit.embeddings.cls_token")
PRE_LOGITS = ("pre_logits.bias", "pre_logits/bias", "vit.pooler.dense.bias")
CONVOLUTIONAL_IMAGE_SIZE = 64  # the tensors of a convolutional network fit any image size

FILE_DECIDES = {"variant", "gelu", "layer_norm_eps", "pooling", "pre_logits"}  # fields of a named size that a file determines

BIG_VISION_POSITIONS = "pos_embedding"  # at the top level, without an entry for the class token
SCANNED = re.compile(r"^(?:params/)?(Transformer/encoderblock)/(.+)$")  # big_vision: all layers stacked in one tensor

# Names in other files to those in the published ones: linen's counters, big_vision's names, transformers 5 in memory,
# a Hugging Face ViTModel without a classifier.
RENAMES = [
    (r"^(opt/target/|params/|module\.)", ""),
    (rf"^{BIG_VISION_POSITIONS}$", "Transformer/posembed_input/pos_embedding"),
    (r"MultiHeadDotProductAttention_0/", "MultiHeadDotProductAttention_1/"),
    (r"(encoderblock_\d+)/LayerNorm_1/", r"\1/LayerNorm_2/"),
    (r"MlpBlock_0/", "MlpBlock_3/"),
    (r"^(?=(embeddings|encoder|layers|layernorm|pooler)\.)", "vit."),
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"^(vit\.encoder\.layer\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(vit\.encoder\.layer\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
]


def published_name(name: str) -> str:
    """The name of this tensor in the published files."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def is_wide_norm(name: str) -> bool:
    """Whether a tensor is a GroupNorm of the published hybrids, stored as (1, 1, 1, C) instead of (C)."""
    return bool(re.search(r"(^|/)gn\w+/(scale|bias)$", name))


def lacks_class_position(names: Iterable[str]) -> bool:
    """Whether the position embedding has no entry for the class token. big_vision adds the class token later: it is zero."""
    known = set(names)
    prefixes = ("", "params/")
    return any(p + BIG_VISION_POSITIONS in known and p + "cls" in known for p in prefixes)


def published_shapes(shapes: Shapes) -> Shapes:
    """The shapes of a file under the names of the published files."""
    renamed: Shapes = {}
    for file_name, shape in shapes.items():
        if match := SCANNED.match(file_name):
            for layer in range(shape[0]):
                renamed[published_name(f"{match[1]}_{layer}/{match[2]}")] = shape[1:]
            continue
        name = published_name(file_name)
        renamed[name] = (math.prod(shape),) if is_wide_norm(name) else shape
        if name == POSITIONS[1] and lacks_class_position(shapes):
            renamed[name] = (shape[0], shape[1] + 1, *shape[2:])
    return renamed


def detect_layout(names: Iterable[str], path: Path) -> Layout:
    """The layout with these names. Raises UserError if it is unknown."""
    characteristic: dict[str, Layout] = {
        "embedding/kernel": "official",
        "resnet/root_block/standardized_conv2d/kernel": "official",
        "vit.embeddings.cls_token": "hf",
        "patch_embed.proj.weight": "timm",
        "stem.conv.weight": "timm",
    }
    known = set(names)
    for name, layout in characteristic.items():
        if name in known:
            return layout
    raise UserError(
        f"unknown layout: no supported codebase has a tensor {min(known, default='none')!r}",
        file=str(path),
        allowed=", ".join(LAYOUTS),
    )


def infer_vit(shapes: Shapes, layout: Layout, path: Path, heads: int | None = None) -> ViTConfig:
    """The configuration of a plain ViT by its shapes. Heads that they do not show: those of a named size, else width / 64."""
    names = {
        "official": ("embedding/kernel", "Transformer/encoderblock_{}/MlpBlock_3/Dense_0/bias"),
        "timm": ("patch_embed.proj.weight", "blocks.{}.mlp.fc1.bias"),
        "hf": ("vit.embeddings.patch_embeddings.projection.weight", "vit.encoder.layer.{}.intermediate.dense.bias"),
    }
    embed, hidden = names[layout]
    if embed not in shapes or hidden.format(0) not in shapes or any("conv_root" in n or "backbone" in n for n in shapes):
        raise UserError("the file is not a plain ViT: name the model", file=str(path), field="model")
    width = shapes[embed][-1 if layout == "official" else 0]
    depth = next(n for n in range(len(shapes) + 1) if hidden.format(n) not in shapes)
    query = shapes.get("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/bias")
    if query is not None:
        heads = query[0]
    mlp_dim, patch = shapes[hidden.format(0)][0], shapes[embed][1 if layout == "official" else -1]
    size = next((s for s, shape in VIT_SIZES.items() if shape[:3] == (width, depth, mlp_dim)), None)
    return ViTConfig(
        family="vit",
        variant=f"{size}/{patch}" if size else path.stem,
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        heads=heads or (VIT_SIZES[size][3] if size else max(1, width // 64)),
        patch=patch,
        **CHOICES[layout],
        **stored_choices(shapes),
    )


def stored_choices(shapes: Shapes) -> dict[str, Any]:
    """Pooling and pre-logits layer, which the tensors of any layout show."""
    return {
        "pooling": "cls" if any(name in shapes for name in CLASS_TOKENS) else "gap",
        "pre_logits": next((shapes[name][0] for name in PRE_LOGITS if name in shapes), 0),
    }


def resolve_model(
    shapes: Shapes, model: ModelConfig | None, layout: Layout, path: Path, hf_config: dict[str, Any] | None = None
) -> ModelConfig:
    """The model in a file of another codebase: the given one, or a plain ViT by its shapes.

    GELU, epsilon, pooling and pre-logits layer are those of the file; `hf_config`: the choices in its config.json. Raises
    UserError.
    """
    choices = {**CHOICES[layout], **(hf_config or {})}
    heads = choices.pop("heads", None)
    if model is None:
        return infer_vit(shapes, layout, path, heads).model_copy(update=choices)
    if not isinstance(model, ViTConfig | HybridConfig):
        return model
    if heads not in (None, model.heads):
        raise UserError(f"the file has {heads} heads, the model {model.heads}", file=str(path), field="heads")
    return model.model_copy(update={**choices, **stored_choices(shapes)})


def check_same_model(saved: ModelConfig, model: ModelConfig | None, path: Path) -> None:
    """Raise UserError if one of our files contains another model than the given one, except for what a file determines."""
    if model is None:
        return
    has, wanted = saved.model_dump(exclude=FILE_DECIDES), model.model_dump(exclude=FILE_DECIDES)
    different = [key for key in {**has, **wanted} if has.get(key) != wanted.get(key)]
    if different:
        details = "; ".join(f"{key} is {has.get(key)}, not {wanted.get(key)}" for key in different)
        raise UserError(f"the file contains another model ({saved.variant}): {details}", file=str(path), field="model")


def shows_heads(shapes: Shapes, layout: Layout, hf_config: dict[str, Any]) -> bool:
    """Whether a file determines the number of heads of its ViT: by a shape, its config.json, or as a named size."""
    if layout == "official" or "heads" in hf_config:
        return True
    return infer_vit(shapes, layout, Path("unnamed")).variant != "unnamed"


def has_head(names: Iterable[str]) -> bool:
    """Whether a file has a classification head."""
    return not set(HEAD_BIASES).isdisjoint(names)


def classes_of(shapes: Shapes) -> int:
    """Outputs of the file's head; 1 if it has none."""
    return next((shapes[name][0] for name in HEAD_BIASES if name in shapes), 1)


def image_size_of(model: ModelConfig, shapes: Shapes) -> int:
    """Pixels per side of the images that the file's position embedding fits. Raises UserError for an impossible one."""
    if not isinstance(model, ViTConfig | HybridConfig):
        return CONVOLUTIONAL_IMAGE_SIZE
    tokens = next((shapes[name][1] for name in POSITIONS if name in shapes), 2)
    scale = 2 ** (1 + max(1, len(model.stages))) if isinstance(model, HybridConfig) else 1
    return square_grid(tokens, int(model.pooling == "cls"))[0] * model.patch * scale


def square_grid(tokens: int, prefix: int, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """(rows, columns) of these tokens: the given grid, or a square one. Raises UserError if the tokens do not match it."""
    side = math.isqrt(max(0, tokens - prefix))
    rows, columns = grid or (side, side)
    if rows * columns != tokens - prefix or tokens <= prefix:
        shape = f"grid of {rows} x {columns}" if grid else "square grid"
        raise UserError(f"the position embedding has {tokens} tokens, not a {shape} plus {prefix} other", field="pos_embed")
    return rows, columns
