"""AiohttpWire: the wire over aiohttp, whose parser is compiled: slow to load, cheap per call, for servers."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

import aiohttp
from yarl import URL

from agent_core.errors import (
    ConfigError,
    ConnectError,
    CutError,
    LostError,
    OversizeError,
    ProtocolError,
    WireError,
)
from agent_core.wire.base import Request, Response, StreamedResponse
from agent_core.wire.tls import shared_context
from agent_core.wire.waits import TICK, Waits

MAX_RESPONSE = 64 * 1024 * 1024
_IDLE_SECONDS = 30.0
_LONGEST_HEADER = 64 * 1024
_SLICE = 256 * 1024
# What aiohttp would add unasked.
_ADDED = {"accept-encoding": "identity"}
_OURS = ("accept", "accept-encoding", "content-type", "user-agent")
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)


class AiohttpWire:
    """HTTP/1.1 over pooled keep-alive connections, one session per event loop, which closes with its loop.

    `max_response` bounds the bytes of one answer (OversizeError).
    """

    def __init__(self, *, max_response: int = MAX_RESPONSE, max_connections: int = 1000) -> None:
        self._max_response = max_response
        self._max_connections = max_connections
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}

    async def send(self, request: Request) -> Response:
        """The whole answer."""
        waits, answer = await self._open(request)
        try:
            body = b"".join([piece async for piece in self._pieces(waits, answer)])
        finally:
            answer.close()  # gives a connection whose answer was read to the end back to the pool
        return Response(status=answer.status, headers=_headers(answer), body=body)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The answer as it comes; leaving the context early closes the connection."""
        waits, answer = await self._open(request)
        chunks = self._pieces(waits, answer)
        try:
            yield StreamedResponse(status=answer.status, headers=_headers(answer), chunks=chunks)
        finally:
            await chunks.aclose()
            answer.close()

    async def close(self) -> None:
        """Close the connections of the running loop; those of ended loops are closed already."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.keeper.aclose()

    async def _open(self, request: Request) -> tuple[Waits, aiohttp.ClientResponse]:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop) or await self._make_session(loop)
        url, headers, body = _parse(request.url), {**_ADDED, **request.headers}, _body(request.body)
        if not all(map(str.isascii, headers.values())):
            raise _forbidden(url.raw_host or "")
        if isinstance(body, AsyncGenerator):
            headers["content-length"] = str(len(request.body))
        waits = Waits(request.timeouts, url.raw_host or "", loop.time())
        server = None
        if request.address:
            # aiohttp's pools go by address and by the name that the certificate must show.
            headers["host"], server = url.host_port_subcomponent or "", waits.host
            url = url.with_host(request.address)
        call = _Call(waits, asyncio.timeout_at(waits.connecting(loop.time())))
        _call.set(call)
        try:
            async with call.timer:
                answer = await session.client.request(
                    request.method,
                    url,
                    data=body,
                    headers=headers,
                    ssl=shared_context() if url.scheme == "https" else True,
                    server_hostname=server if url.scheme == "https" else None,
                    allow_redirects=False,
                )
        except TimeoutError as error:
            if error.errno is not None:
                if call.connected:
                    raise LostError(f"{waits.host}: the connection broke: {error.strerror}") from None
                raise ConnectError(f"{waits.host}: no connection: {error.strerror}") from None
            raise waits.stalled(loop.time(), connecting=not call.connected) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unopened(waits.host, error) from None
        return waits, answer

    async def _pieces(self, waits: Waits, answer: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        loop, size = asyncio.get_running_loop(), 0
        watch = _Watch(loop, answer.content)
        try:
            while True:
                watch.wait(waits.reading(loop.time()))
                piece = await answer.content.readany()
                watch.pause()
                if not piece:
                    return
                waits.began = True
                size += len(piece)
                if size > self._max_response:
                    raise OversizeError(f"{waits.host}: the answer is larger than {self._max_response} bytes")
                yield piece
        except _Overdue:
            raise waits.stalled(loop.time()) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _broken(waits.host, error) from None
        finally:
            watch.stop()

    async def _make_session(self, loop: asyncio.AbstractEventLoop) -> _Session:
        for old in [old for old in self._sessions if old.is_closed()]:
            del self._sessions[old]
        session = self._sessions[loop] = _Session(self._max_connections)
        await anext(session.keeper)
        return session


class _Overdue(Exception):
    """A wait for a piece took too long."""


class _Watch:
    """One timer for all waits for an answer's pieces: a stream has many, and hardly ever does one take too long.

    It is moved on by a number, and looks at it only when it fires.
    """

    __slots__ = ("_content", "_loop", "_timer", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, content: aiohttp.StreamReader) -> None:
        self._loop = loop
        self._content = content
        self._until = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, until: float) -> None:
        """From now on the reader is waited for, at most until then."""
        self._until = until
        if self._timer is None or until < self._timer.when():
            self.stop()
            self._timer = self._loop.call_at(until, self._look)

    def pause(self) -> None:
        """Nobody waits for the reader."""
        self._until = math.inf

    def stop(self) -> None:
        """Nobody will wait for the reader any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._until <= self._loop.time() + TICK:
            self._content.set_exception(_Overdue())
        elif self._until < math.inf:
            self._timer = self._loop.call_at(self._until, self._look)


class _Call:
    """One request on its way to a connection."""

    __slots__ = ("connected", "timer", "waits")

    def __init__(self, waits: Waits, timer: asyncio.Timeout) -> None:
        self.waits = waits
        self.timer = timer
        self.connected = False


_call: ContextVar[_Call] = ContextVar("_call")


class _Connector(aiohttp.TCPConnector):
    """Moves a call's timer on once its connection is there: from then on the wait is for the first byte.

    aiohttp would tell it by its tracing too, which makes every request a seventh dearer.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[aiohttp.tracing.Trace], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        """A connection from the pool, or a new one."""
        connection = await super().connect(req, traces, timeout)
        call = _call.get()
        call.connected = True
        call.timer.reschedule(call.waits.reading(asyncio.get_running_loop().time()))
        return connection


class _Session:
    """aiohttp's client for one loop."""

    def __init__(self, max_connections: int) -> None:
        self.client = aiohttp.ClientSession(
            connector=_Connector(limit=max_connections, keepalive_timeout=_IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_OURS,
            auto_decompress=False,
            timeout=_NO_TIMEOUT,
            max_line_size=_LONGEST_HEADER,
            max_field_size=_LONGEST_HEADER,
        )
        self.keeper = self._keep()

    async def _keep(self) -> AsyncGenerator[None]:
        """Closes the client when it is closed: by us, or by a loop that ends (loop.shutdown_asyncgens)."""
        try:
            yield
        finally:
            await self.client.close()


def _parse(url: str) -> URL:
    try:
        parsed = URL(url, encoded=True)
        if parsed.scheme in ("http", "https") and parsed.raw_host:
            return parsed
    except ValueError:
        pass
    raise ConfigError(f"{url!r} is no URL that can be called; it starts with https:// or http://")


def _headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): value.decode("utf-8", "surrogateescape")
        for name, value in answer.raw_headers
    }


def _body(body: bytes) -> bytes | AsyncGenerator[bytes] | None:
    """A large body in pieces: written at once, it would hold up the loop (aiohttp warns of it)."""
    return _sliced(body) if len(body) > _SLICE else body or None


async def _sliced(body: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(body), _SLICE):
        yield body[start : start + _SLICE]


def _forbidden(host: str) -> ConfigError:
    # Not the library's own words: they hold the header, which may be a key.
    return ConfigError(f"{host}: the request's URL or a header has characters that HTTP forbids")


def _unopened(host: str, error: Exception) -> WireError | ConfigError:
    """Why there was no answer."""
    if isinstance(error, aiohttp.ClientResponseError):
        return ProtocolError(f"{host}: what came is not HTTP: {_line(error.message)}")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return LostError(f"{host}: the connection closed before an answer")
    if isinstance(error, aiohttp.ClientConnectorError):
        return ConnectError(f"{host}: no connection: {error.os_error.strerror or error.os_error}")
    if isinstance(error, OSError):
        return LostError(f"{host}: the connection broke: {error.strerror or error}")
    return _forbidden(host)


def _broken(host: str, error: Exception) -> CutError | ProtocolError:
    """Why the body ended."""
    cause = error.__cause__
    if (
        isinstance(cause, aiohttp.http_exceptions.TransferEncodingError)
        and "Not enough data" not in cause.message
    ):
        return ProtocolError(f"{host}: what came is not HTTP: {_line(cause.message)}")
    return CutError(f"{host}: the answer ended before its end")


def _line(text: str) -> str:
    """The first line: aiohttp draws a picture below it."""
    return text.partition("\n")[0].rstrip(":")
