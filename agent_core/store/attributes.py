"""Our records as DynamoDB items and back, and our conditions as its expressions. Pure.

Top-level text, numbers, bools and null are attributes of their own, so that the service itself compares and adds. A
list or object is one JSON text inside a list, `{"L": [{"S": "[1, 2]"}]}`: read and written whole, it costs one
attribute and no walk over its parts, keeps what DynamoDB's own maps can't (empty names, any number), and no condition
takes it for a text. So is a number that DynamoDB can't hold: nothing compares with it. Numbers are decimal there: 2.0
comes back as 2.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, copysign, isinf
from typing import Any, NamedTuple

import msgspec

from agent_core.errors import InputError, StoreError
from agent_core.store.base import Above, Absent, AtMost, Condition, Equals, Fields, Key, Version

PARTITION = "pk"
SORT = "sk"
REVISION = "r"
"""Attribute with the record's version."""

EXPIRES = "e"
"""Attribute with the exact time of expiry."""

TTL = "ttl"
"""Attribute by which DynamoDB removes what has expired, in whole seconds; it does so within days."""

_OWN = frozenset({PARTITION, SORT, REVISION, EXPIRES, TTL})
_LEAST, _MOST = 1e-128, 9e124
"""Between these, in size, any number fits into DynamoDB's."""

Attribute = dict[str, Any]
Item = dict[str, Attribute]

ALIVE = f"(attribute_not_exists({EXPIRES}) OR {EXPIRES} > :now)"
"""Condition: the record has not expired, if it is there."""

GONE = f"(attribute_not_exists({PARTITION}) OR {EXPIRES} <= :now)"
"""Condition: there is no record, or it has expired."""

THERE = f"(attribute_exists({PARTITION}) AND {ALIVE})"

_TRUE: Attribute = {"BOOL": True}
_FALSE: Attribute = {"BOOL": False}
_NULL: Attribute = {"NULL": True}
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.decode


class State(NamedTuple):
    """What is known of a record that is there, expired or not."""

    revision: int
    expires_at: float = 0.0


def name_of(field: str) -> str:
    """The attribute of a field: its own name, unless that is one of ours or none."""
    return f"~{field}" if not field or field in _OWN or field[0] == "~" else field


def attributes(body: bytes) -> Item:
    """The attributes of fields, which come as JSON."""
    return {name_of(field): _attribute(bytes(raw)) for field, raw in _raw_fields(body).items()}


def attribute(value: str | int | float | bool | None) -> Attribute:
    """One value as an attribute, for a condition on it."""
    try:
        return _attribute(msgspec.json.encode(value))
    except (TypeError, ValueError) as error:
        raise InputError(f"a condition can't compare with {value!r}: {error}") from error


def number(value: float) -> Attribute:
    """A bound of a condition; one beyond DynamoDB's numbers becomes the greatest or least of those."""
    if value != value:
        raise InputError("a condition can't compare with NaN")
    if abs(value) >= _MOST or isinf(value):
        return {"N": repr(copysign(_MOST, value))}
    return {"N": repr(value) if abs(value) > _LEAST else "0"}


def expiry(expires_at: float) -> Item:
    """The attributes of an expiry that is set."""
    return {EXPIRES: {"N": repr(expires_at)}, TTL: {"N": str(ceil(expires_at))}}


def key_of(key: Key) -> Item:
    """A key as attributes."""
    return {PARTITION: {"S": key.partition}, SORT: {"S": key.sort}}


def item(key: Key, fields: Mapping[str, Attribute], revision: int, expires_at: float) -> Item:
    """A whole record."""
    whole = {**key_of(key), REVISION: {"N": str(revision)}, **fields}
    return {**whole, **expiry(expires_at)} if expires_at else whole


def fields_of(found: Mapping[str, Attribute]) -> Fields:
    """The fields of an item. Raises StoreError where somebody else wrote what we can't read."""
    fields: Fields = {}
    for name, value in found.items():
        if name in _OWN:
            continue
        [(kind, content)] = value.items()
        if kind == "S" or kind == "BOOL":
            plain = content
        elif kind == "N":
            plain = _number(content)
        elif kind == "NULL":
            plain = None
        else:
            plain = _json(kind, content, name)
        fields[name[1:] if name[0] == "~" else name] = plain
    return fields


def state_of(found: Mapping[str, Attribute]) -> State:
    """The version and expiry of an item."""
    expires = found.get(EXPIRES)
    try:
        return State(int(found[REVISION]["N"]), float(expires["N"]) if expires else 0.0)
    except (KeyError, ValueError):
        raise StoreError("a stored record is damaged: it has no version") from None


class Terms:
    """Names and values of one request's expressions, each under a placeholder."""

    def __init__(self, now: float) -> None:
        self.names: dict[str, str] = {}
        self.values: dict[str, Attribute] = {}
        self._now = now

    def name(self, attribute: str) -> str:
        """The placeholder of an attribute's name."""
        placeholder = f"#{len(self.names)}"
        self.names[placeholder] = attribute
        return placeholder

    def value(self, value: Attribute) -> str:
        """The placeholder of a value."""
        placeholder = f":{len(self.values)}"
        self.values[placeholder] = value
        return placeholder

    def all_of(self, when: Iterable[Condition], *more: str) -> str:
        """One expression for these conditions and those already written."""
        parts = [*more, *map(self._condition, when)]
        text = " AND ".join(dict.fromkeys(parts))
        if ":now" in text:
            self.values[":now"] = {"N": repr(self._now)}
        return text

    def expected(self, state: State) -> str:
        """Condition: the record is as it was seen, and has not expired."""
        return f"{REVISION} = {self.value({'N': str(state.revision)})} AND {ALIVE}"

    def _condition(self, condition: Condition) -> str:
        if isinstance(condition, Absent):
            return GONE
        if isinstance(condition, Version):
            return self.expected(State(condition.number))
        name = self.name(name_of(condition.field))
        if isinstance(condition, Equals):
            return f"{name} = {self.value(attribute(condition.value))} AND {ALIVE}"
        if isinstance(condition, AtMost):
            bound = self.value(number(condition.value))
            return f"(attribute_not_exists({name}) OR {name} <= {bound} OR {EXPIRES} <= :now)"
        assert isinstance(condition, Above)
        return f"{name} > {self.value(number(condition.value))} AND {ALIVE}"

    def into(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request with the names and values; DynamoDB refuses empty ones."""
        if self.names:
            request["ExpressionAttributeNames"] = self.names
        if self.values:
            request["ExpressionAttributeValues"] = self.values
        return request


def _attribute(raw: bytes) -> Attribute:
    first = raw[:1]
    if first == b'"':
        return {"S": msgspec.Raw(raw)}
    if first == b"t":
        return _TRUE
    if first == b"f":
        return _FALSE
    if first == b"n":
        return _NULL
    if first not in b"{[" and _fits(raw):
        return {"N": raw.decode()}
    return {"L": [{"S": raw.decode()}]}


def _fits(raw: bytes) -> bool:
    if len(raw) <= 38 and b"e" not in raw and b"E" not in raw:
        return True
    size = abs(float(raw))
    digits = raw.partition(b"e")[0].strip(b"-").replace(b".", b"").strip(b"0")
    return len(digits) <= 38 and (size == 0 or _LEAST < size < _MOST)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _json(kind: str, content: Any, name: str) -> Any:
    try:
        return _decode(content[0]["S"])
    except (msgspec.MsgspecError, RecursionError, LookupError, TypeError):
        raise StoreError(f"a stored record is damaged: {name!r} is of the kind {kind}") from None
