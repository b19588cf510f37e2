"""Configurations of pretraining objectives. Their cost and the models that they support: vitmodel/flops/objectives.py."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vitmodel.config.base import Frozen


class Supervised(Frozen):
    """Cross-entropy with the labels."""

    kind: Literal["supervised"] = "supervised"
    """The objective's name."""


class MaskedPatch(Frozen):
    """Masked patch prediction: the mean colour of corrupted patches, as 512 classes (Dosovitskiy et al. 2021, B.1.2)."""

    kind: Literal["masked_patch"] = "masked_patch"
    """The objective's name."""
    corrupted: float = Field(default=0.5, gt=0, lt=1)
    """Share of the patches that are corrupted."""
    masked: float = Field(default=0.8, ge=0, le=1)
    """Share of the corrupted patches whose embedding is replaced by the learnable mask token."""
    other: float = Field(default=0.1, ge=0, le=1)
    """Share of the corrupted patches whose embedding is replaced by that of another patch; the rest are unchanged."""

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.masked + self.other > 1:
            raise ValueError(
                f"masked {self.masked} and other {self.other} are shares of the same patches: their sum must not exceed 1"
            )
        return self


class MaeDecoder(Frozen):
    """The light decoder of a masked autoencoder: full attention, MLPs of four times its width."""

    width: int = Field(gt=0, examples=["512"])
    """Width of the tokens, a multiple of 4."""
    depth: int = Field(gt=0, examples=["8"])
    """Number of blocks."""
    heads: int = Field(gt=0, examples=["16"])
    """Attention heads; they must divide the width."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.width % 4:
            raise ValueError(
                f"width {self.width} must be a multiple of 4, for sine and cosine position embeddings in two dimensions"
            )
        return self


class Mae(Frozen):
    """Masked autoencoder (He et al. 2022): predicts the normalised pixels of masked patches from the visible patches."""

    kind: Literal["mae"] = "mae"
    """The objective's name."""
    masked: float = Field(default=0.75, gt=0, lt=1)
    """Share of the patches that are masked."""
    decoder: MaeDecoder | None = None
    """The decoder. Default: chosen by the encoder (vitmodel/flops/objectives.py)."""


Objective = Annotated[Supervised | MaskedPatch | Mae, Field(discriminator="kind")]
SUPERVISED = Supervised()
