"""Reading what a request brings: its body as JSON of a declared shape, its query."""

from __future__ import annotations

import asyncio
import re
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.types import Message

from agent_core.errors import InputError, MalformedError, MediaTypeError, SlowRequestError, TooLargeError
from agent_core.settings import Settings

T = TypeVar("T", bound=msgspec.Struct)

_JSON = re.compile(r"application/(?:json|[a-z0-9.!#$&^_-]+\+json)", re.IGNORECASE)
_UTF8 = ("utf-8", "utf8", "us-ascii")
_AT = re.compile(r"(?P<detail>.*) - at `(?P<path>.*)`", re.DOTALL)


class Disconnect(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


async def next_piece(request: Request, pause: float) -> Message:
    """The next piece of the body. Raises Disconnect, and SlowRequestError where it does not come for so long."""
    try:
        async with asyncio.timeout(pause):
            event = await request.receive()
    except TimeoutError:
        raise SlowRequestError(f"the body may pause for {pause:g} s") from None
    if event["type"] == "http.disconnect":
        raise Disconnect
    return event


async def read_json(request: Request, settings: Settings) -> bytes:
    """The body of a JSON request, of at most `max_body_bytes`, whether its length was declared or not."""
    _check_type(request)
    return await read_raw(request, settings)


async def read_raw(request: Request, settings: Settings) -> bytes:
    """The body as it came, of at most `limit` bytes, whether its length was declared or not."""
    limit = settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise TooLargeError(f"the body may have {limit} bytes, this one declares {declared}")
    pieces: list[bytes] = []
    size = 0
    while True:
        event = await next_piece(request, settings.body_seconds)
        piece: bytes = event.get("body", b"")
        size += len(piece)
        if size > limit:
            raise TooLargeError(f"the body may have {limit} bytes")
        pieces.append(piece)
        if not event.get("more_body", False):
            return b"".join(pieces) if len(pieces) > 1 else piece


def _check_type(request: Request) -> None:
    header = request.headers.get("content-type", "")
    kind, _, parameters = header.partition(";")
    if not _JSON.fullmatch(kind.strip()):
        raise MediaTypeError(
            f"the body must be JSON: send Content-Type: application/json, not {header[:100]!r}"
        )
    charset = re.search(r'charset\s*=\s*"?([^\s;"]+)', parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in _UTF8:
        raise MediaTypeError(f"JSON must be UTF-8, not {charset[1][:40]!r}")
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() not in ("", "identity"):
        raise MediaTypeError(f"the body must not be compressed: no Content-Encoding {coding[:40]!r}")


def decode(body: bytes, kind: type[T]) -> T:
    """The struct in the body. Raises MalformedError (not JSON) or InputError with the path of what is wrong."""
    try:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise
            return msgspec.convert(_whole(msgspec.json.decode(body)), kind)
    except msgspec.ValidationError as error:
        raise _invalid(error, kind) from None
    except msgspec.DecodeError as error:
        raise MalformedError(f"the body is not JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise MalformedError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise MalformedError("the body is nested too deeply") from None


def _whole(value: Any) -> Any:
    """The value with 2.0 as 2: to JSON Schema both are integers, and some languages write no other form."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole(item) for name, item in value.items()}
    return value


def stop_at(request: Request) -> float:
    """From when the platform may stop us, in seconds since 1970; 0 for never. Whoever calls the app puts it there."""
    at: float = request.scope.get("stop_at", 0.0)
    return at


def read_query(request: Request, kind: type[T]) -> T:
    """The query string as a struct of strings and numbers; each parameter at most once."""
    text: str = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError as error:
        raise InputError(f"the query can't be read: {error}", field="query") from None
    values = dict(pairs)
    if len(values) != len(pairs):
        raise InputError("a query parameter is given twice", field="query")
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        wrong = _invalid(error, kind)
        raise InputError(wrong.detail, field="query" + wrong.field.removeprefix("$")) from None


def _invalid(error: msgspec.ValidationError, kind: type) -> InputError:
    """msgspec's words and path as our error, with what would have been right."""
    # Loaded for a refused request alone: a cold start does not need it.
    from agent_core.api.hints import hint

    found = _AT.fullmatch(str(error))
    words, path = (found["detail"], found["path"]) if found else (str(error), "$")
    return InputError(words + hint(kind, path, words), field=path)
