"""How a study handles samples that cannot be read."""

from __future__ import annotations

from typing import ClassVar

from orchestrator.spec.values import CacheSize, Percentage, Written
from vitmodel.config.base import Frozen

__all__ = ["CacheSize", "SkipBad"]


class SkipBad(Frozen):
    """Replace samples that cannot be read, up to a share of the dataset."""

    written: ClassVar = Written(noun="policy", forms="fail, or {skip_up_to: 0.1%}", example="{skip_up_to: 0.1%}")

    skip_up_to: Percentage
    """Largest share of unreadable samples; more of them end the run."""

    @property
    def share(self) -> float:
        return float(self.skip_up_to.removesuffix("%")) / 100
