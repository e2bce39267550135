"""What models over HTTP share: one POST, whole or streamed, and every failure as one declared ModelError."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import msgspec

from agent_core.clock import Clock
from agent_core.errors import (
    ConnectError,
    ContextLengthError,
    CutError,
    ModelBusyError,
    ModelCutError,
    ModelError,
    ModelMalformedError,
    ModelRefusedError,
    ModelStalledError,
    StalledError,
    WireError,
)
from agent_core.messages import Chunk, Reply
from agent_core.models.length import overlong
from agent_core.wire.base import Request, StreamedResponse, Timeouts, Wire
from agent_core.wire.retry import retry_after

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises over text that is not the JSON it should be."""

_BUSY = frozenset({408, 409, 425, 429})
_REFUSALS = frozenset(
    {
        "authentication_error",
        "billing_error",
        "context_length_exceeded",
        "insufficient_quota",
        "invalid_api_key",
        "invalid_request_error",
        "not_found_error",
        "permission_error",
        "request_too_large",
    }
)
_LONGEST_MESSAGE = 500
_DRAIN_SECONDS = 0.1

E = TypeVar("E", bound=ModelError)
Body = Callable[[], dict[str, Any]]


class Reader(Protocol):
    """Puts a streamed answer together: bytes in, chunks out. Raises ModelErrors."""

    @property
    def done(self) -> bool:
        """Whether the end mark was read."""

    def feed(self, piece: bytes) -> list[Chunk]:
        """The chunks that this piece completes, without the last one."""

    def reply(self) -> Reply:
        """The whole reply. Raises ModelCutError where its end mark is missing."""


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """How one model reaches its provider. `key` is never shown, not even where the provider's message repeats it."""

    name: str
    url: str
    headers: Mapping[str, str]
    key: str
    wire: Wire
    timeouts: Timeouts
    clock: Clock

    def __repr__(self) -> str:
        return f"Caller({self.name} at {self.url})"  # without the key and the header it stands in

    async def reply(self, write: Body, read: Callable[[bytes], Reply]) -> Reply:
        """The whole reply that `read` makes of the answer's body. `write` makes the request's."""
        try:
            answer = await self.wire.send(self._request(write()))
            if not 200 <= answer.status < 300:
                raise failure(answer.status, answer.headers, answer.body, self.clock.now())
            return read(answer.body)
        except WireError as error:
            raise self.named(told(error)) from error
        except ModelError as error:
            raise self.named(error) from None

    async def stream(
        self, write: Body, reader: Reader, read: Callable[[bytes], Reply]
    ) -> AsyncIterator[Chunk]:
        """The chunks that the reader makes of the answer, the last one with the whole reply.

        Some servers answer whole although a stream was asked for: `read` reads that.
        """
        try:
            async with self.wire.stream(self._request(write())) as answer:
                if await self._is_whole(answer):
                    reply = read(await answer.read())
                    if reply.message.text:
                        yield Chunk(text=reply.message.text)
                else:
                    async for piece in answer.chunks:
                        for chunk in reader.feed(piece):
                            yield chunk
                        if reader.done:
                            await drain(answer.chunks)
                            break
                    reply = reader.reply()
        except WireError as error:
            raise self.named(told(error)) from error
        except ModelError as error:
            raise self.named(error) from None
        yield Chunk(reply=reply)

    async def _is_whole(self, answer: StreamedResponse) -> bool:
        """Whether the answer is no event stream. Raises where it is no answer of a model at all."""
        if not 200 <= answer.status < 300:
            raise failure(answer.status, answer.headers, await answer.read(), self.clock.now())
        kind = answer.headers.get("content-type", "")
        if kind.startswith("text/html"):
            raise malformed("a web page in place of an event stream")
        return kind.startswith("application/json")

    def _request(self, body: dict[str, Any]) -> Request:
        return Request(
            method="POST",
            url=self.url,
            headers={"content-type": "application/json", **self.headers},
            body=msgspec.json.encode(body),
            timeouts=self.timeouts,
        )

    def named(self, error: E) -> E:
        """The error with the model's name before its words, short and without the key."""
        words = error.detail.replace(self.key, "***") if self.key else error.detail
        words = words if len(words) <= _LONGEST_MESSAGE else words[:_LONGEST_MESSAGE] + "..."
        return type(error)(f"{self.name}: {words}", retry_after=error.retry_after)


def told(error: WireError) -> ModelError:
    """The ModelError that stands for a failure of the wire."""
    if isinstance(error, StalledError):
        return ModelStalledError(error.detail)
    if isinstance(error, CutError):
        return ModelCutError(error.detail)
    if isinstance(error, ConnectError):
        return ModelBusyError(error.detail)
    return ModelMalformedError(error.detail)


def failure(status: int, headers: Mapping[str, str], body: bytes, now: float) -> ModelError:
    """The error that an answer of a status other than 2xx means, in the provider's words."""
    words, code = error_words(decode_any(body))
    detail = f"status {status}: {words}" if words else f"status {status}"
    if (status >= 500 or status in _BUSY) and code != "insufficient_quota":
        return ModelBusyError(detail, retry_after=retry_after(headers, now))
    return refused(detail, code)


def refused(words: str, code: str = "") -> ModelRefusedError:
    """The error of a refusal: one of its own where the prompt was too long."""
    return ContextLengthError(words) if overlong(words, code) else ModelRefusedError(words)


def reported(error: Any) -> ModelError:
    """The error that a provider reports inside an answer of status 200."""
    words, code = error_words({"error": error})
    detail = words or "the provider reports an error"
    final = code in _REFUSALS or (
        code.isdigit() and 400 <= int(code[:9]) < 500 and int(code[:9]) not in _BUSY
    )
    return refused(detail, code) if final or overlong(detail, code) else ModelBusyError(detail)


def malformed(why: object) -> ModelMalformedError:
    """The error of an answer that is not in the provider's format."""
    return ModelMalformedError(f"the answer can't be read: {why}")


def cut() -> ModelCutError:
    """The error of a stream that ended without its end mark."""
    return ModelCutError("the stream ended before its end mark")


def error_words(body: Any) -> tuple[str, str]:
    """The message and the code (or type) of an error body, in any of the shapes providers use; "" where unknown."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return error, ""
    if not isinstance(error, dict):
        return "", ""
    words = next((error[key] for key in ("message", "detail", "error") if error.get(key)), "")
    code = next((str(error[key]) for key in ("code", "type") if error.get(key)), "")
    return words if isinstance(words, str) else msgspec.json.encode(words).decode(), code


def decode_any(body: bytes | str) -> Any:
    """The JSON value; None where it is none."""
    try:
        return msgspec.json.decode(body)
    except UNREADABLE:
        return None


async def drain(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the end mark, so that the connection can be used again; not for long."""
    with suppress(WireError, TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in chunks:
                pass
