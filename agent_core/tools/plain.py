"""The JSON schema of arguments of plain types, made without pydantic, which is the dearest part of a first answer.

Most tools take plain types, and most first turns call no tool. The schema is the very one that pydantic makes of them;
what a model gives is read by pydantic all the same, loaded at the first call.
"""

from __future__ import annotations

import math
from datetime import date, datetime
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from agent_core.tools.arguments import Arguments
from agent_core.tools.signature import MISSING, Argument, Signature, annotated_words

_TYPES: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    date: {"format": "date", "type": "string"},
    datetime: {"format": "date-time", "type": "string"},
    NoneType: {"type": "null"},
}


class PlainArguments:
    """Arguments whose schema is known; what reads them is made at the first call of the tool."""

    def __init__(self, name: str, signature: Signature, schema: dict[str, Any]) -> None:
        self.schema = schema
        self._name = name
        self._signature = signature

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as the function's types; raises ArgumentsError."""
        return self._typed.read(given)

    @cached_property
    def _typed(self) -> Arguments:
        from agent_core.tools.schema import TypedArguments  # it loads pydantic

        return TypedArguments(self._name, self._signature)


def schema_of(signature: Signature) -> dict[str, Any] | None:
    """The schema of the arguments, an object; None where one of them is not of a plain type."""
    properties: dict[str, Any] = {}
    for argument in signature.arguments:
        made = _property(argument)
        if made is None:
            return None
        properties[argument.name] = made
    required = [argument.name for argument in signature.arguments if argument.default is MISSING]
    return {
        "additionalProperties": False,
        "properties": properties,
        **({"required": required} if required else {}),
        "type": "object",
    }


def _property(argument: Argument) -> dict[str, Any] | None:
    kind = argument.annotation
    if get_origin(kind) is Annotated:
        kind, *extras = get_args(kind)
        if not all(isinstance(extra, str) for extra in extras):
            return None
    made = _kind(kind)
    if made is None or not _is_plain(argument.default):
        return None
    described = annotated_words(argument.annotation) or argument.description
    more = {} if argument.default is MISSING else {"default": argument.default}
    if described:
        more["description"] = described
    return dict(sorted((made | more).items()))


def _kind(kind: Any) -> dict[str, Any] | None:
    """The schema of a plain type, of a list of one, or of a choice between a plain type and None."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is list:
        items = _kind(parts[0])
        return None if items is None else {"items": items, "type": "array"}
    if origin in (UnionType, Union) and len(parts) == 2 and parts[1] is NoneType:
        some = _kind(parts[0])
        return None if some is None else {"anyOf": [some, dict(_TYPES[NoneType])]}
    found = _TYPES.get(kind) if isinstance(kind, type) else None
    return None if found is None else dict(found)


def _is_plain(default: Any) -> bool:
    """Whether the default stands in a schema as it is."""
    if type(default) is float:
        return math.isfinite(default)
    return default is MISSING or type(default) in (str, int, bool, NoneType)
