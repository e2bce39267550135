"""One tool for each kind of type hint that a tool may have: the schemas in use, to test what is made of them."""

from __future__ import annotations

import datetime
import enum
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Optional, Union

from annotated_types import Len
from pydantic import AnyUrl, BaseModel, Field, PositiveInt, StringConstraints
from typing_extensions import TypedDict  # Python 3.11's own is not enough for pydantic

from agent_core.messages import Turn
from agent_core.tools.base import Tool, tool


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    """Where somebody lives."""

    street: str = Field(description="Street and number")
    town: str
    zip: Annotated[str, Field(pattern=r"^\d{5}$")] = "00000"


class Person(BaseModel):
    name: str
    home: Address
    work: Address | None = None


class Node(BaseModel):
    value: int
    children: list[Node] = []


@dataclass
class Point:
    x: float
    y: float = 0.0


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class Pair(NamedTuple):
    left: int
    right: str


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


@tool
def plain(text: str, count: int, ratio: float, on: bool, anything: Any, nothing: None = None) -> str:
    """Plain types."""
    return f"{text!r} {count!r} {ratio!r} {on!r} {anything!r} {nothing!r}"


@tool
def boxes(
    words: list[str],
    table: dict[str, int],
    pair: tuple[int, str],
    many: tuple[int, ...],
    tags: set[str],
    free: list,  # type: ignore[type-arg] # what users write
    open: dict,  # type: ignore[type-arg]
) -> str:
    """Lists and the like."""
    return f"{words} {table} {pair} {many} {sorted(tags)} {free} {open}"


@tool
def choices(
    colour: Colour,
    level: Level = Level.LOW,
    unit: Literal["C", "F"] = "C",
    one: Literal["only"] = "only",
    either: int | str = 0,
    old: Optional[str] = None,  # noqa: UP045 - what users write
    older: Union[int, None] = None,  # noqa: UP007
) -> str:
    """Choices."""
    return f"{colour!r} {level!r} {unit} {one} {either!r} {old!r} {older!r}"


@tool
def limited(
    age: Annotated[int, Field(ge=0, lt=150)],
    half: Annotated[float, Field(gt=0, le=1, multiple_of=0.5)],
    code: Annotated[str, StringConstraints(min_length=2, max_length=4, pattern="^[A-Z]+$")],
    few: Annotated[list[int], Len(1, 3)],
    positive: PositiveInt = 1,
) -> str:
    """Constraints."""
    return f"{age} {half} {code} {few} {positive}"


@tool
def nested(person: Person, point: Point, movie: Movie, pair: Pair, people: list[Person] = []) -> str:  # noqa: B006
    """Types within types."""
    return f"{person!r} {point!r} {movie!r} {pair!r} {len(people)}"


@tool
def tree(root: Node) -> int:
    """A type that holds itself."""
    return root.value + sum(child.value for child in root.children)


@tool
def pets(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> str:
    """A union told apart by a field."""
    return type(pet).__name__


@tool
def times(
    day: datetime.date,
    moment: datetime.datetime,
    length: datetime.timedelta,
    price: Decimal,
    key: uuid.UUID,
    link: AnyUrl,
) -> str:
    """Types that are strings in JSON."""
    return f"{day!r} {moment!r} {length!r} {price!r} {key!r} {link}"


@tool
def described(
    a: Annotated[str, "from Annotated"],
    b: Annotated[str, Field(description="from Field")],
    c: str,
    d: str = Field("fallback", description="from a default"),
    *,
    turn: Turn,
) -> str:
    """Words from everywhere.

    Args:
        a: not this
        b: nor this
        c: from the docstring
    """
    return f"{a} {b} {c} {d} {turn.run_id}"


@tool
def awkward(
    schema: str, copy: str, model_config: str, self_: str = "", model_dump: int = 0, _x: int = 1
) -> str:
    """Names that pydantic keeps for itself."""
    return f"{schema} {copy} {model_config} {model_dump} {_x}"


@tool
def bare() -> str:
    """No arguments."""
    return "bare"


SAMPLES: dict[str, Tool] = {
    one.name: one
    for one in (plain, boxes, choices, limited, nested, tree, pets, times, described, awkward, bare)
}
