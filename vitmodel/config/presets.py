"""Named recipes, each with its source. A study may override single keys of a preset."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from vitmodel.config import hyperrule
from vitmodel.config.base import UserError, suggest
from vitmodel.config.families.encoder import EncoderConfig
from vitmodel.config.models import ModelConfig
from vitmodel.config.recipe import Recipe

# ViT paper, Table 3: peak learning rate on JFT-300M. All: batch 4096, 10k warm-up steps, linear decay, Adam
# (0.9, 0.999), weight decay 0.1, no dropout, 224 px.
JFT_LEARNING_RATES: dict[str, float] = {
    "B/16": 8e-4,
    "B/32": 8e-4,
    "L/32": 6e-4,
    "L/16": 4e-4,
    "H/14": 3e-4,
    "R50x1": 1e-3,
    "R50x2": 1e-3,
    "R101x1": 8e-4,
    "R152x1": 6e-4,
    "R152x2": 6e-4,
    "R50+B/16": 8e-4,
    "R50+B/32": 8e-4,
    "R50+L/32": 2e-4,
    "R50+L/16": 4e-4,
}
# R200x3 is in the paper's Table 6 but not in its Table 3: it gets the rate of the next smaller ResNet.
JFT_LEARNING_RATES["R200x3"] = 6e-4

_PAPER: dict[str, Any] = {"optimizer": "adamw", "batch_size": 4096, "warmup": 10_000, "augment": "inception", "flip": True}

# For images of 32 pixels and models under a million parameters. Chosen by measurement: docs/recipes.md.
_MICRO: dict[str, Any] = {"optimizer": "adamw", "schedule": "cosine", "warmup": 0.1, "weight_decay": 0.05, "grad_clip": 1.0}

# He et al. 2022, appendix A: learning rates are for a batch of 256 and scale with the batch (Goyal et al. 2017).
_MAE: dict[str, Any] = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "weight_decay": 0.05,
    "augment": "inception",
    "flip": True,
}
_MAE_STRONG: dict[str, Any] = {
    "randaugment_layers": 2,  # RandAug (9, 0.5)
    "randaugment_magnitude": 9.0,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
}

# Steiner et al. 2021, section 3 and Figure 4: layers and magnitude of RandAugment, and mixup's alpha. Their RandAugment is
# TensorFlow's; ours has the same strength at magnitude 10 and above (data/randaugment.py). The regularised half of their grid
# adds dropout 0.1 and stochastic depth 0.1; weight decay is 0.03 or 0.1.
_AUGREG: dict[str, tuple[int, float, float]] = {
    "none": (0, 0.0, 0.0),
    "light1": (2, 0.0, 0.0),
    "light2": (2, 10.0, 0.2),
    "medium1": (2, 15.0, 0.2),
    "medium2": (2, 15.0, 0.5),
    "strong1": (2, 20.0, 0.5),
    "strong2": (2, 20.0, 0.8),
}


def _augreg(name: str) -> dict[str, Any]:
    layers, magnitude, alpha = _AUGREG[name]
    draws = {"randaugment_layers": layers, "randaugment_magnitude": magnitude, "mixup": alpha}
    return {**_PAPER, **draws, "lr": 1e-3, "schedule": "cosine", "weight_decay": 0.1, "grad_clip": 1.0}


PRESETS: dict[str, dict[str, Any]] = {
    "micro_vit": {**_MICRO, "lr": 3e-3, "batch_size": 64, "warmup": 0.2},
    "micro_resnet": {**_MICRO, "lr": 4e-3, "batch_size": 64, "warmup": 0.3},
    "micro_vit_finetune": {**_MICRO, "lr": 3e-3, "batch_size": 32, "weight_decay": 0.0},
    "micro_resnet_finetune": {**_MICRO, "lr": 4e-3, "batch_size": 32, "weight_decay": 0.0},
    # ViT paper, Table 3, rows JFT-300M; the learning rate depends on the model: JFT_LEARNING_RATES.
    "vit_paper_jft": {**_PAPER, "schedule": "linear", "weight_decay": 0.1},
    # ViT paper, Table 3, rows ImageNet-21k.
    "vit_paper_i21k": {**_PAPER, "lr": 1e-3, "schedule": "linear", "weight_decay": 0.03, "dropout": 0.1},
    # ViT paper, Table 3, row ImageNet.
    "vit_paper_imagenet": {
        **_PAPER,
        "lr": 3e-3,
        "schedule": "cosine",
        "weight_decay": 0.3,
        "dropout": 0.1,
        "grad_clip": 1.0,
    },
    # ViT paper, Table 4: momentum 0.9, no weight decay; the rate is the middle of its sweep.
    "vit_finetune": {
        "optimizer": "sgd",
        "lr": 0.01,
        "batch_size": 512,
        "schedule": "cosine",
        "warmup": 500,
        "grad_clip": 1.0,
        "augment": "inception",
        "flip": True,
    },
    # He et al. 2022, Table 8, for 800 epochs with 40 of warm-up.
    "mae_pretrain": {**_MAE, "lr_per_256": 1.5e-4, "beta2": 0.95, "batch_size": 4096, "warmup": 0.05},
    # He et al. 2022, Table 9, ViT-L and ViT-H, for 50 epochs with 5 of warm-up.
    "mae_imagenet_finetune": {
        **_MAE,
        **_MAE_STRONG,
        "lr_per_256": 1e-3,
        "layer_decay": 0.75,
        "batch_size": 1024,
        "warmup": 0.1,
        "stochastic_depth": 0.1,
    },
    # He et al. 2022, Table 11, ViT-L and ViT-H from scratch with labels, for 200 epochs with 20 of warm-up.
    "mae_imagenet_scratch": {
        **_MAE,
        **_MAE_STRONG,
        "lr_per_256": 1e-4,
        "weight_decay": 0.3,
        "beta2": 0.95,
        "batch_size": 4096,
        "warmup": 0.1,
        "stochastic_depth": 0.2,
        "ema": 0.9999,
    },
    "augreg": _augreg("medium2"),
    **{f"augreg_{name}": _augreg(name) for name in _AUGREG},
    # Table 11 of He et al. 2022 for up to a hundred thousand images: smaller batches, a shorter moving average.
    "small_data": {
        **_MAE,
        **_MAE_STRONG,
        "lr_per_256": 1e-4,
        "weight_decay": 0.3,
        "beta2": 0.95,
        "batch_size": 512,
        "warmup": 0.1,
        "stochastic_depth": 0.1,
        "ema": 0.999,
    },
    # Kolesnikov et al. 2020, section 3.3; steps, resolution, warm-up and mixup depend on the task: hyperrule.py.
    hyperrule.PRESET: {
        "optimizer": "sgd",
        "lr": 3e-3,
        "batch_size": 512,
        "schedule": "step",
        "augment": "crop",
        "flip": True,
    },
}


def resolve_recipe(preset: str, model: ModelConfig, overrides: dict[str, Any], *, examples: int | None = None) -> Recipe:
    """A preset for one model, with a study's overrides. `examples`: training examples, which the hyper-rule needs.

    Raises UserError for an unknown name, a missing learning rate or an invalid value.
    """
    if preset not in PRESETS:
        raise UserError(
            f"unknown recipe {preset!r}{suggest(preset, list(PRESETS))}", field="recipe", allowed=", ".join(PRESETS)
        )
    keys = {**PRESETS[preset], **_of_examples(preset, examples), **overrides}
    if keys.get("layer_decay", 1.0) != 1.0 and not isinstance(model, EncoderConfig):
        message = f"layer_decay scales the learning rates of encoder blocks, which {model.variant} does not have"
        raise UserError(message, field="recipe", allowed="layer_decay: 1")
    per_256 = keys.pop("lr_per_256", None)
    if "lr" not in keys:
        keys["lr"] = _learning_rate(preset, model) if per_256 is None else per_256 * keys["batch_size"] / 256
    try:
        return Recipe(preset=preset, **keys)
    except ValidationError as error:
        first = error.errors()[0]
        key, expected = str(first["loc"][0]), str(first.get("ctx", {}).get("expected", ""))
        raise UserError(f"{first['input']!r} is not valid", field=f"recipe.{key}", allowed=expected) from None


def _of_examples(preset: str, examples: int | None) -> dict[str, Any]:
    """The keys that the hyper-rule determines."""
    if preset != hyperrule.PRESET:
        return {}
    if examples is None:
        raise UserError(f"recipe {preset} depends on the number of training examples", field="recipe")
    rule = hyperrule.bit_hyperrule(examples)
    return {"warmup": rule.warmup, "mixup": rule.mixup}


def _learning_rate(preset: str, model: ModelConfig) -> float:
    if model.variant not in JFT_LEARNING_RATES:
        raise UserError(
            f"recipe {preset} has no learning rate for {model.variant}: set lr",
            field="recipe",
            allowed=", ".join(JFT_LEARNING_RATES),
        )
    return JFT_LEARNING_RATES[model.variant]
