"""JSON schemas as providers want them for structured output."""

from __future__ import annotations

from typing import Any

_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions", "patternProperties")


def closed(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The schema with every object closed (`additionalProperties: false`), or None where it can't be.

    Providers enforce a schema only where each object names all its properties and requires them
    (https://platform.openai.com/docs/guides/structured-outputs#supported-schemas); an object with open or optional
    properties would change its meaning, so it is left to be asked for without enforcement.
    """
    out = dict(schema)
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties")
        if not properties or schema.get("additionalProperties", False) is not False:
            return None
        if set(schema.get("required", ())) != set(properties):
            return None
        out["additionalProperties"] = False
    for key in _LISTS:
        if key in schema:
            items = [closed(item) if isinstance(item, dict) else item for item in schema[key]]
            if None in items:
                return None
            out[key] = items
    for key in _MAPS:
        if key in schema:
            named = {
                name: closed(item) if isinstance(item, dict) else item for name, item in schema[key].items()
            }
            if None in named.values():
                return None
            out[key] = named
    if isinstance(schema.get("items"), dict):
        out["items"] = closed(schema["items"])
        if out["items"] is None:
            return None
    return out
