"""The configuration of a training recipe. Named recipes: presets.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vitmodel.config.base import Frozen


class Recipe(Frozen):
    """How a model is trained, apart from how long. Learning rates are peaks, after warm-up."""

    preset: str
    optimizer: Literal["adamw", "sgd"]
    lr: float = Field(gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # of an encoder's rates, a factor a block from the head down; 1: off
    batch_size: int = Field(gt=0)  # global: over all workers and accumulation steps
    schedule: Literal["constant", "linear", "cosine", "rsqrt", "step"]
    warmup: float = Field(ge=0)  # steps if >= 1, else a fraction of all steps
    cooldown: float = Field(default=0.0, ge=0)  # for constant and rsqrt: linear to 0 at the end; unit as warmup
    weight_decay: float = Field(default=0.0, ge=0)  # decoupled for adamw; never on biases, norms, embeddings
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    grad_clip: float = Field(default=0.0, ge=0)  # global norm; 0 = off
    dropout: float = Field(default=0.0, ge=0, lt=1)
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)  # of the last block; earlier ones less, linearly
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: Literal["none", "shift", "crop", "inception"] = "none"
    flip: bool = False
    randaugment_layers: int = Field(default=0, ge=0)  # operations drawn per image (Cubuk et al. 2020); 0: off
    randaugment_magnitude: float = Field(default=10.0, ge=0, le=30)
    mixup: float = Field(default=0.0, ge=0)  # alpha of Beta(alpha, alpha) (Zhang et al. 2018); 0: off
    cutmix: float = Field(default=0.0, ge=0)  # alpha of Beta(alpha, alpha) (Yun et al. 2019); 0: off
    ema: float = Field(default=0.0, ge=0, lt=1)  # decay a step of the averaged weights that are evaluated and kept; 0: off
    precision: Literal["auto", "fp32", "bf16"] = "auto"
