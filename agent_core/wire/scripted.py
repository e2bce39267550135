"""ScriptedWire: the wire's double. It gives the answers of its script and keeps the requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import msgspec

from agent_core.errors import CutError, StalledError, WireError
from agent_core.wire.base import Request, Response, StreamedResponse

STALL = StalledError("scripted: the answer paused", timeout="between_chunks")
"""In an answer's body: the server says nothing more."""

CUT = CutError("scripted: the answer ended before its end")
"""In an answer's body: the connection breaks."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a script. `body` is whole or in pieces; a WireError among the pieces is raised there."""

    body: bytes | tuple[bytes | WireError, ...] = b""
    status: int = 200
    headers: Mapping[str, str] = {}

    @property
    def pieces(self) -> tuple[bytes | WireError, ...]:
        """The body in pieces."""
        if isinstance(self.body, tuple):
            return self.body
        return (self.body,) if self.body else ()


class ScriptedWire:
    """Gives its answers one by one, whole or streamed as they are asked for; a WireError stands for no answer at all.

    A request with no answer left raises AssertionError; `assert_used_up()` raises it where answers are left over.
    """

    def __init__(self, script: Iterable[Answer | WireError] = ()) -> None:
        self.requests: list[Request] = []
        self.closed = False
        self.open_streams = 0
        self._script = list(script)

    @property
    def left(self) -> int:
        """How many answers have not been given yet."""
        return len(self._script)

    def add(self, *answers: Answer | WireError) -> None:
        """Answers after the ones that are left."""
        self._script += answers

    async def send(self, request: Request) -> Response:
        """The next answer."""
        answer = self._next(request)
        body = b"".join([piece async for piece in _pieces(answer)])
        return Response(status=answer.status, headers=answer.headers, body=body)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The next answer, in pieces."""
        answer = self._next(request)
        chunks = _pieces(answer)
        self.open_streams += 1
        try:
            yield StreamedResponse(status=answer.status, headers=answer.headers, chunks=chunks)
        finally:
            self.open_streams -= 1
            await chunks.aclose()

    async def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def assert_used_up(self) -> None:
        """Raise AssertionError where answers are left."""
        if self._script:
            raise AssertionError(
                f"{self.left} answers of the script were not used, next: {self._script[0]!r}"
            )

    def _next(self, request: Request) -> Answer:
        self.requests.append(request)
        if not self._script:
            raise AssertionError(f"the script is used up; request {len(self.requests)} went to {request.url}")
        answer = self._script.pop(0)
        if isinstance(answer, WireError):
            raise answer
        return answer


async def _pieces(answer: Answer) -> AsyncGenerator[bytes]:
    for piece in answer.pieces:
        if isinstance(piece, WireError):
            raise piece
        yield piece
