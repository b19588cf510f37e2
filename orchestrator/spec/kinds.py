"""The type of a key of the schema, read from the annotations of the pydantic models."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.spec.values import Written

INTERNAL: dict[str, Any] = {
    "internal": True
}  # `json_schema_extra` of a field that is filled in after reading and cannot be written in a file


class Kind(NamedTuple):
    """The type of a value: an annotation without its metadata, and the metadata."""

    annotation: Any
    metadata: tuple[Any, ...] = ()

    @property
    def written(self) -> Written | None:
        """How the value is written, where its type defines that."""
        direct = next((item for item in self.metadata if isinstance(item, Written)), None)
        return direct or getattr(self.annotation, "written", None)

    @property
    def model(self) -> type[BaseModel] | None:
        return self.annotation if isinstance(self.annotation, type) and issubclass(self.annotation, BaseModel) else None

    @property
    def members(self) -> list[Kind]:
        """The alternatives of a union, without None; else the kind itself."""
        if get_origin(self.annotation) not in (Union, types.UnionType):
            return [self]
        return [kind_of(member) for member in get_args(self.annotation) if member is not types.NoneType]

    @property
    def discriminator(self) -> str | Discriminator | None:
        """What chooses among the alternatives, where they are tagged."""
        return next((item for item in self.metadata if isinstance(item, str | Discriminator)), None)

    def of_shape(self, value: Any) -> Kind:
        """The only alternative that is a list, mapping or single value as `value` is; else the kind itself."""
        is_mapping, is_list = isinstance(value, dict), isinstance(value, list | tuple)
        similar = [member for member in self.members if (member.is_mapping, member.is_list) == (is_mapping, is_list)]
        return similar[0] if len(similar) == 1 and self.written is None else self

    @property
    def element(self) -> Kind | None:
        """The kind of the elements of a list of any length."""
        arguments = get_args(self.annotation)
        return kind_of(arguments[0]) if get_origin(self.annotation) is tuple and arguments[1:] == (...,) else None

    @property
    def value(self) -> Kind | None:
        """The kind of the values of a mapping of names."""
        return kind_of(get_args(self.annotation)[1]) if get_origin(self.annotation) is dict else None

    @property
    def is_list(self) -> bool:
        return get_origin(self.annotation) is tuple

    @property
    def is_mapping(self) -> bool:
        return get_origin(self.annotation) is dict or self.model is not None

    @property
    def choices(self) -> list[str]:
        """The texts that are allowed, of all alternatives."""
        literals = [member for member in self.members if get_origin(member.annotation) is Literal]
        return [str(value) for member in literals for value in get_args(member.annotation)]


def kind_of(annotation: Any) -> Kind:
    """The kind of an annotation or of a model's field. That a value may be None is left out."""
    if isinstance(annotation, FieldInfo):
        chooser = (annotation.discriminator,) if annotation.discriminator else ()
        inner = kind_of(annotation.annotation)
        return Kind(inner.annotation, (*annotation.metadata, *chooser, *inner.metadata))
    if get_origin(annotation) is Annotated:
        inner_annotation, *metadata = get_args(annotation)
        inner = kind_of(inner_annotation)
        return Kind(inner.annotation, (*_flat(metadata), *inner.metadata))
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        if len(members) == 1:
            return kind_of(members[0])
    return Kind(annotation)


def _flat(metadata: list[Any]) -> Iterator[Any]:
    """Metadata, with what is in `Field(...)`."""
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from item.metadata
            if item.discriminator:
                yield item.discriminator
        else:
            yield item


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a model that can be written in a file."""
    return {name: field for name, field in model.model_fields.items() if field.json_schema_extra != INTERNAL}


def fits(kind: Kind, value: Any) -> bool:
    """Whether a value is of this kind."""
    annotation: Any = Annotated[(kind.annotation, *kind.metadata)] if kind.metadata else kind.annotation
    try:
        TypeAdapter(annotation, config=None if kind.model else ConfigDict(strict=True)).validate_python(value)
    except ValidationError:
        return False
    return True


def branch(kind: Kind, label: str | int) -> Kind:
    """The alternative that pydantic calls `label` in the place of an error."""
    members = kind.members
    for member in members:
        tags = [item.tag for item in member.metadata if isinstance(item, Tag)]
        if label in tags or (member.model and (label == member.model.__name__ or label in _values_of_tag(kind, member))):
            return member
    containers = [member for member in members if member.is_list and "tuple[" in str(label)]
    return (containers or members)[0]


def _values_of_tag(kind: Kind, member: Kind) -> tuple[Any, ...]:
    name = kind.discriminator
    if not isinstance(name, str) or member.model is None or name not in member.model.model_fields:
        return ()
    return get_args(member.model.model_fields[name].annotation)
