"""Validates JSON against a JSON schema (2020-12): for tools whose schema is given, small and quick to load.

Covers the vocabularies core, applicator, validation and unevaluated; `format` and `content*` are annotations, as the
specification has it by default. Not covered, and refused when the schema is read: `$dynamicRef`, references to other
documents or through `$id`, and dialects with a vocabulary of their own.
https://json-schema.org/draft/2020-12/json-schema-core , .../json-schema-validation
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

from agent_core.errors import ConfigError

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, in words, and the schema it goes against."""

    path: Path
    message: str
    schema: Any


@dataclass
class _Seen:
    """Which properties and items of a value some subschema has looked at."""

    properties: set[str] = field(default_factory=set)
    items: set[int] = field(default_factory=set)

    def add(self, other: _Seen) -> None:
        self.properties |= other.properties
        self.items |= other.items


class Validator:
    """A schema that is known to be sound (`read_schema`), and the check of values against it."""

    def __init__(self, schema: Any, references: dict[str, Any]) -> None:
        self._schema = schema
        self._references = references

    def problems(self, value: Any) -> list[Problem]:
        """All that is wrong with the value; empty where it is valid."""
        found: list[Problem] = []
        self._check(self._schema, value, (), found)
        return found

    def _check(self, schema: Any, value: Any, path: Path, found: list[Problem]) -> _Seen:
        seen = _Seen()
        if schema is False:
            found.append(Problem(path, "nothing may stand here", schema))
        if isinstance(schema, bool):
            return seen
        for keyword, check in _ASSERTIONS.items():
            if keyword in schema and (message := check(schema[keyword], value)):
                found.append(Problem(path, message, schema))
        self._in_place(schema, value, path, found, seen)
        if isinstance(value, dict):
            self._object(schema, value, path, found, seen)
        elif isinstance(value, list):
            self._array(schema, value, path, found, seen)
        return seen

    def _try(self, schema: Any, value: Any, path: Path) -> tuple[list[Problem], _Seen]:
        found: list[Problem] = []
        return found, self._check(schema, value, path, found)

    def _in_place(
        self, schema: dict[str, Any], value: Any, path: Path, found: list[Problem], seen: _Seen
    ) -> None:
        """Subschemas that look at the value itself."""
        if "$ref" in schema:
            seen.add(self._check(self._references[schema["$ref"]], value, path, found))
        for part in schema.get("allOf", ()):
            seen.add(self._check(part, value, path, found))
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                self._alternatives(keyword, schema, value, path, found, seen)
        if "not" in schema and not self._try(schema["not"], value, path)[0]:
            found.append(Problem(path, "it fits what it must not", schema))
        if "if" in schema:
            wrong, looked = self._try(schema["if"], value, path)
            if not wrong:
                seen.add(looked)
            branch = "else" if wrong else "then"
            if branch in schema:
                seen.add(self._check(schema[branch], value, path, found))
        if isinstance(value, dict):
            for name, part in schema.get("dependentSchemas", {}).items():
                if name in value:
                    seen.add(self._check(part, value, path, found))

    def _alternatives(
        self, keyword: str, schema: dict[str, Any], value: Any, path: Path, found: list[Problem], seen: _Seen
    ) -> None:
        tried = [self._try(part, value, path) for part in schema[keyword]]
        fitting = [looked for wrong, looked in tried if not wrong]
        for looked in fitting:
            seen.add(looked)
        if not fitting:
            # The alternative that was nearest, the one that got deepest into the value, tells most.
            nearest = max(
                (wrong for wrong, _ in tried), key=lambda wrong: max(len(one.path) for one in wrong)
            )
            if len(tried) > 1 and max(len(one.path) for one in nearest) == len(path):
                found.append(Problem(path, "it fits none of the alternatives", schema))
            else:
                found.extend(nearest)
        elif keyword == "oneOf" and len(fitting) > 1:
            found.append(Problem(path, f"it fits {len(fitting)} of the alternatives; one is right", schema))

    def _object(
        self, schema: dict[str, Any], value: dict[str, Any], path: Path, found: list[Problem], seen: _Seen
    ) -> None:
        for name in schema.get("required", ()):
            if name not in value:
                wanted = schema.get("properties", {}).get(name, True)
                found.append(Problem((*path, name), "is missing", wanted))
        for name, needed in schema.get("dependentRequired", {}).items():
            for other in needed if name in value else ():
                if other not in value:
                    found.append(Problem((*path, other), f"is missing; {name} needs it", schema))
        known: set[str] = set()
        for name, part in schema.get("properties", {}).items():
            if name in value:
                known.add(name)
                self._check(part, value[name], (*path, name), found)
        for pattern, part in schema.get("patternProperties", {}).items():
            for name in value:
                if compiled(pattern).search(name):
                    known.add(name)
                    self._check(part, value[name], (*path, name), found)
        if "propertyNames" in schema:
            for name in value:
                self._check(schema["propertyNames"], name, (*path, name), found)
        seen.properties |= known
        self._further(schema, "additionalProperties", set(value) - known, value, path, found, seen)
        self._further(schema, "unevaluatedProperties", set(value) - seen.properties, value, path, found, seen)

    def _further(
        self,
        schema: dict[str, Any],
        keyword: str,
        names: set[str],
        value: dict[str, Any],
        path: Path,
        found: list[Problem],
        seen: _Seen,
    ) -> None:
        """Properties that no other keyword named."""
        if keyword not in schema:
            return
        seen.properties |= names
        for name in sorted(names):
            if schema[keyword] is False:
                known = ", ".join(schema.get("properties", {})) or "none"
                found.append(Problem((*path, name), f"there is no such property; there are: {known}", True))
            else:
                self._check(schema[keyword], value[name], (*path, name), found)

    def _array(
        self, schema: dict[str, Any], value: list[Any], path: Path, found: list[Problem], seen: _Seen
    ) -> None:
        first = schema.get("prefixItems", ())
        for index, (part, item) in enumerate(zip(first, value, strict=False)):
            self._check(part, item, (*path, index), found)
            seen.items.add(index)
        if "items" in schema:
            for index in range(len(first), len(value)):
                self._check(schema["items"], value[index], (*path, index), found)
                seen.items.add(index)
        if "contains" in schema:
            fitting = [i for i, item in enumerate(value) if not self._try(schema["contains"], item, path)[0]]
            seen.items.update(fitting)
            least, most = schema.get("minContains", 1), schema.get("maxContains", len(value))
            if not least <= len(fitting) <= most:
                found.append(Problem(path, f"{len(fitting)} items are of the kind it must contain", schema))
        if "unevaluatedItems" in schema:
            for index in sorted(set(range(len(value))) - seen.items):
                self._check(schema["unevaluatedItems"], value[index], (*path, index), found)
                seen.items.add(index)


@lru_cache(maxsize=512)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern (ECMA-262) in Python's terms; raises ConfigError where Python has none for it."""
    # In ECMA-262, `$` is the very end, never before a last newline. Unicode classes are the common ones alone.
    text = re.sub(r"(\\.)|\$(?=\)|\||$)", lambda match: match[1] or r"\Z", pattern, flags=re.DOTALL)
    for ours, theirs in (
        (r"\p{Letter}", r"[^\W\d_]"),
        (r"\p{L}", r"[^\W\d_]"),
        (r"\p{N}", r"\d"),
        (r"\/", "/"),
    ):
        text = text.replace(ours, theirs)
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"the pattern {pattern!r} can't be used: {error}") from error


def same(one: Any, other: Any) -> bool:
    """JSON's equality: 1 is 1.0, but true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (
        type(one) is type(other) and one == other if not (_number(one) and _number(other)) else one == other
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _number(value) and value == value // 1,
    "number": _number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
TYPES = frozenset(_TYPES)


def _type(kinds: str | list[str], value: Any) -> str:
    names = [kinds] if isinstance(kinds, str) else kinds
    if any(_TYPES[name](value) for name in names):
        return ""
    return f"must be {' or '.join(names)}"


def _unique(wanted: bool, value: Any) -> str:
    if not wanted or not isinstance(value, list):
        return ""
    twice = any(same(item, other) for index, item in enumerate(value) for other in value[:index])
    return "holds an item twice" if twice else ""


def _multiple(step: float, value: Any) -> str:
    # Fractions of the decimal digits: 0.0075 is a multiple of 0.0001, which floats deny.
    return "" if Fraction(str(value)) % Fraction(str(step)) == 0 else f"must be a multiple of {step}"


def _numbers(check: Callable[[Any, Any], str]) -> Callable[[Any, Any], str]:
    return lambda limit, value: check(limit, value) if _number(value) else ""


def _sized(
    kind: type[str] | type[list[Any]] | type[dict[str, Any]], words: str, sign: int
) -> Callable[[Any, Any], str]:
    def check(limit: Any, value: Any) -> str:
        wrong = isinstance(value, kind) and (len(value) - limit) * sign > 0
        return f"must have at {'most' if sign > 0 else 'least'} {limit} {words}" if wrong else ""

    return check


_ASSERTIONS: dict[str, Callable[[Any, Any], str]] = {
    "type": _type,
    "enum": lambda allowed, value: (
        "" if any(same(value, one) for one in allowed) else "is not among what is allowed"
    ),
    "const": lambda wanted, value: "" if same(value, wanted) else "is not the one value that is allowed",
    "multipleOf": _numbers(_multiple),
    "maximum": _numbers(lambda limit, value: "" if value <= limit else f"must be at most {limit}"),
    "exclusiveMaximum": _numbers(lambda limit, value: "" if value < limit else f"must be below {limit}"),
    "minimum": _numbers(lambda limit, value: "" if value >= limit else f"must be at least {limit}"),
    "exclusiveMinimum": _numbers(lambda limit, value: "" if value > limit else f"must be above {limit}"),
    "maxLength": _sized(str, "characters", 1),
    "minLength": _sized(str, "characters", -1),
    "pattern": lambda pattern, value: (
        f"does not match {pattern}" if isinstance(value, str) and not compiled(pattern).search(value) else ""
    ),
    "maxItems": _sized(list, "items", 1),
    "minItems": _sized(list, "items", -1),
    "uniqueItems": _unique,
    "maxProperties": _sized(dict, "properties", 1),
    "minProperties": _sized(dict, "properties", -1),
}


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All schemas directly within, each with its JSON pointer from here."""
    for key, value in schema.items():
        if key in MAPS and isinstance(value, dict):
            for name, part in value.items():
                yield f"/{key}/{name.replace('~', '~0').replace('/', '~1')}", part
        elif key in LISTS and isinstance(value, list):
            for index, part in enumerate(value):
                yield f"/{key}/{index}", part
        elif key in SINGLES:
            yield f"/{key}", value


MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLES: tuple[str, ...] = (
    "items",
    "additionalProperties",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "propertyNames",
)
SINGLES += ("unevaluatedItems", "unevaluatedProperties")
KEYWORDS = frozenset((*_ASSERTIONS, *MAPS, *LISTS, *SINGLES, "$ref", "required", "dependentRequired"))
KEYWORDS |= {"minContains", "maxContains", "$anchor"}
