"""What a model makes of an image of some size: its grid of patches, or a refusal."""

from __future__ import annotations

from vitmodel.config.base import UserError
from vitmodel.config.models import CnnConfig, HybridConfig, ModelConfig, ResNetConfig, ViTConfig

ALEXNET_LEAST_PIXELS = {"imagenet": 63, "small": 29}  # below, its third pool has nothing left


def halved(pixels: int) -> int:
    """Side of a map after a step of stride 2 that keeps the borders."""
    return (pixels + 1) // 2


def patch_grid(model: ViTConfig | HybridConfig, image_size: int) -> int:
    """Patches along one side of the image."""
    pixels = image_size
    if isinstance(model, HybridConfig):
        for _ in range(2 + max(0, len(model.stages) - 1)):  # convolution, pool, every stage but the first
            pixels = halved(pixels)
    return pixels // model.patch


def check_image_size(model: ModelConfig, image_size: int) -> None:
    """Raise UserError where the model cannot take square images of this many pixels."""
    if isinstance(model, CnnConfig | ResNetConfig):
        least = ALEXNET_LEAST_PIXELS[model.stem] if isinstance(model, CnnConfig) and model.architecture == "alexnet" else 1
        if image_size < least:
            raise UserError(f"{model.variant} leaves nothing of an image of {image_size} pixels", allowed=f"{least} or more")
        return
    if isinstance(model, ViTConfig) and image_size % model.patch:
        divisors = [str(p) for p in range(1, image_size + 1) if image_size % p == 0]
        raise UserError(
            f"patch {model.patch} of {model.variant} does not divide the image size {image_size}",
            field="patch",
            allowed=", ".join(divisors),
        )
    grid = patch_grid(model, image_size)
    if grid < 1:
        raise UserError(f"{model.variant} leaves no patch of an image of {image_size} pixels", field="patch")
    if model.mixer == "window" and grid % model.window:
        sides = [str(side) for side in range(1, grid + 1) if grid % side == 0]
        raise UserError(
            f"window {model.window} of {model.variant} does not divide the grid of {grid} patches",
            field="window",
            allowed=", ".join(sides),
        )
