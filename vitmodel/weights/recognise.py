"""What a file of weights holds, told from the names and shapes of its tensors: whose layout, which ViT, which image size.

Knows the names that the official code, big_vision, timm and transformers have used over the years, and what each layout
means beyond its values (GELU, LayerNorm's epsilon). Pure: no torch and no files, so that a study can be planned with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from vitmodel.config.base import UserError
from vitmodel.config.models import HybridConfig, ModelConfig, ResNetConfig, ViTConfig
from vitmodel.config.variants import VIT_SIZES

Layout = Literal["official", "timm", "hf"]
LAYOUTS: tuple[Layout, ...] = ("official", "timm", "hf")
Shapes = dict[str, tuple[int, ...]]

HF_EPS = 1e-12  # Hugging Face's class default, and that of the published google/* files
HF_GELUS: dict[str, Literal["erf", "tanh"]] = {"gelu": "erf", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}

# What each layout's tensors mean beyond their values, measured: official flax code, timm 1.0, transformers 5.
CHOICES: dict[Layout, dict[str, Any]] = {
    "official": {"gelu": "tanh", "layer_norm_eps": 1e-6},
    "timm": {"gelu": "erf", "layer_norm_eps": 1e-6},
    "hf": {"gelu": "erf", "layer_norm_eps": HF_EPS},
}

# Under each layout's name: where the classes, the tokens, the class token and the pre-logits layer can be seen.
HEAD_BIASES = ("head.bias", "head/bias", "classifier.bias", "resnet/head/conv2d/bias", "head.fc.bias")
POSITIONS = ("pos_embed", "Transformer/posembed_input/pos_embedding", "vit.embeddings.position_embeddings")
CLASS_TOKENS = ("cls_token", "cls", "vit.embeddings.cls_token")
PRE_LOGITS = ("pre_logits.bias", "pre_logits/bias", "vit.pooler.dense.bias")
LEAST_IMAGE_SIZE = 64  # any that a convolutional network can take: its tensors do not depend on it

FILE_DECIDES = {"variant", "gelu", "layer_norm_eps", "pooling", "pre_logits"}  # of a model that names but a size

BIG_VISION_POSITIONS = "pos_embedding"  # at the top level, and without a place for the class token
SCANNED = re.compile(r"^(?:params/)?(Transformer/encoderblock)/(.+)$")  # big_vision: all layers stacked in one tensor

# Names of newer files to those of the published ones: linen's counters, big_vision's places, transformers 5 in memory,
# a Hugging Face ViTModel by itself.
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
    """The name under which the published files have this tensor."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def is_wide_norm(name: str) -> bool:
    """GroupNorms of the published hybrids are (1, 1, 1, C) and mean (C)."""
    return bool(re.search(r"(^|/)gn\w+/(scale|bias)$", name))


def lacks_class_position(names: Iterable[str]) -> bool:
    """big_vision adds positions before it puts the class token in front: the class token's own is zero."""
    known = set(names)
    prefixes = ("", "params/")
    return any(p + BIG_VISION_POSITIONS in known and p + "cls" in known for p in prefixes)


def published_shapes(shapes: Shapes) -> Shapes:
    """Names and shapes of a file as the published files have them."""
    found: Shapes = {}
    for their_name, shape in shapes.items():
        if match := SCANNED.match(their_name):
            for layer in range(shape[0]):
                found[published_name(f"{match[1]}_{layer}/{match[2]}")] = shape[1:]
            continue
        name = published_name(their_name)
        found[name] = (math.prod(shape),) if is_wide_norm(name) else shape
        if name == POSITIONS[1] and lacks_class_position(shapes):
            found[name] = (shape[0], shape[1] + 1, *shape[2:])
    return found


def detect_layout(names: Iterable[str], path: Path) -> Layout:
    """Which codebase wrote these names. Raises UserError."""
    marks: dict[str, Layout] = {
        "embedding/kernel": "official",
        "resnet/root_block/standardized_conv2d/kernel": "official",
        "vit.embeddings.cls_token": "hf",
        "patch_embed.proj.weight": "timm",
        "stem.conv.weight": "timm",
    }
    known = set(names)
    for name, layout in marks.items():
        if name in known:
            return layout
    raise UserError(
        f"tensors of no known layout, such as {min(known, default='none')}", file=str(path), allowed=", ".join(LAYOUTS)
    )


def infer_vit(shapes: Shapes, layout: Layout, path: Path, heads: int | None = None) -> ViTConfig:
    """A plain ViT's configuration from names and shapes. Heads where no shape shows them: the named size's, else width / 64."""
    names = {
        "official": ("embedding/kernel", "Transformer/encoderblock_{}/MlpBlock_3/Dense_0/bias"),
        "timm": ("patch_embed.proj.weight", "blocks.{}.mlp.fc1.bias"),
        "hf": ("vit.embeddings.patch_embeddings.projection.weight", "vit.encoder.layer.{}.intermediate.dense.bias"),
    }
    embed, hidden = names[layout]
    if embed not in shapes or hidden.format(0) not in shapes or any("conv_root" in n or "backbone" in n for n in shapes):
        raise UserError("not a plain ViT: name the model", file=str(path), field="model")
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
        **seen_choices(shapes),
    )


def seen_choices(shapes: Shapes) -> dict[str, Any]:
    """Pooling and pre-logits layer, which a file of any layout shows."""
    return {
        "pooling": "cls" if any(name in shapes for name in CLASS_TOKENS) else "gap",
        "pre_logits": next((shapes[name][0] for name in PRE_LOGITS if name in shapes), 0),
    }


def resolve_model(
    shapes: Shapes, model: ModelConfig | None, layout: Layout, path: Path, said: dict[str, Any] | None = None
) -> ModelConfig:
    """The model of a file of another codebase: the named size, or a plain ViT by its shapes; with the file's GELU, epsilon,
    pooling and pre-logits layer. `said`: what a config.json beside it says. Raises UserError."""
    choices = {**CHOICES[layout], **(said or {})}
    heads = choices.pop("heads", None)
    if model is None:
        return infer_vit(shapes, layout, path, heads).model_copy(update=choices)
    if isinstance(model, ResNetConfig) or not isinstance(model, ViTConfig | HybridConfig):
        return model
    if heads not in (None, model.heads):
        raise UserError(f"the file says {heads} heads, the model has {model.heads}", file=str(path), field="heads")
    return model.model_copy(update={**choices, **seen_choices(shapes)})


def check_same_model(own: ModelConfig, asked: ModelConfig | None, path: Path) -> None:
    """Raise UserError where a file of ours holds another model than the one asked for, but for what a file decides."""
    if asked is None:
        return
    has, wants = own.model_dump(exclude=FILE_DECIDES), asked.model_dump(exclude=FILE_DECIDES)
    wrong = [f"{key} {has.get(key)}, asked {wants.get(key)}" for key in {**has, **wants} if has.get(key) != wants.get(key)]
    if wrong:
        raise UserError(f"holds {own.variant}, another model: {'; '.join(wrong)}", file=str(path), field="model")


def shows_heads(shapes: Shapes, layout: Layout, said: dict[str, Any]) -> bool:
    """Whether a ViT's number of heads can be told from the file: by a shape, a config.json, or as that of a named size."""
    if layout == "official" or "heads" in said:
        return True
    return infer_vit(shapes, layout, Path("unnamed")).variant != "unnamed"


def has_head(names: Iterable[str]) -> bool:
    """Whether a file holds a classification head."""
    return not set(HEAD_BIASES).isdisjoint(names)


def classes_of(shapes: Shapes) -> int:
    """Outputs of the file's head; 1 where it has none."""
    return next((shapes[name][0] for name in HEAD_BIASES if name in shapes), 1)


def image_size_of(model: ModelConfig, shapes: Shapes) -> int:
    """Pixels per side that the file's position embedding is made for. Raises UserError for an impossible one."""
    if not isinstance(model, ViTConfig | HybridConfig):
        return LEAST_IMAGE_SIZE
    tokens = next((shapes[name][1] for name in POSITIONS if name in shapes), 2)
    scale = 2 ** (1 + max(1, len(model.stages))) if isinstance(model, HybridConfig) else 1
    return square_grid(tokens, int(model.pooling == "cls"))[0] * model.patch * scale


def square_grid(tokens: int, prefix: int, grid: tuple[int, int] | None = None) -> tuple[int, int]:
    """(rows, columns) of so many tokens: the given grid, checked, or a square one. Raises UserError where there is none."""
    side = math.isqrt(max(0, tokens - prefix))
    rows, columns = grid or (side, side)
    if rows * columns != tokens - prefix or tokens <= prefix:
        shape = f"grid of {rows} x {columns}" if grid else "square grid"
        raise UserError(f"position embedding of {tokens} tokens is no {shape} plus {prefix}", field="pos_embed")
    return rows, columns
