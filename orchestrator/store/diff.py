"""Two runs or two studies side by side: the exact keys that differ, defaults filled in, and the metrics of runs beside them.

Pure functions of plain data and of runs' folders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.schema import Study
from orchestrator.store.layout import RunFolder
from vitmodel.config.base import UserError
from vitmodel.files import read_json

ABSENT = None  # a key that one side does not have; YAML's null never gets here (`exclude_none`)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One key and its value on either side; None where a side does not have it."""

    key: str
    first: Any
    second: Any


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs in configuration and in what it was made with, and all metrics that either side has."""

    first: str
    second: str
    changed: tuple[Change, ...]
    made_with: tuple[Change, ...] = ()
    metrics: tuple[Change, ...] = ()


def runs(first: RunFolder, second: RunFolder) -> Difference:
    """Two runs by their resolved configurations; without a result there are no metrics. UserError for a run never begun."""
    results = [folder.result() or {} for folder in (first, second)]
    made, metrics = ([flat(result.get(part, {})) for result in results] for part in ("provenance", "metrics"))
    return Difference(
        first=first.run_id,
        second=second.run_id,
        changed=changes(flat(_config(first)), flat(_config(second))),
        made_with=changes(*made),
        metrics=beside(*metrics),
    )


def studies(first: Study, second: Study, names: tuple[str, str]) -> Difference:
    """Two studies with every default filled in: what is written in another way and means the same is no difference."""
    one, two = (flat(s.model_dump(mode="json", exclude_none=True, serialize_as_any=True)) for s in (first, second))
    return Difference(first=names[0], second=names[1], changed=changes(one, two))


def changes(first: dict[str, Any], second: dict[str, Any]) -> tuple[Change, ...]:
    """The keys whose values differ, in the order of the first, then what only the second has."""
    return tuple(change for change in beside(first, second) if change.first != change.second)


def beside(first: dict[str, Any], second: dict[str, Any]) -> tuple[Change, ...]:
    """Every key of either, with both values."""
    return tuple(Change(key=k, first=first.get(k, ABSENT), second=second.get(k, ABSENT)) for k in {**first, **second})


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested data as dotted keys. A list of plain values is one value; items with names are known by them, not by place."""
    return dict(_leaves(value, key))


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not key):
        for name, item in value.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for name, item in zip(_item_names(value), value, strict=True):
            yield from _leaves(item, f"{key}[{name}]")
    else:
        yield key, value


def _item_names(items: list[Any]) -> list[str]:
    """What tells the items of a list apart: names that they have and do not share, else their places."""
    names = [_item_name(item) for item in items]
    return (
        [str(name) for name in names] if all(names) and len(set(names)) == len(names) else [str(i) for i in range(len(items))]
    )


def _item_name(item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    inner = item.get("model")
    return str(item.get("name") or item.get("variant") or (inner.get("variant") if isinstance(inner, dict) else "") or "")


def _config(folder: RunFolder) -> dict[str, Any]:
    found = (read_json(folder.path / "config.json") or {}).get("config")
    if not isinstance(found, dict):
        raise UserError(f"{folder.run_id} has no configuration: it was never begun", file=str(folder.path / "config.json"))
    return found
