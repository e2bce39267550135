"""Bodies of webhooks, read after they were verified: JSON without surprises, XML without entities, forms."""

from __future__ import annotations

import json
from typing import Any

from agent_core.errors import MalformedError
from agent_core.tools.results import clean

MAX_DEPTH = 64
"""Arrays and objects in one another."""


def read_json(body: bytes) -> Any:
    """Any JSON value. Raises MalformedError for a name given twice, what is nested too deeply, NaN and bad UTF-8."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        # The standard library's reader: msgspec's keeps the last of two equal names without a word.
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"the body is not JSON: {error}") from None
    _check_depth(value)
    return value


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object; raises MalformedError."""
    value = read_json(body)
    if not isinstance(value, dict):
        raise MalformedError("the body is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise MalformedError("a name is given twice in the body")
    return values


def _no_constant(name: str) -> Any:
    raise MalformedError(f"the body is not JSON: {name}")


def _check_depth(value: Any) -> None:
    """Raise MalformedError where more arrays and objects are in one another than a payload has."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise MalformedError(f"the body is nested more than {MAX_DEPTH} deep")


def dig(value: Any, *path: str) -> Any:
    """What is at a path of names in nested objects, None where there is no such thing."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def items_at(value: Any, *path: str) -> list[Any]:
    """The array at a path, empty where there is none."""
    found = dig(value, *path)
    return found if isinstance(found, list) else []


def text_at(value: Any, *path: str) -> str:
    """The text or whole number at a path, as text; "" where there is none. Half a surrogate pair becomes "?"."""
    found = dig(value, *path)
    if isinstance(found, str):
        return clean(found)
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else ""


def read_xml(body: bytes) -> dict[str, str]:
    """The elements of a flat XML document by name, those inside others as `outer.inner`.

    Raises MalformedError, also for anything that declares a document type: no entity is ever expanded.
    """
    # Loaded only where XML comes in.
    from xml.parsers import expat

    found: dict[str, str] = {}
    path: list[str] = []

    def begin(name: str, _: dict[str, str]) -> None:
        if len(path) > MAX_DEPTH:
            raise MalformedError(f"the body is nested more than {MAX_DEPTH} deep")
        path.append(name)
        if len(path) > 1:
            found.setdefault(".".join(path[1:]), "")

    def words(text: str) -> None:
        if len(path) > 1:
            found[".".join(path[1:])] += text

    def refuse(*_: object) -> None:
        raise MalformedError("the body declares a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda _: path.pop()
    parser.CharacterDataHandler = words
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise MalformedError(f"the body is not XML: {error}") from None
    return found
