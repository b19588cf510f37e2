"""Weights of other codebases, in and out: official npz, timm, Hugging Face ViT, and files of ours.

`import_weights` reads a file to a configuration and our tensors; `export_weights` writes them. Nothing is ever unpickled:
npz with allow_pickle=False, torch files with weights_only=True. A file must hold exactly the tensors of its model, and
the report of what does not fit speaks the file's own names. GELU and LayerNorm's epsilon are the codebase's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitmodel.config import HybridConfig, ModelConfig, ResNetConfig, UserError, ViTConfig
from vitmodel.models.build import build
from vitmodel.models.layouts import Layout, tensors_of, to_foreign, to_own
from vitmodel.models.tensorfiles import HF_WEIGHTS, detect_layout, normalise, read_tensors
from vitmodel.models.weights import check_fit, save_weights, saved_model, square_grid
from vitmodel.variants import VIT_SIZES

HF_CONFIG = "config.json"
HF_GELU = {"erf": "gelu", "tanh": "gelu_pytorch_tanh"}
HF_EPS = 1e-12  # its class default, and that of the published google/* files

# What each layout's tensors mean beyond their values: parity.md, section 1.
CHOICES: dict[Layout, dict[str, Any]] = {
    "official": {"gelu": "tanh", "layer_norm_eps": 1e-6},
    "timm": {"gelu": "erf", "layer_norm_eps": 1e-6},
    "hf": {"gelu": "erf", "layer_norm_eps": HF_EPS},
}

# Under each layout's name: where the number of classes and of tokens can be seen.
HEAD_BIASES = ("head.bias", "head/bias", "classifier.bias", "resnet/head/conv2d/bias", "head.fc.bias")
POSITIONS = ("pos_embed", "Transformer/posembed_input/pos_embedding", "vit.embeddings.position_embeddings")
LEAST_IMAGE_SIZE = 64  # any that a convolutional network can take: its tensors do not depend on it


def import_weights(
    path: Path, model: ModelConfig | None = None, layout: Layout | None = None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A file (or a Hugging Face folder) as a configuration and our tensors in fp32.

    Without a model, a plain ViT is recognised by its shapes. The layout is recognised by its names. Raises UserError for
    a file that cannot be read safely and for tensors that are missing, too many, or of another shape.
    """
    if layout is None and (own := _saved_here(path)) is not None:
        state = read_tensors(path)
        check_fit(state, _expected(own, state), path)
        return own, state
    tensors = normalise(read_tensors(path))
    layout = layout or detect_layout(tensors, path)
    choices = {**CHOICES[layout], **(_hf_choices(path) if layout == "hf" else {})}
    heads = choices.pop("heads", None)
    if model is None:
        model = infer_vit(tensors, layout, path, heads)
    if not isinstance(model, ResNetConfig):
        model = model.model_copy(update=choices)
    entries = tensors_of(model, layout)
    theirs = to_foreign(_expected(model, tensors), entries, _heads(model))
    check_fit(tensors, theirs, path)
    return model, to_own(tensors, entries)


def export_weights(state: dict[str, Tensor], model: ModelConfig, path: Path, layout: Layout | None = None) -> None:
    """Write our tensors as another codebase wants them; without a layout, as ours.

    official: an npz. timm: safetensors of its state dict. hf: a folder with safetensors and config.json. Raises UserError
    where the layout has no place for the model, or the tensors are not the model's.
    """
    check_fit(state, _expected(model, state), path)
    if layout is None:
        save_weights(state, path, model)
        return
    tensors = to_foreign(
        {name: t.detach().float().cpu() for name, t in state.items()}, tensors_of(model, layout), _heads(model)
    )
    if layout == "official":
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})  # type: ignore[arg-type]
        partial.replace(path)
    elif layout == "timm":
        save_weights(tensors, path)
    else:
        assert isinstance(model, ViTConfig)
        path.mkdir(parents=True, exist_ok=True)
        (path / HF_CONFIG).write_text(json.dumps(hf_config(model, state), indent=1))
        save_weights(tensors, path / HF_WEIGHTS)


def infer_vit(tensors: dict[str, Tensor], layout: Layout, path: Path, heads: int | None = None) -> ViTConfig:
    """A plain ViT's configuration from names and shapes. Heads where no shape shows them: the named size's, else width / 64."""
    names = {
        "official": ("embedding/kernel", "Transformer/encoderblock_{}/MlpBlock_3/Dense_0/bias", "cls"),
        "timm": ("patch_embed.proj.weight", "blocks.{}.mlp.fc1.bias", "cls_token"),
        "hf": (
            "vit.embeddings.patch_embeddings.projection.weight",
            "vit.encoder.layer.{}.intermediate.dense.bias",
            "vit.embeddings.cls_token",
        ),
    }
    embed, hidden, cls = names[layout]
    if embed not in tensors or hidden.format(0) not in tensors or "conv_root/kernel" in tensors:
        raise UserError("not a plain ViT: name the model", file=str(path), field="model")
    width = tensors[embed].shape[-1 if layout == "official" else 0]
    depth = next(n for n in range(len(tensors) + 1) if hidden.format(n) not in tensors)
    query = tensors.get("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/bias")
    if query is not None:
        heads = len(query)
    mlp_dim, patch = len(tensors[hidden.format(0)]), tensors[embed].shape[1 if layout == "official" else -1]
    size = next((s for s, shape in VIT_SIZES.items() if shape[:3] == (width, depth, mlp_dim)), None)
    return ViTConfig(
        family="vit",
        variant=f"{size}/{patch}" if size else path.stem,
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        heads=heads or (VIT_SIZES[size][3] if size else max(1, width // 64)),
        patch=patch,
        pooling="cls" if cls in tensors else "gap",
        pre_logits=len(tensors["pre_logits/bias"]) if "pre_logits/bias" in tensors else 0,
        **CHOICES[layout],
    )


def hf_config(model: ViTConfig, state: dict[str, Tensor]) -> dict[str, Any]:
    """What `ViTForImageClassification.from_pretrained` wants to know beside the tensors."""
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


def _hf_choices(path: Path) -> dict[str, Any]:
    """GELU, epsilon and heads from the config.json of a folder; nothing where there is none."""
    file = path / HF_CONFIG
    if not path.is_dir() or not file.is_file():
        return {}
    config = json.loads(file.read_text())
    gelus = {"gelu": "erf", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh"}
    if config.get("hidden_act", "gelu") not in gelus:
        raise UserError(f"unknown hidden_act {config['hidden_act']!r}", file=str(file), allowed=", ".join(gelus))
    choices = {
        "gelu": gelus[config.get("hidden_act", "gelu")],
        "layer_norm_eps": float(config.get("layer_norm_eps", HF_EPS)),
    }
    return {**choices, "heads": config["num_attention_heads"]} if "num_attention_heads" in config else choices


def _saved_here(path: Path) -> ModelConfig | None:
    return saved_model(path) if path.is_file() and path.suffix == ".safetensors" else None


def _heads(model: ModelConfig) -> int:
    return model.heads if isinstance(model, ViTConfig | HybridConfig) else 1


def _expected(model: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, without values, of the module that has the position embedding and the head of these ones."""
    classes = next((len(tensors[name]) for name in HEAD_BIASES if name in tensors), 1)
    image_size = LEAST_IMAGE_SIZE
    if isinstance(model, ViTConfig | HybridConfig):
        tokens = next((tensors[name].shape[1] for name in POSITIONS if name in tensors), 2)
        scale = 2 ** (1 + max(1, len(model.stages))) if isinstance(model, HybridConfig) else 1
        image_size = square_grid(tokens, int(model.pooling == "cls"))[0] * model.patch * scale
    with torch.device("meta"):
        return build(model, image_size, classes).state_dict()
