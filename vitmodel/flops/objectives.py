"""Objectives without labels: numbers of masked patches, cost in closed form, and the models that they support.

Masked patch prediction: Dosovitskiy et al. 2021, appendix B.1.2. Masked autoencoder: He et al. 2022, sections 3 and A.1.
The convention of FLOPs: count.py. Random masks: data/masks.py. Modules: models/masked.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from vitmodel.config.base import UserError
from vitmodel.config.families.encoder import (
    PatchEncoderConfig,
    block_flops,
    block_params,
    block_values,
    embed_flops,
    prefix_tokens,
    token_count,
)
from vitmodel.config.families.vit import ViTConfig
from vitmodel.config.models import FAMILIES, ModelConfig
from vitmodel.config.objectives import Mae, MaeDecoder, MaskedPatch, Objective, Supervised
from vitmodel.config.recipe import Recipe

COLOURS = 512  # 3 bits each of red, green and blue
MAE_DECODER = MaeDecoder(width=512, depth=8, heads=16)  # He et al. 2022, section A.1 and Table 1
LARGE_WIDTH = 768  # He et al. 2022 use that decoder for ViT-B and larger
SMALL_DEPTH = 2  # for smaller encoders: two blocks of the width of the encoder
NEEDS_LABELS = {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0}  # recipe keys, and their values without labels


class Corruption(NamedTuple):
    """Numbers of corrupted patches of one image, by what replaces their embeddings."""

    masked: int
    other: int
    unchanged: int


def corruption(objective: MaskedPatch, patches: int) -> Corruption:
    """The numbers for an image of `patches` patches, the same for every image."""
    corrupted = int(objective.corrupted * patches)
    masked = round(objective.masked * corrupted)
    other = min(round(objective.other * corrupted), corrupted - masked)
    return Corruption(masked, other, corrupted - masked - other)


def visible_patches(objective: Mae, patches: int) -> int:
    """Number of patches that the encoder of a masked autoencoder gets; rounded down as in the official code."""
    return int(round(patches * (1 - objective.masked), 9))


def complete(objective: Objective, model: ModelConfig) -> Objective:
    """The objective with a decoder: the paper's for ViT-B and larger, else one of the width of the encoder."""
    if not isinstance(objective, Mae) or objective.decoder is not None or not isinstance(model, ViTConfig):
        return objective
    if model.width >= LARGE_WIDTH:
        return objective.model_copy(update={"decoder": MAE_DECODER})
    heads = model.heads if model.width % 4 == 0 else 1
    decoder = MaeDecoder(width=4 * math.ceil(model.width / 4), depth=SMALL_DEPTH, heads=heads)
    return objective.model_copy(update={"decoder": decoder})


def check_objective(objective: Objective, model: ModelConfig, image_size: int, recipe: Recipe) -> None:
    """Raise UserError (field `objective`) if the objective does not support the model, the image size or the recipe."""
    if isinstance(objective, Supervised):
        return
    _check_model(objective, model, image_size)
    for key, without in NEEDS_LABELS.items():
        if getattr(recipe, key) != without:
            raise _refusal(objective, f"has no labels and does not support recipe key {key}", f"{key}: {without:g}")


def _check_model(objective: MaskedPatch | Mae, model: ModelConfig, image_size: int) -> None:
    supported = ViTConfig if isinstance(objective, Mae) else PatchEncoderConfig
    if not isinstance(model, supported):
        families = ", ".join(name for name, family in FAMILIES.items() if issubclass(family.config, supported))
        advice = f"a model of family {families}; or exclude: [{{model: {model.variant}, objective: {objective.kind}}}]"
        raise _refusal(objective, f"masks patches, which {model.variant} ({model.family}) does not embed separately", advice)
    if isinstance(objective, Mae) and model.mixer != "full":
        raise _refusal(objective, f"does not support mixer {model.mixer} of {model.variant}", "mixer: full")
    if model.pre_logits:
        raise _refusal(objective, f"does not support the pre-logits layer of {model.variant}", "pre_logits: 0")
    grid = model.patch_grid(image_size)
    if image_size % grid:
        raise _refusal(objective, f"needs patches of whole pixels, not {image_size} pixels in a grid of {grid} by {grid}")
    masked = _masked_patches(objective, grid**2)
    if not 0 < masked < grid**2:
        raise _refusal(
            objective, f"masks {masked} of the {grid**2} patches of {model.variant}", "a smaller patch, another share"
        )


def _masked_patches(objective: MaskedPatch | Mae, patches: int) -> int:
    if isinstance(objective, Mae):
        return patches - visible_patches(objective, patches)
    return sum(corruption(objective, patches))


def _refusal(objective: Objective, message: str, allowed: str = "") -> UserError:
    return UserError(f"{objective.kind} {message}", field="objective", allowed=allowed)


def objective_params(objective: MaskedPatch | Mae, model: ModelConfig, image_size: int) -> int:
    """Trainable parameters that the objective adds to an encoder without a classifier."""
    assert isinstance(model, PatchEncoderConfig)
    if isinstance(objective, MaskedPatch):
        return model.width + (model.width + 1) * COLOURS
    decoder = decoder_of(objective)
    params = (model.width + 1) * decoder.width + decoder.width + 2 * decoder.width
    params += (decoder.width + 1) * _patch_values(model, image_size)
    return params + decoder.depth * block_params(decoder.width, 4 * decoder.width)


def objective_flops(objective: MaskedPatch | Mae, model: ModelConfig, image_size: int) -> int:
    """FLOPs of one image's forward pass."""
    assert isinstance(model, PatchEncoderConfig)
    patches = model.patch_grid(image_size) ** 2
    if isinstance(objective, MaskedPatch):
        encode = FAMILIES[model.family].forward_flops(model, image_size, 0)
        return encode + 2 * sum(corruption(objective, patches)) * model.width * COLOURS
    decoder, visible = decoder_of(objective), visible_patches(objective, patches) + prefix_tokens(model)
    encode = embed_flops(model, image_size) + model.depth * block_flops(visible, model.width, model.mlp_dim)
    enter = 2 * visible * model.width * decoder.width
    decode = decoder.depth * block_flops(token_count(model, image_size), decoder.width, 4 * decoder.width)
    predict = 2 * _masked_patches(objective, patches) * decoder.width * _patch_values(model, image_size)
    return encode + enter + decode + predict


def objective_values(objective: MaskedPatch | Mae, model: ModelConfig, image_size: int) -> int:
    """Rough number of values that one image's training step stores for the backward pass."""
    assert isinstance(model, PatchEncoderConfig)
    if isinstance(objective, MaskedPatch):
        return FAMILIES[model.family].activation_values(model, image_size)
    tokens, prefix = token_count(model, image_size), prefix_tokens(model)
    decoder, visible = decoder_of(objective), visible_patches(objective, tokens - prefix) + prefix
    encoder = model.depth * block_values(visible, model.width, model.mlp_dim)
    return encoder + decoder.depth * block_values(tokens, decoder.width, 4 * decoder.width)


def decoder_of(objective: Mae) -> MaeDecoder:
    """The decoder of a completed objective."""
    assert objective.decoder is not None, "complete() chooses the decoder before anything is counted or built"
    return objective.decoder


def _patch_values(model: PatchEncoderConfig, image_size: int) -> int:
    return 3 * (image_size // model.patch_grid(image_size)) ** 2
