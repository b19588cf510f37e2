"""How a study reads its data: what is kept in memory, and what becomes of samples that cannot be read."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vitmodel.config.base import Frozen

BYTES = {"": 1, "MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}


def as_bytes(value: Any) -> Any:
    """Bytes may be written 500MB or 2GiB."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?) ?(|[MG]i?B)", value)):
        return int(float(match[1]) * BYTES[match[2]])
    return value


CacheSize = Annotated[Annotated[int, Field(gt=0)] | Literal["auto", "off"], BeforeValidator(as_bytes)]


class SkipBad(Frozen):
    """Leave out samples that cannot be read, up to this part of a dataset."""

    skip_up_to: str = Field(pattern=r"^\d+(\.\d+)?%$")

    @property
    def share(self) -> float:
        return float(self.skip_up_to.removesuffix("%")) / 100
