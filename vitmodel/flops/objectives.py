"""Objectives that need no labels: how many patches each hides, what it costs in closed form, and where it has no meaning.

Masked patch prediction: Dosovitskiy et al. 2021, appendix B.1.2. Masked autoencoder: He et al. 2022, sections 3 and A.1.
The convention of FLOPs: flops.py. Draws of the masks: data/masks.py. Modules: models/masked.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from vitmodel.config.base import UserError
from vitmodel.config.models import HybridConfig, ModelConfig, ViTConfig
from vitmodel.config.objectives import Mae, MaeDecoder, MaskedPatch, Objective, Supervised
from vitmodel.config.recipe import Recipe
from vitmodel.flops.encoders import (
    Encoder,
    block_flops,
    block_params,
    block_values,
    embed_flops,
    encoder_flops,
    encoder_params,
    prefix_tokens,
    token_count,
)
from vitmodel.flops.grid import patch_grid

COLOURS = 512  # 3 bits each of red, green and blue
MAE_DECODER = MaeDecoder(width=512, depth=8, heads=16)  # He et al. 2022, section A.1 and Table 1
LARGE_WIDTH = 768  # He et al. 2022 use that decoder from ViT-B on
SMALL_DEPTH = 2  # below: two blocks as wide as the encoder. Figures: docs/recipes.md
NEEDS_LABELS = {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0}  # recipe keys and what they are without labels


class Corruption(NamedTuple):
    """Numbers of corrupted patches of one image, by what their embeddings become."""

    masked: int
    other: int
    kept: int


def corruption(objective: MaskedPatch, patches: int) -> Corruption:
    """The exact numbers for an image of so many patches: the same for every image."""
    corrupted = int(objective.corrupted * patches)
    masked = round(objective.masked * corrupted)
    other = min(round(objective.other * corrupted), corrupted - masked)
    return Corruption(masked, other, corrupted - masked - other)


def visible_patches(objective: Mae, patches: int) -> int:
    """How many patches the encoder of a masked autoencoder sees, of so many; rounded down as the official code."""
    return int(round(patches * (1 - objective.masked), 9))


def complete(objective: Objective, model: ModelConfig) -> Objective:
    """The objective with a decoder: the paper's from ViT-B on; below, one no wider than the encoder."""
    if not isinstance(objective, Mae) or objective.decoder is not None or not isinstance(model, ViTConfig):
        return objective
    if model.width >= LARGE_WIDTH:
        return objective.model_copy(update={"decoder": MAE_DECODER})
    heads = model.heads if model.width % 4 == 0 else 1
    decoder = MaeDecoder(width=4 * math.ceil(model.width / 4), depth=SMALL_DEPTH, heads=heads)
    return objective.model_copy(update={"decoder": decoder})


def check_objective(objective: Objective, model: ModelConfig, image_size: int, recipe: Recipe) -> None:
    """Raise UserError (field `objective`) where the objective has no meaning for this model, image size or recipe."""
    if isinstance(objective, Supervised):
        return
    _check_model(objective, model, image_size)
    for key, without in NEEDS_LABELS.items():
        if getattr(recipe, key) != without:
            raise _refusal(objective, f"has no labels: recipe key {key} has no meaning", f"{key}: {without:g}")


def _check_model(objective: MaskedPatch | Mae, model: ModelConfig, image_size: int) -> None:
    families = "vit" if isinstance(objective, Mae) else "vit, hybrid"
    if model.family not in families.split(", ") or not isinstance(model, ViTConfig | HybridConfig):
        advice = (
            f"a model of family {families}; or leave it out: exclude: [{{model: {model.variant}, objective: {objective.kind}}}]"
        )
        raise _refusal(objective, f"hides patches, which {model.variant} ({model.family}) does not embed one by one", advice)
    if isinstance(objective, Mae) and model.mixer != "full":
        raise _refusal(objective, f"leaves no grid to mixer {model.mixer} of {model.variant}", "mixer: full")
    if model.pre_logits:
        raise _refusal(objective, f"trains no classifier: {model.variant} has a pre-logits layer", "pre_logits: 0")
    grid = patch_grid(model, image_size)
    if image_size % grid:
        raise _refusal(objective, f"needs whole pixels a patch, not {image_size} pixels over a grid of {grid} by {grid}")
    hidden = _hidden_patches(objective, grid**2)
    if not 0 < hidden < grid**2:
        raise _refusal(
            objective, f"hides {hidden} of the {grid**2} patches of {model.variant}", "a smaller patch, another share"
        )


def _hidden_patches(objective: MaskedPatch | Mae, patches: int) -> int:
    if isinstance(objective, Mae):
        return patches - visible_patches(objective, patches)
    return sum(corruption(objective, patches))


def _refusal(objective: Objective, message: str, allowed: str = "") -> UserError:
    return UserError(f"{objective.kind} {message}", field="objective", allowed=allowed)


# --- counts ---------------------------------------------------------------------------------------------------


def unlabelled_params(objective: MaskedPatch | Mae, model: Encoder, image_size: int) -> int:
    """Trainable parameters beside a hybrid's backbone: the encoder without a classifier, and the objective's own."""
    encoder = encoder_params(model, image_size, 0)
    if isinstance(objective, MaskedPatch):
        return encoder + model.width + (model.width + 1) * COLOURS
    decoder = decoder_of(objective)
    own = (model.width + 1) * decoder.width + decoder.width + 2 * decoder.width
    own += (decoder.width + 1) * _patch_values(model, image_size)
    return encoder + own + decoder.depth * block_params(decoder.width, 4 * decoder.width)


def unlabelled_flops(objective: MaskedPatch | Mae, model: Encoder, image_size: int) -> int:
    """FLOPs of one image's forward pass, beside a hybrid's backbone."""
    patches = patch_grid(model, image_size) ** 2
    if isinstance(objective, MaskedPatch):
        return encoder_flops(model, image_size, 0) + 2 * sum(corruption(objective, patches)) * model.width * COLOURS
    decoder, visible = decoder_of(objective), visible_patches(objective, patches) + prefix_tokens(model)
    encode = embed_flops(model, image_size) + model.depth * block_flops(visible, model.width, model.mlp_dim)
    enter = 2 * visible * model.width * decoder.width
    decode = decoder.depth * block_flops(token_count(model, image_size), decoder.width, 4 * decoder.width)
    predict = 2 * _hidden_patches(objective, patches) * decoder.width * _patch_values(model, image_size)
    return encode + enter + decode + predict


def unlabelled_values(objective: MaskedPatch | Mae, model: Encoder, image_size: int) -> int:
    """Rough number of values that one image's training step keeps in the blocks."""
    tokens, prefix = token_count(model, image_size), prefix_tokens(model)
    if isinstance(objective, MaskedPatch):
        return model.depth * block_values(tokens, model.width, model.mlp_dim)
    decoder, visible = decoder_of(objective), visible_patches(objective, tokens - prefix) + prefix
    encoder = model.depth * block_values(visible, model.width, model.mlp_dim)
    return encoder + decoder.depth * block_values(tokens, decoder.width, 4 * decoder.width)


def decoder_of(objective: Mae) -> MaeDecoder:
    """The decoder of a completed objective."""
    assert objective.decoder is not None, "complete() chooses the decoder before anything is counted or built"
    return objective.decoder


def _patch_values(model: Encoder, image_size: int) -> int:
    return 3 * (image_size // patch_grid(model, image_size)) ** 2
