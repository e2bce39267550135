"""What may be a tool, what it is called, and what it says when it can't be one."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from agent_core.errors import ConfigError
from agent_core.messages import ToolSpec, Turn
from agent_core.tools.base import Tool, tool

TURN = Turn(session_id="s", run_id="r", agent="a")


@tool
def status(order_id: str) -> str:
    """Where an order is now.

    More that the model need not read.
    """
    return f"{order_id} is here"


def test_a_plain_tool() -> None:
    assert status.spec == ToolSpec(
        name="status",
        description="Where an order is now.",
        schema={
            "additionalProperties": False,
            "properties": {"order_id": {"type": "string"}},
            "required": ["order_id"],
            "type": "object",
        },
    )
    assert (status.effects, status.approval, status.stepup, status.sensitive) == ("none", False, False, False)
    assert status.timeout is None
    assert not status.takes_turn


def test_a_tool_is_still_the_function() -> None:
    assert status("A7") == "A7 is here"


def test_options() -> None:
    @tool(
        effects="once",
        approval=True,
        stepup=True,
        sensitive=True,
        timeout=2.5,
        name="pay-back",
        description="Pays.",
    )
    def refund(cents: int) -> str:
        """Not this."""
        return str(cents)

    assert (refund.name, refund.description, refund.effects) == ("pay-back", "Pays.", "once")
    assert (refund.approval, refund.stepup, refund.sensitive, refund.timeout) == (True, True, True, 2.5)


def test_a_second_factor_includes_approval() -> None:
    """A tool that wants more than a person's word is never run without it."""
    assert tool(stepup=True)(_fine).approval


def test_the_turn_is_hidden_and_filled() -> None:
    @tool
    def by_type(a: int, now: Turn) -> str:
        """Any name with the type Turn."""
        return ""

    @tool
    def by_name(a: int, turn) -> str:  # type: ignore[no-untyped-def] # what users write
        """The name alone."""
        return ""

    @tool
    def optional(a: int, turn: Turn | None = None) -> str:
        """Or none."""
        return ""

    @tool
    def other(turn: int) -> str:
        """Some other turn."""
        return ""

    assert [one.turn_argument for one in (by_type, by_name, optional, other)] == ["now", "turn", "turn", ""]
    assert list(by_type.schema["properties"]) == ["a"]
    assert list(other.schema["properties"]) == ["turn"]


class Shop:
    def __init__(self, town: str) -> None:
        self.town = town

    @tool
    def stock(self, book: str) -> str:
        """How many there are."""
        return f"{book} in {self.town}"

    def plain(self, book: str) -> str:
        """A method."""
        return f"{book} from {self.town}"

    @classmethod
    def shared(cls, book: str) -> str:
        """A class method."""
        return book

    @staticmethod
    def free(book: str) -> str:
        """A static method."""
        return book


class Finder:
    """Finds books.

    Args:
        book: Its title.
    """

    def __call__(self, book: str, turn: Turn) -> str:
        return f"{book} {turn.run_id}"


def test_methods_and_callables() -> None:
    bern = Shop("Bern")
    assert bern.stock.arguments.read({"book": "B"}) == {"book": "B"}
    assert bern.stock("B") == "B in Bern"
    assert Shop("Oslo").stock("B") == "B in Oslo"
    assert tool(bern.plain)("B") == "B from Bern"
    assert tool(Shop.shared).name == "shared"
    assert tool(Shop.free).description == "A static method."
    finder = tool(Finder())
    assert (finder.name, finder.description, finder.takes_turn) == ("finder", "Finds books.", True)
    assert finder.schema["properties"]["book"]["description"] == "Its title."
    partial = tool(name="half")(functools.partial(bern.plain))
    assert (partial.description, partial("B")) == ("A method.", "B from Bern")


def test_a_partial_with_arguments_filled() -> None:
    def ship(book: str, town: str) -> str:
        return f"{book} to {town}"

    made = tool(name="ship")(functools.partial(ship, town="Bern"))
    assert made.schema["required"] == ["book"]
    assert made.function(**made.arguments.read({"book": "B"})) == "B to Bern"


def test_a_decorated_function_keeps_its_types() -> None:
    def loud(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs).upper()

        return wrapper

    @tool
    @loud
    def say(word: str) -> str:
        """Say it."""
        return word

    assert list(say.schema["properties"]) == ["word"]
    assert say("a") == "A"


def test_a_method_without_its_object_says_so() -> None:
    with pytest.raises(ConfigError, match=r"tool stock is a method: give the agent the one of an object"):
        Shop.stock.check()


def _fine() -> int:
    return 1


def _stars(*words: str) -> str:
    return ""


def _keywords(**words: str) -> str:
    return ""


def _positional(a: str, /) -> str:
    return ""


def _generator(a: str) -> Any:
    yield a


async def _async_generator(a: str) -> Any:
    yield a


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_stars, r"a model can't be told of \*words"),
        (_keywords, r"a model can't be told of \*\*words"),
        (_positional, "the argument 'a' must be allowed by name"),
        (_generator, "a generator can't be a tool"),
        (_async_generator, "a generator can't be a tool"),
        (Shop, "is not a function"),
        (3, "is not a function"),
        (lambda: 1, "tool name '<lambda>'"),
    ],
)
def test_what_can_be_no_tool_fails_where_it_is_defined(function: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tool(function)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "math.sqrt"}, "1 to 64 letters"),
        ({"name": "x" * 65}, "1 to 64 letters"),
        ({"name": "名"}, "1 to 64 letters"),
        ({"effects": "many"}, 'there are "none", "repeatable", "once"'),
        ({"timeout": 0}, "give seconds above 0"),
        ({"timeout": float("nan")}, "give seconds above 0"),
    ],
)
def test_options_that_can_t_be_fail_where_they_are_given(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tool(**options)(_fine)


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(TypeError, match="effect"):
        tool(effect="once")(_fine)  # type: ignore[call-overload]


def test_two_decorators() -> None:
    with pytest.raises(ConfigError, match="is a tool already"):
        tool(status)  # type: ignore[arg-type, unused-ignore]


def test_an_argument_without_a_type_fails_at_check() -> None:
    @tool
    def f(x) -> str:  # type: ignore[no-untyped-def] # that is the point
        """F."""
        return ""

    with pytest.raises(ConfigError, match="tool f: give the argument 'x' a type, as in `x: str`"):
        f.check()


def test_a_given_schema_is_passed_on_as_it_is() -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string", "title": "kept"}}}
    made = Tool.from_schema("search", "Find.", schema, lambda q: q, effects="repeatable", timeout=3)
    made.check()
    assert made.spec == ToolSpec(name="search", description="Find.", schema=schema)
    assert (made.effects, made.timeout, made.takes_turn) == ("repeatable", 3, False)


def test_a_given_schema_works_with_builtins() -> None:
    made = Tool.from_schema("echo", "", {"type": "object"}, print)
    assert not made.takes_turn
