"""Configurations of pretraining objectives. What they cost and which models they suit: vitmodel/flops/objectives.py."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vitmodel.config.base import Frozen


class Supervised(Frozen):
    """Cross-entropy with the labels."""

    kind: Literal["supervised"] = "supervised"


class MaskedPatch(Frozen):
    """Masked patch prediction: the mean colour of corrupted patches, in 512 classes (Dosovitskiy et al. 2021, B.1.2)."""

    kind: Literal["masked_patch"] = "masked_patch"
    corrupted: float = Field(default=0.5, gt=0, lt=1)  # share of the patches
    masked: float = Field(default=0.8, ge=0, le=1)  # of the corrupted: their embedding becomes the learnable [mask]
    other: float = Field(default=0.1, ge=0, le=1)  # of the corrupted: another patch's embedding; the rest stay as they are

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.masked + self.other > 1:
            raise ValueError(f"masked {self.masked} and other {self.other} are shares of the same patches: at most 1 together")
        return self


class MaeDecoder(Frozen):
    """The light decoder of a masked autoencoder: full attention, MLPs four times as wide."""

    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.width % 4:
            raise ValueError(f"width {self.width} must be a multiple of 4, for sine and cosine positions in two dimensions")
        return self


class Mae(Frozen):
    """Masked autoencoder (He et al. 2022): normalised pixels of the masked patches, from the visible ones alone."""

    kind: Literal["mae"] = "mae"
    masked: float = Field(default=0.75, gt=0, lt=1)  # share of the patches
    decoder: MaeDecoder | None = None  # none: one that suits the encoder, filled in when a run is planned (objectives.py)


Objective = Annotated[Supervised | MaskedPatch | Mae, Field(discriminator="kind")]
SUPERVISED = Supervised()
