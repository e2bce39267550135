"""JSON schemas as providers want them for structured output."""

from __future__ import annotations

from typing import Any

_LISTS = ("anyOf",)
_MAPS = ("properties", "$defs", "definitions")
_UNENFORCED = frozenset(
    {
        "allOf",
        "dependentRequired",
        "dependentSchemas",
        "else",
        "if",
        "not",
        "oneOf",
        "patternProperties",
        "prefixItems",
        "propertyNames",
        "then",
        "unevaluatedProperties",
    }
)


def closed(schema: dict[str, Any], *, optional: bool = False) -> dict[str, Any] | None:
    """The schema with every object closed (`additionalProperties: false`), or None where it can't be.

    Providers enforce a schema only where each object names all its properties, and OpenAI only where each is required
    (`optional` False): https://platform.openai.com/docs/guides/structured-outputs#supported-schemas and
    https://platform.claude.com/docs/en/build-with-claude/structured-outputs. An object with open or optional properties
    would change its meaning by that, so it is left to be asked for without enforcement.
    """
    if not _UNENFORCED.isdisjoint(schema):
        return None
    out = dict(schema)
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties")
        if not properties or schema.get("additionalProperties", False) is not False:
            return None
        if not optional and set(schema.get("required", ())) != set(properties):
            return None
        out["additionalProperties"] = False
    for key in _LISTS:
        if key in schema:
            items = [_inner(item, optional) for item in schema[key]]
            if None in items:
                return None
            out[key] = items
    for key in _MAPS:
        if key in schema:
            named = {name: _inner(item, optional) for name, item in schema[key].items()}
            if None in named.values():
                return None
            out[key] = named
    if "items" in schema:
        out["items"] = _inner(schema["items"], optional)
        if out["items"] is None:
            return None
    return out


def _inner(schema: Any, optional: bool) -> Any:
    return closed(schema, optional=optional) if isinstance(schema, dict) else schema


# What Anthropic does not take in a schema; the caller checks the reply against the whole schema anyway.
_BOUNDS = frozenset(
    {
        "exclusiveMaximum",
        "exclusiveMinimum",
        "maxItems",
        "maxLength",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "multipleOf",
        "uniqueItems",
    }
)


def unbounded(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with bounds of numbers, strings and lists moved into the description, for a provider without them."""
    out: dict[str, Any] = {}
    told = []
    for key, value in schema.items():
        if key in _BOUNDS and not isinstance(value, dict):
            told.append(f"{key}: {value}")
        elif key in _MAPS and isinstance(value, dict):
            out[key] = {
                name: unbounded(item) if isinstance(item, dict) else item for name, item in value.items()
            }
        elif isinstance(value, dict) and key == "items":
            out[key] = unbounded(value)
        elif key in _LISTS and isinstance(value, list):
            out[key] = [unbounded(item) if isinstance(item, dict) else item for item in value]
        else:
            out[key] = value
    if told:
        words = [out["description"]] if out.get("description") else []
        out["description"] = " ".join([*words, "(" + ", ".join(told) + ")"])
    return out
