"""Arguments of a tool whose JSON schema is given: the schema is read once, then each call is checked against it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from agent_core.errors import ConfigError
from agent_core.tools.arguments import ArgumentsError
from agent_core.tools.validator import LISTS, MAPS, SINGLES, TYPES, Problem, Validator, compiled, subschemas

_DIALECTS = (
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
)
_REFUSED = ("$dynamicRef", "$recursiveRef", "$vocabulary")
_NUMBERS = ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum")
_COUNTS = (
    "maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties", "minContains", "maxContains",
)  # fmt: skip
_SHOWN = 300


class GivenArguments:
    """The arguments of a tool by a given schema. They reach the function as the model sent them."""

    def __init__(self, name: str, schema: Any) -> None:
        if not isinstance(schema, dict) or schema.get("type") != "object":
            raise ConfigError(f'tool {name}: the schema of its arguments must have "type": "object"')
        try:
            self._validator = read_schema(schema)
        except ConfigError as error:
            raise ConfigError(f"tool {name}: {error.detail}") from error
        self.schema = schema

    def read(self, given: dict[str, Any]) -> dict[str, Any]:
        """The same arguments; raises ArgumentsError where they don't fit."""
        try:
            problems = self._validator.problems(given)
        except RecursionError:
            raise ArgumentsError(["they are nested too deeply"]) from None
        if problems:
            raise ArgumentsError([_told(problem) for problem in problems])
        return given


def read_schema(schema: Any) -> Validator:
    """A validator for the schema. Raises ConfigError, with the place, where the schema is unsound or not covered."""
    places: dict[str, Any] = {}
    _collect(schema, "#", places)
    anchors = {
        f"#{part['$anchor']}": part
        for part in places.values()
        if isinstance(part, dict) and "$anchor" in part
    }
    references: dict[str, Any] = {}
    waiting = list(places)
    while waiting:
        place = waiting.pop()
        part = places[place]
        if isinstance(part, dict) and "$ref" in part and str(part["$ref"]) not in references:
            before = set(places)
            references[part["$ref"]] = _resolved(part["$ref"], place, schema, places, anchors)
            waiting.extend(set(places) - before)
    return Validator(schema, references)


def _collect(schema: Any, place: str, places: dict[str, Any]) -> None:
    """Note the schema and all within under their places; raises ConfigError for what is unsound."""
    if not isinstance(schema, dict | bool):
        raise ConfigError(f"{place} is no schema: {_short(schema)}")
    places[place] = schema
    if isinstance(schema, bool):
        return
    if not all(isinstance(key, str) for key in schema):
        raise ConfigError(f"{place} has a key that is no string")
    for keyword in _REFUSED:
        if keyword in schema:
            raise ConfigError(f"{place}: {keyword} is not supported")
    if "$id" in schema and place != "#":
        raise ConfigError(f"{place}: $id within a schema is not supported")
    if str(schema.get("$schema", _DIALECTS[0])).rstrip("#") not in _DIALECTS:
        raise ConfigError(f"{place}: the dialect {schema['$schema']} is not supported")
    for keyword, sound in _SOUND.items():
        if keyword in schema and not sound(schema[keyword]):
            raise ConfigError(f"{place}/{keyword} can't be {_short(schema[keyword])}")
    for pattern in (
        *schema.get("patternProperties", {}),
        *([schema["pattern"]] if "pattern" in schema else ()),
    ):
        compiled(pattern)
    for step, part in subschemas(schema):
        _collect(part, place + step, places)


def _resolved(
    reference: Any, place: str, schema: Any, places: dict[str, Any], anchors: dict[str, Any]
) -> dict[str, Any] | bool:
    """What the reference means within this document."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise ConfigError(
            f"{place}/$ref: {_short(reference)} is outside of this schema, which is not supported"
        )
    found = places.get(unquote(reference), anchors.get(reference))
    if found is None:
        # A pointer to a place where no keyword puts a schema; what stands there has to be sound like the rest.
        found = _pointed(reference, place, schema)
        _collect(found, unquote(reference), places)
    return found  # type: ignore[no-any-return] # _collect saw that it is a schema


def _pointed(reference: str, place: str, schema: Any) -> Any:
    found = schema
    for step in unquote(reference).lstrip("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ConfigError(f"{place}/$ref: there is nothing at {reference}") from None
    if found is schema and reference != "#":
        raise ConfigError(f"{place}/$ref: there is nothing at {reference}")
    return found


def _told(problem: Problem) -> str:
    path = ".".join(str(step) for step in problem.path) or "arguments"
    wanted = "" if problem.schema is True else f"; it takes {_short(problem.schema)}"
    return f"{path}: {problem.message}{wanted}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _types(value: Any) -> bool:
    return value in TYPES if isinstance(value, str) else _names(value) and bool(value) and set(value) <= TYPES


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_SOUND: dict[str, Callable[[Any], bool]] = {
    "type": _types,
    "enum": lambda value: isinstance(value, list),
    "required": _names,
    "pattern": lambda value: isinstance(value, str),
    "uniqueItems": lambda value: isinstance(value, bool),
    "dependentRequired": lambda value: isinstance(value, dict) and all(map(_names, value.values())),
    "$anchor": lambda value: isinstance(value, str),
    **{keyword: _number for keyword in _NUMBERS},
    **{keyword: lambda value: _number(value) and value >= 0 for keyword in _COUNTS},
    "multipleOf": lambda value: _number(value) and value > 0,
    **{keyword: lambda value: isinstance(value, dict) for keyword in MAPS},
    **{keyword: lambda value: isinstance(value, list) and bool(value) for keyword in LISTS},
    **{keyword: lambda value: isinstance(value, dict | bool) for keyword in SINGLES},
}
