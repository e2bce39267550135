"""Which schemas a provider can enforce, and how they must look for that."""

from __future__ import annotations

from typing import Any

import pytest

from agent_core.models.schemas import closed, unbounded

TEXT = {"type": "string"}


def shape(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def test_all_objects_are_closed() -> None:
    inner = shape(x=TEXT)
    schema = shape(a=inner, b={"type": "array", "items": inner}, c={"anyOf": [inner, {"type": "null"}]}) | {
        "$defs": {"D": inner}
    }
    done = closed(schema)
    assert done is not None
    shut = inner | {"additionalProperties": False}
    assert done["additionalProperties"] is False
    assert done["properties"]["a"] == shut
    assert done["properties"]["b"]["items"] == shut
    assert done["properties"]["c"]["anyOf"] == [shut, {"type": "null"}]
    assert done["$defs"] == {"D": shut}
    assert "additionalProperties" not in inner, "the caller's schema stays as it was"


OPTIONAL = {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "required": ["a"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": TEXT},
        {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": True},
        {"type": "object", "properties": {}},
        {"oneOf": [TEXT]},
        {"type": "array", "prefixItems": [TEXT]},
        {"type": "object", "properties": {"a": TEXT}, "required": ["a"], "patternProperties": {"x": TEXT}},
    ],
)
def test_what_can_not_be_closed(schema: dict[str, Any]) -> None:
    for whole in (
        schema,
        shape(a=schema),
        {"type": "array", "items": schema},
        {"anyOf": [schema]},
        shape(a=TEXT) | {"$defs": {"D": schema}},
    ):
        assert closed(whole) is None
        assert closed(whole, optional=True) is None


def test_optional_properties() -> None:
    assert closed(OPTIONAL) is None
    assert closed(shape(a=OPTIONAL)) is None
    done = closed(OPTIONAL, optional=True)
    assert done == OPTIONAL | {"additionalProperties": False}


def test_a_property_may_be_called_like_a_keyword() -> None:
    schema = shape(items=TEXT, anyOf=TEXT, oneOf=TEXT, minimum=TEXT, properties=shape(type=TEXT))
    done = closed(schema)
    assert done is not None
    assert set(unbounded(done)["properties"]) == {"items", "anyOf", "oneOf", "minimum", "properties"}


def test_bounds_become_words() -> None:
    schema = shape(
        age={"type": "integer", "description": "In years.", "minimum": 0, "maximum": 150},
        names={"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 3},
        either={"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]},
    )
    done = unbounded(schema)["properties"]
    assert done["age"] == {"type": "integer", "description": "In years. (minimum: 0, maximum: 150)"}
    assert done["names"] == {
        "type": "array",
        "items": {"type": "string", "description": "(minLength: 1)"},
        "description": "(maxItems: 3)",
    }
    assert done["either"]["anyOf"][0] == {"type": "integer", "description": "(minimum: 1)"}
