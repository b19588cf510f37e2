"""From pydantic's errors to ours: one `UserError` for each mistake, with file, line, key, what is allowed and an example.

The user never sees pydantic's text. The errors of all alternatives of a union become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.spec.complaints import complaint, short
from orchestrator.spec.forms import allowed, example_of
from orchestrator.spec.hints import did_you_mean, intended, nearest_place, other_name
from orchestrator.spec.kinds import Kind, branch, keys_of, kind_of
from orchestrator.spec.yamltree import Place, YamlTree, dotted
from vitmodel.config.base import CombinedUserError, UserError


class Located(NamedTuple):
    """One of pydantic's errors, and what the schema has at its place."""

    place: Place  # keys and indices, without the names of alternatives
    error_type: str
    input: Any
    reason: str  # of a check of ours
    kind: Kind  # at the place; of a union, the whole union
    container: Kind  # the list, mapping or model that has the place
    parent: type[BaseModel]  # the innermost model around the place
    field: tuple[str, FieldInfo] | None  # the innermost key around the place
    unions: tuple[Place, ...]  # places of unions of which one alternative is the right one, but wrong inside
    is_union: bool  # no alternative fits
    is_key: bool  # of a mapping: its key is wrong, not its value


def faults(
    tree: YamlTree,
    error: ValidationError,
    root: type[BaseModel],
    *,
    base: Place = (),
    known: Mapping[str, FieldInfo] = MappingProxyType({}),
    schema: type[BaseModel] | None = None,
) -> list[UserError]:
    """All mistakes of a validation.

    `root`: the model that was validated, of what the file has at `base`; `known`: further keys that are allowed there;
    `schema`: the model of the whole file.
    """
    located = [_locate(item, root) for item in error.errors()]
    inner = {place for item in located for place in item.unions}
    renamed = {
        (*item.place[:-1], intended(str(item.place[-1]), list(_keys(item, known))))
        for item in located
        if item.error_type == "extra_forbidden"
    }
    result: dict[Place, UserError] = {}
    for item in located:
        is_alternative = item.is_union and item.place in inner
        is_renamed = item.error_type == "missing" and item.place in renamed
        is_follow_up = item.error_type == "too_short" and bool(item.input)  # its elements are wrong, not their number
        if not (is_alternative or is_renamed or is_follow_up):
            result.setdefault(item.place, _fault(tree, item, base, known, schema or root))
    return list(result.values())


def combined(errors: list[UserError]) -> UserError:
    """All errors as one, in the order of their lines, one error per place."""
    unique: dict[tuple[str, int | None, str], UserError] = {}
    for error in errors:
        unique.setdefault((error.file, error.line, error.field or error.message), error)
    ordered = sorted(unique.values(), key=lambda error: (error.file, error.line or 0))
    return ordered[0] if len(ordered) == 1 else CombinedUserError(ordered)


def unknown_key(tree: YamlTree, place: Place, known: Mapping[str, FieldInfo], schema: type[BaseModel]) -> UserError:
    """An unknown key, with the intended key, or the section where it belongs."""
    word, allowed_keys = str(place[-1]), ", ".join(known)
    home, field = nearest_place(word, place, schema) or ((), None)
    is_below = bool(home) and home[: len(place) - 1] == place[:-1]  # a key of a section within this one
    name = other_name(word, list(known)) or ("" if is_below else intended(word, list(known)))
    if name:
        sample = f"{name}: {example_of(known[name])}"
        return tree.error(f"unknown key, did you mean {name}?", place, allowed_keys, example=sample)
    if field and home[:-1] != place[:-1]:
        sample = f"{home[-1]}: {example_of(field)}"
        return tree.error(f"unknown key, did you mean {dotted(home)}?", place, allowed_keys, example=sample)
    return tree.error("unknown key", place, allowed_keys)


def missing_key(tree: YamlTree, place: Place, name: str, field: FieldInfo) -> UserError:
    """A required key that is missing in the mapping at a place."""
    return tree.error("required key is missing", place, allowed(kind_of(field)), name, f"{name}: {example_of(field)}")


def _locate(item: Any, root: type[BaseModel]) -> Located:
    kind = container = kind_of(root)
    parent = root
    field: tuple[str, FieldInfo] | None = None
    place: list[str | int] = []
    unions: list[Place] = []
    is_union = is_key = False
    parts = list(item["loc"])
    while parts and not (is_union or is_key):
        part = parts.pop(0)
        if part == "[key]":
            is_key, kind = True, kind_of(get_args(container.annotation)[0])
            continue
        if len(kind.members) > 1:
            is_union = kind.discriminator is None and not parts
            if kind.discriminator is None and parts:
                unions.append(tuple(place))
            if not is_union:
                chosen = branch(kind, part)
                kind = chosen if parts or chosen.written else Kind(chosen.annotation, (*chosen.metadata, *kind.metadata))
            continue
        kind = container = kind.members[0]
        place.append(part)
        if kind.model:
            parent = kind.model
            inner = parent.model_fields.get(str(part))
            field = (str(part), inner) if inner else field
            kind = kind_of(inner) if inner else Kind(None)
        else:
            kind = _inside(kind, part)
    reason = item["msg"].removeprefix("Value error, ") if item["type"] == "value_error" else ""
    return Located(
        place=tuple(place),
        error_type=item["type"],
        input=item["input"],
        reason=reason,
        kind=kind,
        container=container,
        parent=parent,
        field=field,
        unions=tuple(unions),
        is_union=is_union,
        is_key=is_key,
    )


def _inside(kind: Kind, part: str | int) -> Kind:
    """The kind of an element of a list, or of a value of a mapping."""
    if kind.element or kind.value:
        return kind.element or kind.value or Kind(None)
    parts = get_args(kind.annotation)
    return kind_of(parts[part]) if isinstance(part, int) and part < len(parts) else Kind(None)


def _keys(item: Located, known: Mapping[str, FieldInfo]) -> dict[str, FieldInfo]:
    """The keys that are allowed where an error is."""
    more = known if len(item.place) == 1 else {}
    return {**keys_of(item.parent), **getattr(item.parent, "further_keys", {}), **more}


def _fault(tree: YamlTree, item: Located, base: Place, known: Mapping[str, FieldInfo], schema: type[BaseModel]) -> UserError:
    place, keys = base + item.place, _keys(item, known)
    if item.error_type == "extra_forbidden":
        return unknown_key(tree, place, keys, schema)
    if item.error_type == "missing" and isinstance(item.place[-1], str):
        return missing_key(tree, place[:-1], item.place[-1], keys[item.place[-1]])
    if item.error_type in ("union_tag_invalid", "union_tag_not_found") and isinstance(item.kind.discriminator, str):
        return _wrong_tag(tree, place, item)
    example = f"{item.field[0]}: {example_of(item.field[1])}" if item.field else ""
    if item.error_type in ("missing", "too_long"):  # elements of a list of fixed length
        kind, around = (item.container, place[:-1]) if item.error_type == "missing" else (item.kind, place)
        return tree.error(f"{short(tree.value(around))} has the wrong length", around, allowed(kind), example=example)
    value = place[-1] if item.is_key else tree.value(place) if tree.existing(place) == place else item.input
    written = item.kind.written
    if item.reason and not item.is_union and (written is None or isinstance(value, dict)):
        forms = f"; write {written.forms}" if written else ""
        return tree.error(item.reason + forms, place, example="" if isinstance(value, dict) and not written else example)
    message = complaint(item.kind, value, item.error_type)
    rest = "" if written and written.forms in message else allowed(item.kind)
    return tree.error(message, place, rest, example=example)


def _wrong_tag(tree: YamlTree, place: Place, item: Located) -> UserError:
    """The key that chooses among the forms of a mapping is missing or unknown."""
    key = str(item.kind.discriminator)
    fields = [member.model.model_fields[key] for member in item.kind.members if member.model]
    choices = [str(value) for field in fields for value in get_args(field.annotation)]
    example = f"{key}: {choices[0]}"
    if item.error_type == "union_tag_not_found":
        return tree.error("required key is missing", place, ", ".join(choices), key, example)
    value = str(item.input.get(key))
    return tree.error(
        f"unknown value {value!r}{did_you_mean(value, choices)}", (*place, key), ", ".join(choices), example=example
    )
