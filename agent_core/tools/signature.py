"""What a function takes, as far as can be read without pydantic, which costs a cold start to load."""

from __future__ import annotations

import datetime
import decimal
import enum
import functools
import inspect
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from agent_core.errors import ConfigError
from agent_core.messages import Turn
from agent_core.tools.docstring import Docstring, parse

MISSING = inspect.Parameter.empty

_PLAIN: tuple[Any, ...] = (str, int, float, bool, type(None), bytes, Any, object)
_PLAIN += (datetime.date, datetime.datetime, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)
_BOXES = (list, dict, tuple, set, frozenset)


@dataclass(frozen=True)
class Argument:
    """One argument that a model gives; `default` MISSING where it must."""

    name: str
    annotation: Any
    default: Any
    description: str


@dataclass(frozen=True)
class Signature:
    """The arguments a model gives, and the name of the one that takes the Turn ("" for none)."""

    arguments: tuple[Argument, ...]
    turn: str
    summary: str


def read(function: Callable[..., Any], name: str, namespace: Mapping[str, Any]) -> Signature:
    """The function's signature; `namespace` holds names its annotations may use besides its module's.

    Raises ConfigError where no tool can be made of it, NameError where an annotation is not defined (yet).
    """
    parameters = inspect.signature(function).parameters
    source = _annotated(function)
    hints = typing.get_type_hints(source, localns=dict(namespace), include_extras=True)
    words = docstring(function)
    arguments, turn = [], ""
    for parameter in parameters.values():
        hint = hints.get(parameter.name, MISSING)
        if _is_turn(parameter.name, hint):
            turn = parameter.name
            continue
        if hint is MISSING:
            raise ConfigError(
                f"tool {name}: give the argument {parameter.name!r} a type, as in `{parameter.name}: str`"
            )
        arguments.append(
            Argument(parameter.name, hint, parameter.default, words.arguments.get(parameter.name, ""))
        )
    return Signature(tuple(arguments), turn, words.summary)


def check_shape(function: Callable[..., Any], name: str) -> None:
    """Raise ConfigError where the function can be no tool whatever its types are. Looks at no annotation."""
    if inspect.isclass(function) or not callable(function):
        raise ConfigError(f"tool {name}: {function!r} is not a function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"tool {name}: a generator can't be a tool; return a list")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise ConfigError(
                f"tool {name}: a model can't be told of {stars}{parameter.name}; name each argument, or take a list"
            )
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise ConfigError(
                f"tool {name}: the argument {parameter.name!r} must be allowed by name; remove the /"
            )


def docstring(function: Callable[..., Any]) -> Docstring:
    """What is written about the function; of an object that can be called, about its __call__, else its class."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return parse(inspect.getdoc(function))
    of_call = parse(type(function).__call__.__doc__)
    of_class = parse(inspect.getdoc(type(function)))
    return Docstring(of_call.summary or of_class.summary, {**of_class.arguments, **of_call.arguments})


def is_unbound(function: Callable[..., Any]) -> bool:
    """Whether it is a method still in its class, waiting for its `self`."""
    if not inspect.isfunction(function) or "." not in function.__qualname__:
        return False
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.name == "self" and first.annotation is MISSING


def is_plain(annotation: Any) -> bool:
    """Whether pydantic is sure to know this type. False means only that it has to be asked."""
    if annotation is None or annotation in _PLAIN or annotation in _BOXES:
        return True
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return all(isinstance(member.value, str | int | float | None) for member in annotation)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return all(isinstance(value, str | int | bool | enum.Enum | None) for value in inner)
    if origin is Annotated:
        return is_plain(inner[0]) and all(isinstance(extra, str) for extra in inner[1:])
    if origin is dict:
        return inner[0] in (str, int) and is_plain(inner[1])
    if origin in (Union, types.UnionType) or origin in _BOXES:
        return all(part is Ellipsis or is_plain(part) for part in inner)
    return False


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose annotations count: that of a partial, the __call__ of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def written_annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The function's annotations as they are written; strings stay strings."""
    return dict(getattr(_annotated(function), "__annotations__", {}))


def turn_of(function: Callable[..., Any], namespace: Mapping[str, Any]) -> str:
    """The name of the parameter that takes the Turn, "" for none; of functions whose other types don't matter."""
    try:
        hints = typing.get_type_hints(_annotated(function), localns=dict(namespace))
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError):  # a builtin, or types that only a checker sees
        return ""
    return next((name for name in parameters if _is_turn(name, hints.get(name, MISSING))), "")


def _is_turn(name: str, hint: Any) -> bool:
    if hint is MISSING:
        return name == "turn"
    return hint is Turn or Turn in get_args(hint)


def annotated_words(annotation: Any) -> str:
    """The words of `Annotated[..., "words"]`."""
    if get_origin(annotation) is not Annotated:
        return ""
    return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, str)), "")
