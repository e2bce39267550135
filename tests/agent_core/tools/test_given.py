"""Given schemas: the official test suite, what is refused, and what a model is told."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from agent_core.errors import ConfigError
from agent_core.tools.arguments import ArgumentsError
from agent_core.tools.base import Tool
from agent_core.tools.given import GivenArguments, read_schema
from agent_core.tools.validator import KEYWORDS, Validator
from tests.agent_core.tools.samples import SAMPLES

# What may make our validator refuse a schema of the suite; it then says so, and never gives a wrong verdict.
REFUSALS = (
    "is outside of this schema",
    "$id within a schema",
    "$dynamicRef",
    "the dialect",
    "there is nothing at #items",
)
REFUSED_FILES = {
    "anchor.json", "defs.json", "dynamicRef.json", "ref.json", "refRemote.json", "unevaluatedItems.json",
    "unevaluatedProperties.json", "vocabulary.json",
}  # fmt: skip
TYPED_FILES = {
    "additionalProperties.json", "anyOf.json", "const.json", "default.json", "defs.json", "enum.json",
    "exclusiveMaximum.json", "exclusiveMinimum.json", "format.json", "items.json", "maxItems.json", "maxLength.json",
    "maximum.json", "minItems.json", "minLength.json", "minimum.json", "multipleOf.json", "oneOf.json", "pattern.json",
    "prefixItems.json", "properties.json", "ref.json", "required.json", "type.json", "uniqueItems.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def suite(shared_data: Path) -> dict[str, list[dict[str, Any]]]:
    return json.loads((shared_data / "json_schema_suite_2020_12.json").read_text(encoding="utf-8"))


def verdicts(
    suite: dict[str, list[dict[str, Any]]],
) -> tuple[Counter[str], Counter[str], Counter[str], list[str]]:
    """Tests judged as expected and tests refused, by file; reasons of refusals; and what was judged wrongly."""
    right: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    wrong = []
    for file, groups in suite.items():
        for group in groups:
            try:
                validator = read_schema(group["schema"])
            except ConfigError as error:
                refused[file] += len(group["tests"])
                reasons[next((reason for reason in REFUSALS if reason in error.detail), error.detail)] += 1
                continue
            for test in group["tests"]:
                if (not validator.problems(test["data"])) == test["valid"]:
                    right[file] += 1
                else:
                    wrong.append(f"{file}: {group['description']}: {test['description']}")
    return right, refused, reasons, wrong


def test_the_official_suite(suite: dict[str, list[dict[str, Any]]]) -> None:
    """All 1,299 tests of draft 2020-12: as expected, or refused when the schema is read for a reason that is listed."""
    right, refused, reasons, wrong = verdicts(suite)
    assert not wrong
    print(f"JSON schema suite: {right.total()} as expected, {refused.total()} refused; {dict(reasons)}")
    assert (right.total(), refused.total()) == (1173, 126)
    assert set(reasons) <= set(REFUSALS)
    assert set(refused) == REFUSED_FILES


def test_keywords_of_our_own_schemas(suite: dict[str, list[dict[str, Any]]]) -> None:
    """What our schemas use is covered by the suite's files of that name, which hold (but for $id and remote $ref)."""
    used = {keyword for schema in SAMPLES.values() for keyword in keywords(schema.schema)}
    assert used - {"description", "deprecated", "examples", "contentEncoding"} <= KEYWORDS | {
        "default",
        "format",
    }
    names = {"$ref": "ref", "$defs": "defs"}
    files = {f"{names.get(keyword, keyword)}.json" for keyword in used} & set(suite)
    assert files == TYPED_FILES
    right, refused, _, wrong = verdicts({file: suite[file] for file in files})
    print(
        f"keywords of our schemas: {len(files)} files, {right.total()} as expected, {refused.total()} refused"
    )
    assert not wrong
    assert set(refused) == {"defs.json", "ref.json"}


def keywords(schema: Any) -> set[str]:
    """All keywords within a schema."""
    if not isinstance(schema, dict):
        return set()
    found = set(schema)
    for key in ("properties", "$defs", "patternProperties"):
        for part in schema.get(key, {}).values():
            found |= keywords(part)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for part in schema.get(key, ()):
            found |= keywords(part)
    for key in ("items", "additionalProperties", "propertyNames"):
        found |= keywords(schema.get(key))
    return found


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "dict"}, "#/type can't be"),
        ({"properties": {"a": {"type": "any"}}}, "#/properties/a/type can't be"),
        ({"properties": {"a": 3}}, "#/properties/a is no schema"),
        ({"items": [{"type": "string"}]}, "#/items can't be"),
        ({"exclusiveMinimum": True}, "#/exclusiveMinimum can't be"),
        ({"required": "a"}, "#/required can't be"),
        ({"pattern": "("}, "the pattern '('"),
        ({"$ref": "#/$defs/none"}, "nothing at #/$defs/none"),
        ({"$ref": "other.json"}, "is outside of this schema"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "the dialect"),
    ],
)
def test_unsound_schemas_are_refused_with_their_place(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_schema(schema)
    assert words in caught.value.detail


def test_a_reference_to_an_odd_place_is_followed() -> None:
    """A pointer may lead where no keyword puts a schema, and from there on."""
    validator = read_schema(
        {"$ref": "#/x/y", "x": {"y": {"items": {"$ref": "#/z"}}}, "z": {"type": "string"}}
    )
    assert not validator.problems(["a"])
    assert [problem.path for problem in validator.problems(["a", 1])] == [(1,)]


def test_only_objects_are_arguments() -> None:
    with pytest.raises(ConfigError, match='"type": "object"'):
        Tool.from_schema("t", "", {"type": "string"}, print).check()


def test_a_schema_that_refers_to_itself_does_not_hang() -> None:
    arguments = GivenArguments("t", {"type": "object", "$ref": "#"})
    with pytest.raises(ArgumentsError, match="nested too deeply"):
        arguments.read({})


def test_problems_name_the_argument_and_what_would_be_right() -> None:
    arguments = GivenArguments(
        "t",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Bern", "Oslo"]},
                "days": {"type": "array", "items": {"type": "integer", "minimum": 1}},
                "where": {"anyOf": [{"type": "string"}, {"type": "object", "required": ["lat"]}]},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    )
    with pytest.raises(ArgumentsError) as caught:
        arguments.read({"city": "Rome", "days": [1, 0], "where": {}, "foo": 1})
    assert caught.value.problems == [
        'city: is not among what is allowed; it takes {"type": "string", "enum": ["Bern", "Oslo"]}',
        'days.1: must be at least 1; it takes {"type": "integer", "minimum": 1}',
        "where.lat: is missing",
        "foo: there is no such property; there are: city, days, where",
    ]


def test_nothing_heavy_is_loaded() -> None:
    """Our validator is there to be quick to load."""
    import subprocess

    code = (
        "import sys; from agent_core.tools.given import read_schema; read_schema({}).problems(1);"
        "assert not {'pydantic', 'jsonschema'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 1.0, -2.0])
    | st.sampled_from("abc")
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
leaves = st.booleans() | st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"]),
        "enum": st.lists(scalars, max_size=3),
        "minimum": st.integers(-2, 2),
        "maxLength": st.integers(0, 1),
        "minItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    },
)
schemas = st.recursive(
    leaves,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "contains": inner,
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "unevaluatedItems": inner,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "if": inner,
            "then": inner,
            "else": inner,
        },
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(schema=schemas, value=values)
def test_agrees_with_an_independent_validator(schema: Any, value: Any) -> None:
    """Whatever the schema and the value, jsonschema comes to the same verdict."""
    ours = Validator(schema, {}).problems(value)
    assert (not ours) == Draft202012Validator(schema).is_valid(value)
