"""Imports and exports weights of other codebases: official npz, timm, Hugging Face ViT, and our own files.

`import_weights` reads a file as a configuration and our tensors; `export_weights` writes them. Nothing is unpickled: npz
with allow_pickle=False, torch files with weights_only=True. A file must contain exactly the tensors of its model; errors
use the names in the file. GELU and LayerNorm's epsilon are those of the codebase.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitmodel.config.families.hybrid import HybridConfig
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import ModelConfig
from vitmodel.files import atomic_path
from vitmodel.models.build import build
from vitmodel.weights.files import published, read_tensors
from vitmodel.weights.header import HF_CONFIG, HF_WEIGHTS, hf_choices
from vitmodel.weights.layouts import entries_of, from_layout, to_layout
from vitmodel.weights.native import check_fit, save_weights, saved_model
from vitmodel.weights.recognise import (
    Layout,
    check_same_model,
    classes_of,
    detect_layout,
    has_head,
    image_size_of,
    resolve_model,
)

HF_GELU = {"erf": "gelu", "tanh": "gelu_pytorch_tanh"}


def import_weights(
    path: Path, model: ModelConfig | None = None, layout: Layout | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a file (or a Hugging Face folder) as a configuration and our tensors in fp32.

    Without a model, a plain ViT is recognised by its shapes. The layout is recognised by its names. For a named size, the
    file determines GELU, epsilon, pooling and the pre-logits layer. A file without a head gets a zero head of one class.
    Raises UserError for a file that cannot be read safely, for one of our files with another model than the given one,
    and for tensors that are missing, unexpected or of another shape.
    """
    if layout is None and (saved := native_model(path)) is not None:
        check_same_model(saved, model, path)
        state = with_head(saved, read_tensors(path))
        check_fit(state, _expected(saved, state), path)
        return saved, state
    tensors = published(read_tensors(path))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    layout = layout or detect_layout(tensors, path)
    model = resolve_model(shapes, model, layout, path, hf_choices(path) if layout == "hf" else {})
    entries, expected = entries_of(model, layout, has_head=has_head(tensors)), _expected(model, tensors)
    check_fit(tensors, to_layout(expected, entries, heads_of(model)), path)
    return model, with_head(model, from_layout(tensors, entries))


def export_weights(state: dict[str, Tensor], model: ModelConfig, path: Path, layout: Layout | None = None) -> None:
    """Write our tensors in the layout of another codebase, or in ours.

    official: an npz. timm: safetensors of its state dict. hf: a folder with safetensors and config.json. Raises UserError
    if the layout does not support the model, or the tensors are not those of the model.
    """
    check_fit(state, _expected(model, state), path)
    if layout is None:
        save_weights(state, path, model)
        return
    tensors = to_layout(
        {name: t.detach().float().cpu() for name, t in state.items()}, entries_of(model, layout), heads_of(model)
    )
    if layout == "official":
        with atomic_path(path) as partial, partial.open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
    elif layout == "timm":
        save_weights(tensors, path)
    else:
        assert isinstance(model, ViTConfig)
        path.mkdir(parents=True, exist_ok=True)
        (path / HF_CONFIG).write_text(json.dumps(hf_config(model, state), indent=1))
        save_weights(tensors, path / HF_WEIGHTS)


def hf_config(model: ViTConfig, state: dict[str, Tensor]) -> dict[str, Any]:
    """The config.json that `ViTForImageClassification.from_pretrained` reads in addition to the tensors."""
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5) * model.patch
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": model.mlp_dim,
        "hidden_act": HF_GELU[model.gelu],
        "layer_norm_eps": model.layer_norm_eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "image_size": side,
        "patch_size": model.patch,
        "num_channels": 3,
        "qkv_bias": True,
        "num_labels": len(state["head.bias"]),
    }


def with_head(model: ModelConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with a zero head of one class added if they have no head."""
    if has_head(state):
        return state
    expected = _expected(model, state)
    return {**{n: torch.zeros(t.shape) for n, t in expected.items() if n.startswith("head.")}, **state}


def native_model(path: Path) -> ModelConfig | None:
    """The configuration in one of our files; None for a file of another codebase."""
    return saved_model(path) if path.is_file() and path.suffix == ".safetensors" else None


def heads_of(model: ModelConfig) -> int:
    """The number of attention heads; 1 for a model without attention."""
    return model.heads if isinstance(model, ViTConfig | HybridConfig) else 1


def _expected(model: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, without values, of the module with the position embedding and the head of these tensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    with torch.device("meta"):
        return build(model, image_size_of(model, shapes), classes_of(shapes)).state_dict()
