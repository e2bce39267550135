"""Makes a JSON schema easy for models to read: small definitions in their place, no titles, closed objects."""

from __future__ import annotations

import json
from typing import Any

_MAPS = ("properties", "patternProperties", "$defs", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLES = (
    "items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip
_BESIDE_REF = {"description", "default", "examples", "deprecated", "title"}
_PREFIX = "#/$defs/"
_DROPPED = (
    "title",
    "discriminator",
)  # titles repeat names; discriminator is OpenAPI's and points at definitions

INLINE_BYTES = 4_000
"""Bytes of definitions put in place; a schema that needs more keeps its definitions apart."""


def simplify(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, made for reading: definitions that don't refer to themselves stand where they are used."""
    definitions = schema.get("$defs", {})
    body = {key: value for key, value in schema.items() if key != "$defs"}
    recursive = {name for name in definitions if name in _needed(definitions[name], definitions)}
    try:
        return _Walk(definitions, recursive, INLINE_BYTES).whole(body)
    except _TooLargeError:
        return _Walk(definitions, set(definitions), 0).whole(body)


class _TooLargeError(Exception):
    """Too much would have to be put in place."""


class _Walk:
    """One pass over a schema: definitions outside `kept` are put in place, up to `budget` bytes."""

    def __init__(self, definitions: dict[str, Any], kept: set[str], budget: int) -> None:
        self._definitions = definitions
        self._kept = kept
        self._budget = budget

    def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """The schema with what remains of its definitions."""
        made: dict[str, Any] = self._schema(body)
        needed = sorted(_needed(made, self._definitions))
        if needed:
            made["$defs"] = {name: self._schema(self._definitions[name]) for name in needed}
        return made

    def _schema(self, schema: Any) -> Any:
        """The schema, walked only where schemas stand: a property may be called "title", a default may be anything."""
        if not isinstance(schema, dict):
            return schema
        name = str(schema.get("$ref", "")).removeprefix(_PREFIX)
        if name in self._definitions and name not in self._kept and set(schema) - {"$ref"} <= _BESIDE_REF:
            definition = self._definitions[name]
            self._budget -= len(json.dumps(definition))
            if self._budget < 0:
                raise _TooLargeError
            return self._schema(
                {**definition, **{key: value for key, value in schema.items() if key != "$ref"}}
            )
        made = {key: self._value(key, value) for key, value in schema.items() if key not in _DROPPED}
        if "properties" in made:
            made.setdefault("additionalProperties", False)
        return made

    def _value(self, key: str, value: Any) -> Any:
        if key in _MAPS and isinstance(value, dict):
            return {name: self._schema(part) for name, part in value.items()}
        if key in _LISTS and isinstance(value, list):
            return [self._schema(part) for part in value]
        return self._schema(value) if key in _SINGLES else value


def _references(schema: Any) -> set[str]:
    """Names of definitions referred to anywhere within."""
    found: set[str] = set()
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            found.add(reference.removeprefix(_PREFIX))
        for value in schema.values():
            found |= _references(value)
    elif isinstance(schema, list):
        for value in schema:
            found |= _references(value)
    return found


def _needed(schema: Any, definitions: dict[str, Any]) -> set[str]:
    """The definitions that the schema needs, directly or through others."""
    needed: set[str] = set()
    waiting = _references(schema) & set(definitions)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting |= (_references(definitions[name]) & set(definitions)) - needed
    return needed
