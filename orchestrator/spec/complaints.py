"""What is wrong with a value, as text: its shape, its type or its range against what the schema allows."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.spec.forms import NOUNS, yaml_text
from orchestrator.spec.hints import did_you_mean
from orchestrator.spec.kinds import Kind, fits

SHOWN = 60  # characters of a value


def complaint(kind: Kind, value: Any, error_type: str) -> str:
    """Why `value` is not of this kind. `error_type` is pydantic's name of the mistake."""
    if value is None:
        return "has no value"
    if error_type == "too_short" and not value:
        return "the list is empty; at least one value is required"
    wrong_shape = _wrong_shape(kind, value)
    kind = kind.of_shape(value)
    return wrong_shape or _wrong_text(kind, value) or _wrong_number(kind, value) or f"{short(value)} is not valid"


def short(value: Any) -> str:
    """A value as it may be written in a file, cut after some characters."""
    text = repr(value) if isinstance(value, str) else yaml_text(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _wrong_shape(kind: Kind, value: Any) -> str:
    """A list, mapping or single value where another of these is required."""
    members = kind.members
    shapes = {
        "a list": any(member.is_list for member in members),
        "a mapping": any(member.is_mapping for member in members),
        "a single value": any(not member.is_list and not member.is_mapping for member in members),
    }
    shape = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else "a single value"
    if shapes[shape] or kind.written:
        return ""
    wanted = " or ".join(name for name, possible in shapes.items() if possible)
    shown = short(value) if shape == "a single value" else shape
    elements = [member.element for member in members if member.element]
    is_element = wanted == "a list" and any(fits(element, value) for element in elements)
    remedy = f"; write [{yaml_text(value)}]" if is_element else ""
    return f"must be {wanted}, not {shown}{remedy}"


def _wrong_text(kind: Kind, value: Any) -> str:
    """An unknown choice, or something else where text is required."""
    choices = list(kind.written.choices) if kind.written else kind.choices
    if choices and isinstance(value, str):
        hint = did_you_mean(value, choices)
        others = [member for member in kind.members if not member.choices]
        if hint or not others:
            return f"unknown {kind.written.noun if kind.written else 'value'} {short(value)}{hint}"
    if kind.written:
        return f"{kind.written.noun} {short(value)} is not valid; write {kind.written.forms}"
    types = {member.annotation for member in kind.members}
    if str in types and isinstance(value, int | float):
        return f"{short(value)} is not text; write it in quotes"
    return f"{short(value)} is not {NOUNS[bool]}" if types == {bool} else ""


def _wrong_number(kind: Kind, value: Any) -> str:
    """Text, a fraction, or a value out of range where a number is required."""
    types = {member.annotation for member in kind.members} & {int, float}
    if not types or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        return (
            f"{short(value)} is text, not a number; remove the quotes"
            if _is_number(value)
            else f"{short(value)} is not a number"
        )
    if not isinstance(value, int | float):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if types == {int} and isinstance(value, float):
        return f"{short(value)} is not a whole number"
    return f"{short(value)} is out of range"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
