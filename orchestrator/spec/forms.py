"""What a key may hold, as text: what is allowed, and an example.

Derived from the schema alone, so that messages (errors.py) and the reference page (reference.py) agree with it.
"""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import annotated_types as bounds
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.spec.kinds import Kind, keys_of, kind_of

PLAIN = re.compile(r"[A-Za-z0-9_./][\w ./%+-]*")  # text that needs no quotes
NOT_TEXT = re.compile(r"true|false|null|[\d.]+(e[+-]?\d+)?", re.IGNORECASE)
NOUNS: dict[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def allowed(kind: Kind) -> str:
    """What a value of this kind may be: `a whole number, 1 or more`; `adamw, sgd`."""
    if kind.written:
        return ", ".join(kind.written.choices) or kind.written.forms
    if len(kind.members) > 1:
        return _one_of(kind.members)
    return ", ".join(kind.choices) or _container(kind) or _scalar(kind, "a ")


def _container(kind: Kind) -> str:
    """A list or mapping; the empty string for other kinds."""
    if kind.model:
        return f"a mapping with the keys {', '.join(keys_of(kind.model))}"
    if kind.is_list:
        return _list(kind)
    if not kind.is_mapping:
        return ""
    key, value = map(kind_of, get_args(kind.annotation))
    keys = ", ".join(key.choices) or f"{key.written.noun if key.written else 'name'}s"
    return f"a mapping of {keys} to {_plural(value)}"


def _one_of(members: list[Kind]) -> str:
    lists = [member for member in members if member.element]
    if len(members) == 2 and len(lists) == 1:
        (other,) = (member for member in members if not member.element)
        if other.annotation == lists[0].element.annotation:  # type: ignore[union-attr]
            return f"{allowed(other)}; or a list of these"
    return ", or ".join(allowed(member) for member in members)


def _list(kind: Kind) -> str:
    if kind.element:
        return f"a list of {_plural(kind.element)}"
    parts = [kind_of(part) for part in get_args(kind.annotation)]
    return f"a list of {len(parts)} {_plural(parts[0])}"


def _plural(kind: Kind) -> str:
    if kind.written:
        return f"{kind.written.noun}s: {kind.written.forms}"
    if kind.choices and len(kind.members) == 1:
        return f"values from {', '.join(kind.choices)}"
    if kind.annotation in (int, float):
        return _scalar(kind, "").replace("number", "numbers", 1)
    return {str: "names", bool: "true or false"}.get(kind.annotation) or f"values, each {allowed(kind)}"


def _scalar(kind: Kind, article: str) -> str:
    noun = NOUNS.get(kind.annotation, "value")
    if kind.annotation in (str, bool):
        return noun
    limits = _limits(kind)
    return f"{article}{noun}{', ' if limits and limits[0].isdigit() else ' ' if limits else ''}{limits}"


def _limits(kind: Kind) -> str:
    low, high = _bound(kind, bounds.Gt, bounds.Ge), _bound(kind, bounds.Lt, bounds.Le)
    if kind.annotation is int and low and low[1]:
        low = (low[0] + 1, False)
    if low and high and not low[1]:
        return f"from {low[0]:g} to {'below ' if high[1] else ''}{high[0]:g}"
    lower = "" if low is None else f"above {low[0]:g}" if low[1] else f"{low[0]:g} or more"
    upper = "" if high is None else f"below {high[0]:g}" if high[1] else f"at most {high[0]:g}"
    return " and ".join(part for part in (lower, upper) if part)


def _bound(kind: Kind, strict: type, inclusive: type) -> tuple[float, bool] | None:
    """A limit, and whether it is excluded."""
    for item in kind.metadata:
        if isinstance(item, strict | inclusive):
            value = next(getattr(item, name) for name in ("gt", "ge", "lt", "le") if hasattr(item, name))
            return float(value), isinstance(item, strict)
    return None


def example_of(field: FieldInfo) -> str:
    """A correct value of a field, as YAML text."""
    if field.examples:
        return str(field.examples[0])
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    if default not in (None, "", (), {}) and not isinstance(default, BaseModel):
        return yaml_text(default)
    return example(kind_of(field))


def example(kind: Kind) -> str:
    """A correct value of a kind, as YAML text."""
    first = kind if kind.written else kind.members[0]
    if first.written:
        return first.written.example
    return first.choices[0] if first.choices else _example_container(first) or _example_scalar(first)


def _example_container(kind: Kind) -> str:
    """A list or mapping; the empty string for other kinds."""
    if kind.is_list:
        parts = [kind.element] if kind.element else [kind_of(part) for part in get_args(kind.annotation)]
        return f"[{', '.join(map(example, parts))}]"
    if kind.model:
        keys = keys_of(kind.model)
        shown = {name: field for name, field in keys.items() if field.is_required()} or dict(list(keys.items())[:1])
        return f"{{{', '.join(f'{name}: {example_of(field)}' for name, field in shown.items())}}}"
    if not kind.is_mapping:
        return ""
    key, value = map(kind_of, get_args(kind.annotation))
    return f"{{{example(key)}: {example(value)}}}"


def _example_scalar(kind: Kind) -> str:
    if kind.annotation in (int, float):
        low, high = _bound(kind, bounds.Gt, bounds.Ge), _bound(kind, bounds.Lt, bounds.Le)
        value = (low[0] if low else 0) + bool(low and low[1])
        if high and value >= high[0]:
            value = ((low[0] if low else 0) + high[0]) / 2
        return f"{value:g}"
    return {bool: "true", str: "text"}.get(kind.annotation, "...")


def yaml_text(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, BaseModel):
        return yaml_text(value.model_dump(exclude_none=True))
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {yaml_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, float):
        return f"{value:g}"
    is_plain = isinstance(value, str) and PLAIN.fullmatch(value) and not NOT_TEXT.fullmatch(value)
    return value if is_plain else json.dumps(value, default=str)
