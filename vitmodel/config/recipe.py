"""The configuration of a training recipe. Named recipes: presets.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vitmodel.config.base import Frozen

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["constant", "linear", "cosine", "rsqrt", "step"]
Augment = Literal["none", "shift", "crop", "inception"]
Precision = Literal["auto", "fp32", "bf16"]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Factor = Annotated[float, Field(gt=0, le=1)]
Magnitude = Annotated[float, Field(ge=0, le=30)]


class Recipe(Frozen):
    """How a model is trained, except for how long. The types of the keys are shared with the study file."""

    preset: str
    """A named recipe, whose values the other keys override."""
    optimizer: Optimizer
    """AdamW, or SGD with momentum."""
    lr: PositiveFloat
    """Peak learning rate, reached after the warm-up."""
    layer_decay: Factor = 1.0
    """Factor on an encoder's learning rate for each block from the head down; 1: off."""
    batch_size: PositiveInt
    """Global batch size in images: over all workers and gradient accumulation steps."""
    schedule: Schedule
    """How the learning rate decays after the warm-up."""
    warmup: NonNegativeFloat
    """Linear warm-up in optimizer steps, or below 1 as a fraction of all steps."""
    cooldown: NonNegativeFloat = 0.0
    """Linear decay to 0 at the end, for schedules constant and rsqrt; unit as `warmup`; 0: off."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay, decoupled for AdamW; not applied to biases, norms and embeddings."""
    beta1: Share = 0.9
    """AdamW's decay of the first moment."""
    beta2: Share = 0.999
    """AdamW's decay of the second moment."""
    momentum: Share = 0.9
    """SGD's momentum."""
    grad_clip: NonNegativeFloat = 0.0
    """Largest global norm of the gradient; 0: off."""
    dropout: Share = 0.0
    """Dropout probability; 0: off."""
    stochastic_depth: Share = 0.0
    """Probability of skipping the last block; it falls linearly to 0 at the first block."""
    label_smoothing: Share = 0.0
    """Probability mass that is spread over all classes; 0: off."""
    augment: Augment = "none"
    """Cropping: random shifts, random crops, or Inception crops of random size and shape."""
    flip: bool = False
    """Random horizontal flips."""
    randaugment_layers: NonNegativeInt = 0
    """RandAugment operations per image (Cubuk et al. 2020); 0: off."""
    randaugment_magnitude: Magnitude = 10.0
    """Strength of RandAugment's operations; 10 is the end of the usual range."""
    mixup: NonNegativeFloat = 0.0
    """Mixup: alpha of Beta(alpha, alpha) (Zhang et al. 2018); 0: off."""
    cutmix: NonNegativeFloat = 0.0
    """CutMix: alpha of Beta(alpha, alpha) (Yun et al. 2019); 0: off."""
    ema: Share = 0.0
    """Decay per step of the averaged weights, which are evaluated and saved; 0: off."""
    precision: Precision = "auto"
    """Number format of the computation; `auto`: bf16 on GPUs, fp32 on CPUs."""
