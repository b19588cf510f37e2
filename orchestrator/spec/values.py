"""Values that are written in a special form: counts, sizes, intervals. Each type defines how it is written (`Written`)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from vitmodel.config.presets import PRESETS

MULTIPLES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
BYTES = {"": 1, "MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
NAME = r"^[a-z0-9_-][a-z0-9._-]{0,63}$"  # the name of a folder: not hidden, never ..


@dataclass(frozen=True, kw_only=True)
class Written:
    """How a value is written: for messages and for the reference page. Part of an annotation, or `written` of a model."""

    noun: str
    forms: str
    example: str
    choices: tuple[str, ...] = ()  # where only these texts are allowed


def as_count(value: Any) -> Any:
    """Counts may be written 16k, 30M or 1e6."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?)", value)):
        value = float(Fraction(match[1]) * MULTIPLES[match[2]])  # 2.3M in floats is not whole
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_bytes(value: Any) -> Any:
    """Bytes may be written 500MB or 2GiB."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?) ?(|[MG]i?B)", value)):
        return int(float(match[1]) * BYTES[match[2]])
    return value


def _size(value: int | str) -> int | str:
    if isinstance(value, int) or re.fullmatch(r"all|\d+(\.\d+)?[kMB%]?", value):
        return value
    raise ValueError("not a size")


def _interval(value: str) -> str:
    if re.fullmatch(r"\d+(\.\d+)? ?(s|min|h|steps)", value) and float(value.split(maxsplit=1)[0].rstrip("sminhtep")) > 0:
        return value
    raise ValueError("an interval is a time such as 10 min, 90 s or 1 h, or a number of steps such as 500 steps")


def _preset(value: str) -> str:
    if value in PRESETS:
        return value
    raise ValueError("not a preset")


Auto = Literal["auto"]
Name = Annotated[
    str,
    Field(pattern=NAME),
    Written(noun="name", forms="up to 64 of the characters a-z 0-9 . _ - and not a dot at the start", example="my-study"),
]
Count = Annotated[
    int,
    BeforeValidator(as_count),
    Field(gt=0),
    Written(noun="count", forms="a whole number above 0 such as 16384, 16k, 30M or 1e6", example="30M"),
]
Size = Annotated[
    int | str,
    AfterValidator(_size),
    Written(
        noun="size",
        forms="a number of images such as 16384, 16k or 30M, a percentage such as 10%, or all",
        example="16k",
    ),
]
CacheSize = Annotated[
    Annotated[int, Field(gt=0)] | Literal["auto", "off"],
    BeforeValidator(as_bytes),
    Written(noun="cache size", forms="auto, off, or bytes such as 500MB or 2GiB", example="2GiB"),
]
Interval = Annotated[
    str,
    AfterValidator(_interval),
    Written(
        noun="interval", forms="a time such as 10 min, 90 s or 1 h, or a number of steps such as 500 steps", example="10 min"
    ),
]
Percentage = Annotated[
    str,
    Field(pattern=r"^\d+(\.\d+)?%$"),
    Written(noun="percentage", forms="a percentage such as 0.1%", example="0.1%"),
]
PresetName = Annotated[
    str,
    AfterValidator(_preset),
    Written(noun="preset", forms="the name of a preset", example="vit_finetune", choices=tuple(PRESETS)),
]
