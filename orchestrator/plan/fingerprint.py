"""From a resolved configuration to a run id: the hash of its canonical JSON.

Everything that decides a result is in the hash; names, workers and memory are not. A run in a store keeps its id from release
to release, so a new field must not change the id of a configuration that existed before it:

- A field of 0.1 is always in the hash.
- A field that was added later declares since when, and its neutral value, which gives the results from before it existed:
  `label_noise: float = Field(default=0.0, json_schema_extra=since("0.2", neutral=0.0))`.
  At its neutral value it is left out of the hash; at any other value it is part of it. The neutral value never changes, also
  where the default does. This holds at any depth of the configuration.
- A new kind of a union (an objective, a model family) needs nothing: no earlier configuration has it.
- A change of what an existing configuration computes raises FORMAT_VERSION, which changes every id.

tests/test_fingerprint.py has the fields of 0.1 and some of its ids.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from pydantic import BaseModel

from vitmodel.config.base import NEUTRAL
from vitmodel.config.run import RunConfig

FORMAT_VERSION = 1  # raise it when the same configuration would train differently
NAMES = {"model": {"variant"}, "data": {"name"}, "recipe": {"preset"}}  # of a RunConfig: they do not decide the result


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, shortest floats. Raises TypeError, ValueError for unstable values."""
    _check_stable(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def run_id(config: RunConfig) -> str:
    """`pretrain-0123456789ab`: phase, and 48 bits of the hash of everything that decides the result."""
    content = hashed(config)
    for section, names in NAMES.items():
        if isinstance(content.get(section), dict):
            content[section] = {key: value for key, value in content[section].items() if key not in names}
    text = canonical_json({"format": FORMAT_VERSION, **content})
    return f"{config.phase}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def hashed(value: Any) -> Any:
    """What of a configuration is in the hash, as plain data: all fields but later ones at their neutral value."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: hashed(getattr(value, name))
            for name, field in fields.items()
            if not _is_neutral(getattr(value, name), field.json_schema_extra)
        }
    if isinstance(value, dict):
        return {key: hashed(item) for key, item in value.items()}
    return [hashed(item) for item in value] if isinstance(value, list | tuple) else value


def _is_neutral(value: Any, extra: Any) -> bool:
    """Whether a field was added after 0.1 and has its neutral value."""
    if not isinstance(extra, dict) or NEUTRAL not in extra:
        return False
    return bool(hashed(value) == extra[NEUTRAL])


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
