"""The Wire port: the one way out to the network for models, DynamoDB, SQS and Bedrock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import msgspec


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds to wait: for a connection, for the first byte of the answer's body, between two pieces, for the whole."""

    connect: float = 5.0
    first_byte: float = 60.0
    between_chunks: float = 30.0
    total: float = 300.0

    def whole(self) -> Timeouts:
        """For a service whose first byte comes when all its work is done: only the total counts."""
        return Timeouts(
            connect=self.connect, first_byte=self.total, between_chunks=self.total, total=self.total
        )


Repeat = Literal["", "safe", "on_error", "unsent"]
"""When a request may be sent again.

`safe`: it may be done twice. `on_error`: an error status says that it was not done or is not charged, silence says
nothing. `unsent`: only where it surely was not done. "": `safe` where HTTP calls the method idempotent, else `unsent`.
"""

DEFAULT_TIMEOUTS = Timeouts()


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP request; header names in lower case. `repeat` says when a RetryWire may send it again.

    `address` is the IP address to connect to, where the caller looked the URL's host up itself and checked it: no
    name is looked up again. The Host header, and the name that a certificate must show, stay the URL's.
    """

    method: str
    url: str
    headers: Mapping[str, str] = {}
    body: bytes = b""
    timeouts: Timeouts = DEFAULT_TIMEOUTS
    address: str = ""
    repeat: Repeat = ""


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """A whole HTTP answer of any status; header names in lower case."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class StreamedResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer whose body is still coming; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]

    async def read(self) -> bytes:
        """The rest of the body, for answers that turn out to be short (errors)."""
        return b"".join([chunk async for chunk in self.chunks])


class Wire(Protocol):
    """Send a request and get the answer, whole or in pieces, over pooled connections.

    An answer of any status is an answer. Everything else is a WireError: ConnectError, StalledError, CutError,
    ProtocolError.
    """

    async def send(self, request: Request) -> Response:
        """The whole answer."""

    def stream(self, request: Request) -> AbstractAsyncContextManager[StreamedResponse]:
        """The answer as it comes; leaving the context early closes the connection."""

    async def close(self) -> None:
        """Close all connections."""
