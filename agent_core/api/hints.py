"""What would have been right, where msgspec only says what is wrong. Used for refused requests alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import inspect

_STEP = re.compile(r"\.(?P<field>\w+)|\[(?P<item>\d+|\.\.\.)\]")


def hint(kind: type, path: str, words: str) -> str:
    """The choices at this JSON path, as the end of a sentence; "" where there is nothing to add."""
    places = [inspect.type_info(kind)]
    tags: list[str] = []
    for step in _STEP.finditer(path):
        found = [place for parent in places for place in _members(parent)]
        tags = [str(place.tag) for place in found if isinstance(place, inspect.StructType) and place.tag]
        places = [inner for place in found for inner in _inside(place, step["field"])]
    members = [member for place in places for member in _members(place)]
    choices: list[str] = []
    if words.startswith("Invalid enum value"):
        choices = [
            str(value)
            for member in members
            if isinstance(member, inspect.LiteralType)
            for value in member.values
        ]
    elif words.startswith("Invalid value"):
        choices = tags
    elif "unknown field" in words:
        structs = [member for member in members if isinstance(member, inspect.StructType)]
        choices = [field.encode_name for struct in structs for field in struct.fields]
    return f"; there are: {', '.join(dict.fromkeys(choices))}" if choices else ""


def _members(kind: inspect.Type) -> Iterator[inspect.Type]:
    """The alternatives of a type."""
    if isinstance(kind, inspect.UnionType):
        for member in kind.types:
            yield from _members(member)
    elif isinstance(kind, inspect.Metadata):
        yield from _members(kind.type)
    else:
        yield kind


def _inside(kind: inspect.Type, field: str | None) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        yield from (found.type for found in kind.fields if found.encode_name == field)
    elif field is None and isinstance(kind, inspect.ListType):
        yield kind.item_type
    elif field is None and isinstance(kind, inspect.DictType):
        yield kind.value_type
