"""From a resolved configuration to a run_id: the hash of its canonical JSON. Refuses what has no stable form."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from vitmodel.config.run import RunConfig

FORMAT_VERSION = 1  # raise it when the same configuration would train differently


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, shortest floats. Raises TypeError, ValueError for unstable ones."""
    _check_stable(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def run_id(config: RunConfig) -> str:
    """`pretrain-0123456789ab`: phase and 48 bits of the hash of everything that decides the result, names left out."""
    meaning = config.model_dump(exclude={"model": {"variant"}, "data": {"name"}, "recipe": {"preset"}})
    text = canonical_json({"format": FORMAT_VERSION, **meaning})
    return f"{config.phase}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _check_stable(value: Any) -> None:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys must be text")
        for item in value.values():
            _check_stable(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_stable(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("not a finite number")
    elif not isinstance(value, str | int | float | bool | None):
        raise TypeError(f"{type(value).__name__} has no stable form")
