"""Parameters and FLOPs of any model configuration, in closed form.

The convention, everywhere in this project: one multiply-accumulate is 2 FLOPs; matrix products and convolutions
count, attention's two products included; norms, activations, pools and additions do not. A training step costs three
forward passes (backward = 2 x forward). The ViT paper's exaFLOPs (Table 6) follow the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vitmodel.config.base import UserError
from vitmodel.config.models import CnnConfig, HybridConfig, ModelConfig, ResNetConfig, ViTConfig
from vitmodel.config.objectives import SUPERVISED, Objective, Supervised
from vitmodel.config.variants import NAMED_VARIANTS, named_model
from vitmodel.flops.convolutions import (
    ALEXNET_CHANNELS,
    ALEXNET_GRID,
    Conv,
    Residual,
    cnn_convs,
    cnn_features,
    hybrid_blocks,
    hybrid_convs,
    resnet_blocks,
    resnet_convs,
    resnet_features,
    scaled,
)
from vitmodel.flops.encoders import block_values, encoder_flops, encoder_params, token_count
from vitmodel.flops.grid import check_image_size
from vitmodel.flops.objectives import unlabelled_flops, unlabelled_params, unlabelled_values

TRAIN_FACTOR = 3  # training FLOPs per forward FLOP
LISTED_CLASSES = 1000


class Listed(NamedTuple):
    """One row of `list_variants`; FLOPs are of one image's forward pass, 1000 classes."""

    variant: str
    family: str
    params: int
    forward_flops: int
    source: str


def list_variants(image_size: int = 224) -> list[Listed]:
    """Every published variant that can take square images of this many pixels, family by family."""
    rows = []
    for variant, source in NAMED_VARIANTS.items():
        model = named_model(variant)
        try:
            check_image_size(model, image_size)
        except UserError:
            continue  # its patch does not divide the image: it has no counts at this size
        params = count_params(model, image_size, LISTED_CLASSES)
        flops = forward_flops(model, image_size, LISTED_CLASSES)
        rows.append(Listed(variant, model.family, params, flops, source))
    return rows


def count_params(model: ModelConfig, image_size: int, classes: int, objective: Objective = SUPERVISED) -> int:
    """Trainable parameters, to the unit: without labels the objective's own, and no classifier."""
    if isinstance(model, ViTConfig | HybridConfig):
        above = (
            encoder_params(model, image_size, classes)
            if isinstance(objective, Supervised)
            else unlabelled_params(objective, model, image_size)
        )
        return above + _backbone_params(model, image_size)
    if isinstance(model, CnnConfig):
        return _cnn_params(model, image_size, classes)
    convs = sum(conv.params for conv in resnet_convs(model, image_size))
    return convs + _resnet_norm_params(model) + (resnet_features(model) + 1) * classes


def forward_flops(model: ModelConfig, image_size: int, classes: int, objective: Objective = SUPERVISED) -> int:
    """FLOPs of one image's forward pass in training; a classifier's evaluation costs the same."""
    convs = sum(conv.flops for conv in _convs(model, image_size))
    if isinstance(model, ViTConfig | HybridConfig):
        if isinstance(objective, Supervised):
            return convs + encoder_flops(model, image_size, classes)
        return convs + unlabelled_flops(objective, model, image_size)
    if isinstance(model, CnnConfig):
        return convs + sum(2 * inputs * outputs for inputs, outputs in _cnn_dense(model, classes))
    return convs + 2 * resnet_features(model) * classes


def train_flops(model: ModelConfig, image_size: int, classes: int, examples: int, objective: Objective = SUPERVISED) -> int:
    """FLOPs of training on `examples` images, repeats counted."""
    return TRAIN_FACTOR * forward_flops(model, image_size, classes, objective) * examples


def activation_bytes(model: ModelConfig, image_size: int, bytes_per_value: int, objective: Objective = SUPERVISED) -> int:
    """Rough memory that one image's training step keeps for the backward pass, without checkpointing.

    ViT: per block and token about 12 width + 2 mlp_dim values (fused attention keeps no T x T matrix).
    CNNs: input of each convolution, norm and ReLU, about 4 values per convolution output.
    """
    values = sum(4 * conv.outputs * conv.resolution**2 for conv in _convs(model, image_size))
    if isinstance(model, ViTConfig | HybridConfig):
        if isinstance(objective, Supervised):
            values += model.depth * block_values(token_count(model, image_size), model.width, model.mlp_dim)
        else:
            values += unlabelled_values(objective, model, image_size)
    return bytes_per_value * values


def _convs(model: ModelConfig, image_size: int) -> Iterator[Conv]:
    """All convolutions but a patch embedding's."""
    if isinstance(model, ResNetConfig):
        yield from resnet_convs(model, image_size)
    elif isinstance(model, HybridConfig):
        yield from hybrid_convs(model, image_size)
    elif isinstance(model, CnnConfig):
        yield from cnn_convs(model, image_size)


def _backbone_params(model: ViTConfig | HybridConfig, image_size: int) -> int:
    """Convolutions and norms below the patches of a hybrid."""
    if isinstance(model, ViTConfig):
        return 0
    convs = sum(conv.params for conv in hybrid_convs(model, image_size))
    return convs + 2 * model.stem_width + sum(_block_norms(block, "bottleneck") for block in hybrid_blocks(model))


# --- CNNs -----------------------------------------------------------------------------------------------------


def _block_norms(block: Residual, kind: str) -> int:
    """Scales and biases where every convolution is followed by a norm."""
    channels = (2 if kind == "bottleneck" else 1) * block.inner + block.outputs
    return 2 * (channels + (block.outputs if block.has_projection else 0))


def _resnet_norm_params(model: ResNetConfig) -> int:
    inner_norms = 2 if model.block == "bottleneck" else 1
    blocks = sum(2 * block.inputs + inner_norms * 2 * block.inner for block in resnet_blocks(model))
    return blocks + 2 * resnet_features(model)


def _cnn_params(model: CnnConfig, image_size: int, classes: int) -> int:
    convs = list(cnn_convs(model, image_size))
    per_output = 1 if model.architecture == "alexnet" else 2  # a bias, or a norm's scale and bias
    dense = sum((inputs + 1) * outputs for inputs, outputs in _cnn_dense(model, classes))
    return sum(conv.params + per_output * conv.outputs for conv in convs) + dense


def _cnn_dense(model: CnnConfig, classes: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of every dense layer."""
    features = cnn_features(model)
    if model.architecture != "alexnet":
        return [(features, classes)]
    flat = ALEXNET_GRID**2 * scaled(model, ALEXNET_CHANNELS[-1])
    return [(flat, features), (features, features), (features, classes)]
