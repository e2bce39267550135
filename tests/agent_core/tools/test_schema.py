"""What is made of type hints: the schema a model sees, and how leniently its arguments are read."""

from __future__ import annotations

import datetime
import subprocess
import sys
import textwrap
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field

from agent_core.errors import ConfigError
from agent_core.tools.arguments import ArgumentsError
from agent_core.tools.base import Tool, tool
from agent_core.tools.schema import json_schema
from agent_core.tools.shape import INLINE_BYTES, simplify
from agent_core.tools.signature import is_plain
from tests.agent_core.tools.samples import SAMPLES, Colour, Level, Node, Person

HOME = {"street": "Main 1", "town": "Bern"}
FITTING: list[tuple[str, dict[str, Any]]] = [
    ("plain", {"text": "a", "count": 3, "ratio": 0.5, "on": True, "anything": [1, {"x": None}]}),
    (
        "boxes",
        {
            "words": ["a"],
            "table": {"k": 1},
            "pair": [1, "b"],
            "many": [1, 2],
            "tags": ["x"],
            "free": [1, "a"],
            "open": {},
        },
    ),
    (
        "choices",
        {"colour": "red", "level": 2, "unit": "F", "one": "only", "either": "x", "old": None, "older": 4},
    ),
    ("choices", {"colour": "blue"}),
    ("limited", {"age": 30, "half": 0.5, "code": "ABC", "few": [1], "positive": 2}),
    (
        "nested",
        {"person": {"name": "A", "home": HOME}, "point": {"x": 1}, "movie": {"title": "M"}, "pair": [1, "r"]},
    ),
    ("tree", {"root": {"value": 1, "children": [{"value": 2, "children": []}]}}),
    ("pets", {"pet": {"kind": "cat", "lives": 7}}),
    (
        "times",
        {
            "day": "2026-11-22",
            "moment": "2026-11-22T10:00:00Z",
            "length": "PT1H",
            "price": "1.50",
            "key": "6b7e1c1e-5ad5-4f2f-9b8e-0c8d3b1c1a11",
            "link": "https://example.org/a",
        },
    ),
    ("described", {"a": "1", "b": "2", "c": "3"}),
    ("awkward", {"schema": "s", "copy": "c", "model_config": "m", "model_dump": 2, "_x": 3}),
    ("bare", {}),
]


@pytest.mark.parametrize(("name", "given"), FITTING, ids=[name for name, _ in FITTING])
def test_what_the_schema_allows_is_read(name: str, given: dict[str, Any]) -> None:
    """The schema is valid 2020-12, allows these arguments, and so does the check; the function can be called."""
    made = SAMPLES[name]
    made.check()
    Draft202012Validator.check_schema(made.schema)
    assert not list(Draft202012Validator(made.schema).iter_errors(given))
    arguments = made.arguments.read(given)
    assert set(arguments) >= set(given)


MISFITS: list[tuple[str, dict[str, Any], str]] = [
    ("plain", {"text": "a", "ratio": 1, "on": True, "anything": None}, "count"),
    ("boxes", {**FITTING[1][1], "pair": [1]}, "pair.1"),
    ("boxes", {**FITTING[1][1], "table": {"k": "x"}}, "table.k"),
    ("choices", {"colour": "green"}, "colour"),
    ("choices", {"colour": "red", "level": 3}, "level"),
    ("limited", {**FITTING[4][1], "age": -1}, "age"),
    ("limited", {**FITTING[4][1], "code": "abc"}, "code"),
    ("limited", {**FITTING[4][1], "few": []}, "few"),
    ("nested", {**FITTING[5][1], "person": {"name": "A"}}, "person.home"),
    ("tree", {"root": {"value": 1, "children": [{}]}}, "root.children.0.value"),
    ("pets", {"pet": {"kind": "fish"}}, "pet"),
    ("bare", {"x": 1}, "x"),
]


@pytest.mark.parametrize(
    ("name", "given", "path"), MISFITS, ids=[f"{name}-{path}" for name, _, path in MISFITS]
)
def test_what_the_schema_forbids_is_refused(name: str, given: dict[str, Any], path: str) -> None:
    made = SAMPLES[name]
    assert not Draft202012Validator(made.schema).is_valid(given)
    with pytest.raises(ArgumentsError) as caught:
        made.arguments.read(given)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [path]


@pytest.mark.parametrize(
    ("name", "given", "argument", "value"),
    [
        ("plain", {"count": "5"}, "count", 5),
        ("plain", {"count": 5.0}, "count", 5),
        ("plain", {"ratio": "0.5"}, "ratio", 0.5),
        ("plain", {"on": "true"}, "on", True),
        ("plain", {"text": 7}, "text", "7"),
        ("boxes", {"words": '["a", "b"]'}, "words", ["a", "b"]),
        ("boxes", {"table": '{"k": 1}'}, "table", {"k": 1}),
        ("boxes", {"table": {"k": "1"}}, "table", {"k": 1}),
        ("choices", {"level": "2"}, "level", 2),
    ],
)
def test_almost_right_is_read(name: str, given: dict[str, Any], argument: str, value: Any) -> None:
    """Models send numbers as strings, strings as numbers, and lists and objects as JSON text."""
    fitting = next(arguments for known, arguments in FITTING if known == name)
    assert SAMPLES[name].arguments.read({**fitting, **given})[argument] == value


def test_an_object_in_a_list_may_be_json_text() -> None:
    arguments = SAMPLES["nested"].arguments.read(
        {**FITTING[5][1], "people": ['{"name": "B", "home": {"street": "S", "town": "T"}}']}
    )
    assert isinstance(arguments["people"][0], Person)


def test_null_for_an_argument_with_a_default_is_the_default() -> None:
    """Strict modes make models name every argument."""
    assert "level" not in SAMPLES["choices"].arguments.read({"colour": "red", "level": None})
    with pytest.raises(ArgumentsError, match="colour"):
        SAMPLES["choices"].arguments.read({"colour": None})


def test_what_is_mended_leaves_the_call_as_it_was() -> None:
    given = {**FITTING[1][1], "words": '["a"]'}
    SAMPLES["boxes"].arguments.read(given)
    assert given["words"] == '["a"]'


def test_a_string_that_is_no_json_is_told_as_it_came() -> None:
    with pytest.raises(ArgumentsError, match='words: Input should be a valid list, but got "a, b"'):
        SAMPLES["boxes"].arguments.read({**FITTING[1][1], "words": "a, b"})


def test_defaults_are_the_function_s_own() -> None:
    """A mutable or unusual default is never copied or checked; an argument left out is left out."""
    sentinel = object()

    @tool
    def look(x: int = 1, y: Any = sentinel, z: Annotated[int, Field(default=3)] = 4) -> object:
        """Look."""
        return y

    assert look.arguments.read({}) == {}
    assert look.schema["properties"]["y"] == {}
    assert look() is sentinel


def test_a_field_as_a_default_counts() -> None:
    @tool
    def look(x: int = Field(3, ge=1), y: int = Field(ge=1, description="why")) -> int:
        """Look."""
        return x + y

    assert look.schema["required"] == ["y"]
    assert look.schema["properties"]["x"] == {"default": 3, "minimum": 1, "type": "integer"}
    assert look.schema["properties"]["y"]["description"] == "why"
    assert look.arguments.read({"y": 2}) == {"x": 3, "y": 2}


def test_words_come_from_the_nearest_place() -> None:
    properties = SAMPLES["described"].schema["properties"]
    assert [properties[name]["description"] for name in "abcd"] == [
        "from Annotated",
        "from Field",
        "from the docstring",
        "from a default",
    ]
    assert "turn" not in properties


def test_no_titles_but_properties_called_title() -> None:
    class Film(BaseModel):
        title: str
        default: dict[str, str] = {"title": "kept"}

    @tool
    def show(film: Film) -> str:
        """Show."""
        return film.title

    inner = show.schema["properties"]["film"]
    assert set(inner["properties"]) == {"title", "default"}
    assert inner["properties"]["title"] == {"type": "string"}
    assert inner["properties"]["default"]["default"] == {"title": "kept"}
    assert "title" not in inner


def test_small_definitions_stand_in_place_and_large_ones_apart() -> None:
    assert "$defs" not in SAMPLES["nested"].schema
    assert set(SAMPLES["tree"].schema["$defs"]) == {"Node"}
    large = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(INLINE_BYTES // 40)}}
    schema = {
        "$defs": {"L": large, "unused": {}},
        "properties": {"a": {"$ref": "#/$defs/L"}, "b": {"$ref": "#/$defs/L"}},
    }
    made = simplify(schema)
    assert made["properties"]["a"] == {"$ref": "#/$defs/L"}
    assert set(made["$defs"]) == {"L"}


def test_definitions_that_grow_exponentially_stay_apart() -> None:
    """Each type holds the next one twice: in place they would be 2^40 copies."""
    definitions = {
        f"D{n}": {"properties": {side: {"$ref": f"#/$defs/D{n + 1}"} for side in "ab"}} for n in range(40)
    }
    made = simplify({"$defs": {**definitions, "D40": {"type": "string"}}, "$ref": "#/$defs/D0"})
    assert len(made["$defs"]) == 41


def test_a_definition_and_words_beside_it_are_merged() -> None:
    @tool
    def meet(host: Annotated[Person, "who invites"], guest: Person | None = None) -> str:
        """Meet."""
        return ""

    assert meet.schema["properties"]["host"]["description"] == "who invites"
    assert meet.schema["properties"]["host"]["properties"]["name"] == {"type": "string"}


def test_open_models_stay_open() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int = 1

    @tool
    def take(it: Open) -> str:
        """Take."""
        return ""

    assert take.schema["properties"]["it"]["additionalProperties"] is True


def test_local_types_are_found_from_string_annotations() -> None:
    """This file has `from __future__ import annotations`, and the type is known in this function only."""

    @dataclass
    class Local:
        n: int

    @tool
    def take(it: Local, many: list[Local] | None = None) -> int:
        """Take."""
        return it.n

    take.check()
    assert take.arguments.read({"it": {"n": 2}})["it"] == Local(2)


PLAIN = [
    str,
    int,
    float,
    bool,
    bytes,
    list,
    dict,
    Any,
    None,
    Colour,
    Level,
    Decimal,
    uuid.UUID,
    datetime.date,
]
plain_types = st.recursive(
    st.sampled_from(PLAIN)
    | st.lists(st.sampled_from(["a", 1, True, None]), min_size=1).map(lambda values: Literal[tuple(values)]),
    lambda inner: st.one_of(
        inner.map(lambda kind: list[kind]),
        inner.map(lambda kind: dict[str, kind]),
        inner.map(lambda kind: dict[int, kind]),
        inner.map(lambda kind: tuple[kind, ...]),
        inner.map(lambda kind: Annotated[kind, "words"]),
        st.tuples(inner, inner).map(lambda kinds: tuple[kinds]),
        inner.map(lambda kind: Optional[kind]),  # noqa: UP045 - X | None fails for X None
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(plain_types)
def test_plain_types_never_fail_later(kind: Any) -> None:
    """What `check` takes for sure without loading pydantic does make a valid schema."""

    def take(it: kind) -> None: ...

    take.__annotations__ = {"it": kind}
    made = Tool(function=take, name="take")
    assert all(is_plain(argument.annotation) for argument in made.signature.arguments)
    Draft202012Validator.check_schema(made.schema)


class Opaque:
    """No type that pydantic knows."""


def test_a_type_that_can_t_be_told_fails_at_check() -> None:
    @tool
    def take(it: Opaque) -> str:
        """Take."""
        return ""

    with pytest.raises(ConfigError, match=r"tool take: a model can't be told of a type .*Opaque"):
        take.check()


def test_a_type_without_a_json_schema_fails_at_check() -> None:
    from collections.abc import Callable

    def take(it: Callable[[int], int]) -> str:
        return ""

    with pytest.raises(ConfigError, match="tool take: a model can't be told of a type"):
        Tool(function=take, name="take", namespace={"Callable": Callable}).check()


def test_a_type_that_is_not_defined_fails_at_check() -> None:
    @tool
    def take(it: Missing) -> str:  # noqa: F821 - that is the point
        """Take."""
        return ""

    with pytest.raises(ConfigError, match=r"tool take: a type in its signature is not defined: .*Missing"):
        take.check()


def test_schemas_of_any_type() -> None:
    assert json_schema(list[int]) == {"items": {"type": "integer"}, "type": "array"}
    assert json_schema(Person)["additionalProperties"] is False
    assert json_schema(Node)["$defs"]["Node"]
    with pytest.raises(ConfigError, match="Opaque"):
        json_schema(Opaque)


def test_pydantic_is_loaded_only_for_schemas_and_types_of_its_own() -> None:
    """Not by defining tools, nor by checking tools of plain types, which is what happens when an app is built."""
    code = """
        import sys
        from enum import Enum
        from typing import Annotated, Literal
        from agent_core import Turn, tool

        class Colour(Enum):
            RED = "red"

        @tool
        def plain(a: str, b: Annotated[int, "x"], c: list[float] | None, d: Literal["x"], e: Colour, turn: Turn):
            "Plain."

        plain.check()
        assert plain.takes_turn
        assert "pydantic" not in sys.modules
        plain.schema
        assert "pydantic" in sys.modules
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
