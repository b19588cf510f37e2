"""Compare two runs or two studies: the exact keys that differ, with defaults filled in, and the metrics of both runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.schema import Study
from orchestrator.store.layout import RunFolder
from vitmodel.config.base import UserError

ABSENT = None  # the value of a key that one side lacks; null never occurs in a dumped study (`exclude_none`)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One key and its value on either side; None where a side lacks it."""

    key: str
    first: Any
    second: Any


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs in configuration and in provenance, and all metrics of either side."""

    first: str
    second: str
    changed: tuple[Change, ...]
    provenance: tuple[Change, ...] = ()
    metrics: tuple[Change, ...] = ()


def runs(first: RunFolder, second: RunFolder) -> Difference:
    """Two runs by their resolved configurations. A run without a result has no metrics. Raises UserError for a run that was
    never started."""
    results = [folder.result() for folder in (first, second)]
    provenance = [flat(result.provenance.model_dump()) if result else {} for result in results]
    metrics = [flat(result.metrics) if result else {} for result in results]
    return Difference(
        first=first.run_id,
        second=second.run_id,
        changed=changes(flat(_config(first)), flat(_config(second))),
        provenance=changes(*provenance),
        metrics=side_by_side(*metrics),
    )


def studies(first: Study, second: Study, names: tuple[str, str]) -> Difference:
    """Two studies with every default filled in: another spelling of the same meaning is not a difference."""
    one, two = (flat(s.model_dump(mode="json", exclude_none=True, serialize_as_any=True)) for s in (first, second))
    return Difference(first=names[0], second=names[1], changed=changes(one, two))


def changes(first: dict[str, Any], second: dict[str, Any]) -> tuple[Change, ...]:
    """The keys whose values differ, in the order of the first, then what only the second has."""
    return tuple(change for change in side_by_side(first, second) if change.first != change.second)


def side_by_side(first: dict[str, Any], second: dict[str, Any]) -> tuple[Change, ...]:
    """Every key of either side, with both values."""
    return tuple(Change(key=k, first=first.get(k, ABSENT), second=second.get(k, ABSENT)) for k in {**first, **second})


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested data as dotted keys. A list of plain values is one value; items with names are keyed by name, not by position."""
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
    """Keys for the items of a list: their names where all have different ones, else their positions."""
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
    record = folder.record()
    if record is None:
        raise UserError(f"{folder.run_id} has no configuration: it was never started", file=str(folder.path / "config.json"))
    return record.config.model_dump(mode="json")
