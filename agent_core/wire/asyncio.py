"""AsyncioWire: the wire on asyncio alone, for functions: quick to load, and cheap per call."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from agent_core.errors import ConfigError, OversizeError
from agent_core.wire.base import Request, Response, StreamedResponse
from agent_core.wire.http1 import Connection, unconnected
from agent_core.wire.tls import shared_context
from agent_core.wire.waits import Waits

MAX_RESPONSE = 64 * 1024 * 1024
_IDLE_SECONDS = 30.0
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_TARGET = re.compile(r"[\x21-\x7e]+")


class AsyncioWire:
    """HTTP/1.1 over pooled keep-alive connections, one pool per event loop.

    A pool closes with its loop: a client that lives at module level goes on working when every invocation has a loop
    of its own (asyncio.run in a Lambda handler). `max_response` bounds the bytes of one answer (OversizeError).
    """

    def __init__(self, *, max_response: int = MAX_RESPONSE, max_connections: int = 1000) -> None:
        self._max_response = max_response
        self._max_connections = max_connections
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}

    async def send(self, request: Request) -> Response:
        """The whole answer."""
        pool, origin, connection, waits = await self._connect(request)
        try:
            status, headers = await self._ask(request, origin, connection, waits)
            size, parts = 0, []
            while part := await connection.piece():
                size = self._add(size, part, waits)
                parts.append(part)
        finally:
            await pool.give_back(origin, connection)
        return Response(status=status, headers=headers, body=b"".join(parts))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The answer as it comes; leaving the context early closes the connection."""
        pool, origin, connection, waits = await self._connect(request)
        try:
            status, headers = await self._ask(request, origin, connection, waits)
            chunks = self._pieces(connection, waits)
            try:
                yield StreamedResponse(status=status, headers=headers, chunks=chunks)
            finally:
                await chunks.aclose()
        finally:
            await pool.give_back(origin, connection)

    async def close(self) -> None:
        """Close the connections of the running loop; those of ended loops are closed already."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.keeper.aclose()

    async def _connect(self, request: Request) -> tuple[_Pool, Origin, Connection, Waits]:
        origin, _ = _target(request.url)
        if request.address:
            origin = origin._replace(address=request.address)
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop) or await self._make_pool(loop)
        waits = Waits(request.timeouts, origin.host, loop.time())
        return pool, origin, await pool.take(origin, waits), waits

    async def _ask(
        self, request: Request, origin: Origin, connection: Connection, waits: Waits
    ) -> tuple[int, dict[str, str]]:
        head = _head(request, origin)
        return await connection.ask(head, request.body, waits, bodiless=request.method == "HEAD")

    async def _pieces(self, connection: Connection, waits: Waits) -> AsyncGenerator[bytes]:
        size = 0
        while part := await connection.piece():
            size = self._add(size, part, waits)
            yield part

    def _add(self, size: int, part: bytes, waits: Waits) -> int:
        size += len(part)
        if size > self._max_response:
            raise OversizeError(f"{waits.host}: the answer is larger than {self._max_response} bytes")
        return size

    async def _make_pool(self, loop: asyncio.AbstractEventLoop) -> _Pool:
        for old in [old for old in self._pools if old.is_closed()]:
            del self._pools[old]
        pool = self._pools[loop] = _Pool(loop, self._max_connections)
        await anext(pool.keeper)
        return pool


class Origin(NamedTuple):
    """Where a connection leads to; `named` is how a request's Host header says it, `address` is set where it is pinned.

    Pools go by all of it: a connection to a checked address serves no request that was pinned to another one.
    """

    secure: bool
    host: str
    port: int
    named: str
    address: str = ""


class _Pool:
    """The connections of one loop: those in use, and those that wait for the next call, the latest used last."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._loop = loop
        self._room = asyncio.Semaphore(most)
        self._busy: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        self.keeper = self._keep()

    async def take(self, origin: Origin, waits: Waits) -> Connection:
        """A connection to the origin, for one exchange. Raises ConnectError, StalledError."""
        if self._room.locked():
            await self._wait_for_room(waits)
        else:
            await self._room.acquire()
        try:
            connection = self._unused(origin) or await self._open(origin, waits)
        except BaseException:
            self._room.release()
            raise
        self._busy.add(connection)
        return connection

    async def give_back(self, origin: Origin, connection: Connection) -> None:
        """Keep it for the next call, or drop it where no further exchange can follow."""
        self._busy.discard(connection)
        self._room.release()
        if connection.free and not self._loop.is_closed():
            connection.idle_since = self._loop.time()
            self._idle.setdefault(origin, []).append(connection)
        else:
            connection.abort()
            await connection.closed

    def _unused(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.usable and connection.idle_since > self._loop.time() - _IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _open(self, origin: Origin, waits: Waits) -> Connection:
        self._drop_stale()
        context = shared_context() if origin.secure else None
        try:
            async with asyncio.timeout_at(waits.connecting(self._loop.time())):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop),
                    origin.address or origin.host,
                    origin.port,
                    ssl=context,
                    server_hostname=origin.host if context else None,
                )
        except OSError as error:  # TimeoutError and the errors of TLS are such, too
            what = "secure connection" if context else "connection"
            raise unconnected(waits, error, self._loop.time(), what) from None
        return connection

    async def _wait_for_room(self, waits: Waits) -> None:
        try:
            async with asyncio.timeout_at(waits.connecting(self._loop.time())):
                await self._room.acquire()
        except TimeoutError:
            raise waits.stalled(self._loop.time(), connecting=True) from None

    def _drop_stale(self) -> None:
        """Where a new connection is made, those that nobody needed for long go."""
        oldest = self._loop.time() - _IDLE_SECONDS
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0].idle_since < oldest or not idle[0].usable):
                idle.pop(0).abort()
            if not idle:
                del self._idle[origin]

    async def _keep(self) -> AsyncGenerator[None]:
        """Closes the connections when it is closed: by us, or by a loop that ends (loop.shutdown_asyncgens)."""
        try:
            yield
        finally:
            left = [*self._busy, *(connection for idle in self._idle.values() for connection in idle)]
            self._idle.clear()
            for connection in left:
                connection.abort()
            for connection in left:
                await connection.closed


@lru_cache(maxsize=256)
def _target(url: str) -> tuple[Origin, str]:
    """Where the URL leads to, and what is asked for there."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{url!r} is no URL that can be called; it starts with https:// or http://"
        ) from None
    if not _TARGET.fullmatch(target) or not _TARGET.fullmatch(host):
        raise _forbidden(host)
    usual = 443 if parts.scheme == "https" else 80
    shown = f"[{host}]" if ":" in host else host
    named = shown + (f":{port}" if port and port != usual else "")
    return Origin(parts.scheme == "https", host, port or usual, named), target


def _head(request: Request, origin: Origin) -> bytes:
    if not _NAME.fullmatch(request.method):
        raise ConfigError(f"{request.method!r} is no HTTP method; GET and POST are")
    lines = [
        f"{request.method} {_target(request.url)[1]} HTTP/1.1",
        f"host: {origin.named}",
        "accept-encoding: identity",
    ]
    for name, value in request.headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _forbidden(origin.host)
        lines.append(f"{name}: {value}")
    if request.body or request.method not in _BODILESS:
        lines.append(f"content-length: {len(request.body)}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("ascii")


def _forbidden(host: str) -> ConfigError:
    # Without the header's own words: they may be a key.
    return ConfigError(f"{host}: the request's URL or a header has characters that HTTP forbids")
