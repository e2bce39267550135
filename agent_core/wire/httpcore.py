"""HttpcoreWire: the wire over httpcore (https://www.encode.io/httpcore), small enough for a cold start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import httpcore

from agent_core.errors import ConfigError, CutError, LostError, OversizeError, ProtocolError
from agent_core.wire.base import Request, Response, StreamedResponse
from agent_core.wire.sockets import PINNED, AsyncioBackend
from agent_core.wire.tls import shared_context
from agent_core.wire.waits import Waits

MAX_RESPONSE = 64 * 1024 * 1024
_IDLE_SECONDS = 30.0
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


class HttpcoreWire:
    """HTTP/1.1 over pooled keep-alive connections, one pool per event loop.

    A pool closes with its loop: a client that lives at module level goes on working when every invocation has a loop
    of its own (asyncio.run in a Lambda handler). `max_response` bounds the bytes of one answer (OversizeError).
    """

    def __init__(self, *, max_response: int = MAX_RESPONSE, max_connections: int = 1000) -> None:
        self._max_response = max_response
        self._max_connections = max_connections
        self._pools: dict[asyncio.AbstractEventLoop, _Pools] = {}

    async def send(self, request: Request) -> Response:
        """The whole answer."""
        waits, answer = await self._open(request)
        size, parts = 0, []
        try:
            # The answer's own iterator, not _pieces(): one generator less on the way of every byte.
            async for part in answer.stream:  # type: ignore[union-attr]  # sync or async by type, async here
                waits.began = True
                size += len(part)
                if size > self._max_response:
                    raise _oversize(waits, self._max_response)
                parts.append(part)
        except httpcore.RemoteProtocolError as error:
            raise _broken(waits, error) from None
        finally:
            await answer.aclose()
        return Response(status=answer.status, headers=_headers(answer), body=b"".join(parts))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The answer as it comes; leaving the context early closes the connection."""
        waits, answer = await self._open(request)
        chunks = self._pieces(waits, answer)
        try:
            yield StreamedResponse(status=answer.status, headers=_headers(answer), chunks=chunks)
        finally:
            await chunks.aclose()
            await answer.aclose()

    async def close(self) -> None:
        """Close the connections of the running loop; those of ended loops are closed already."""
        pools = self._pools.pop(asyncio.get_running_loop(), None)
        if pools is not None:
            await pools.keeper.aclose()

    async def _open(self, request: Request) -> tuple[Waits, httpcore.Response]:
        """Send the request and read the head of the answer."""
        url, host = _target(request.url)
        loop = asyncio.get_running_loop()
        pools = self._pools.get(loop) or await self._make_pools(loop)
        name = url.host.decode()
        waits = Waits(request.timeouts, name, loop.time())
        if request.address:
            url = httpcore.URL(
                scheme=url.scheme, host=f"{name}{PINNED}{request.address}", port=url.port, target=url.target
            )
        outgoing = httpcore.Request(
            request.method,
            url,
            headers=_encode(request, host),
            content=request.body or None,
            extensions={
                "timeout": {
                    "connect": waits,
                    "read": waits,
                    "write": waits,
                    "pool": request.timeouts.connect,
                },
                "sni_hostname": name,
            },
        )
        try:
            answer = await pools.of(url).handle_async_request(outgoing)
        except httpcore.PoolTimeout:
            raise waits.stalled(loop.time(), connecting=True) from None
        except httpcore.LocalProtocolError:
            # Not the library's own words: they hold the header, which may be a key.
            raise ConfigError(
                f"{waits.host}: the request's URL or a header has characters that HTTP forbids"
            ) from None
        except httpcore.RemoteProtocolError as error:
            raise _broken(waits, error) from None
        waits.answered = True
        return waits, answer

    async def _pieces(self, waits: Waits, answer: httpcore.Response) -> AsyncGenerator[bytes]:
        size = 0
        try:
            async for part in answer.stream:  # type: ignore[union-attr]  # sync or async by type, async here
                waits.began = True
                size += len(part)
                if size > self._max_response:
                    raise _oversize(waits, self._max_response)
                yield part
        except httpcore.RemoteProtocolError as error:
            raise _broken(waits, error) from None

    async def _make_pools(self, loop: asyncio.AbstractEventLoop) -> _Pools:
        for old in [old for old in self._pools if old.is_closed()]:
            del self._pools[old]
        pools = self._pools[loop] = _Pools(self._max_connections)
        await anext(pools.keeper)
        return pools


class _Pools:
    """The connections of one loop: plain ones, and secure ones made when first asked for."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._plain: httpcore.AsyncConnectionPool | None = None
        self._secure: httpcore.AsyncConnectionPool | None = None
        self.keeper = self._keep()

    def of(self, url: httpcore.URL) -> httpcore.AsyncConnectionPool:
        """The pool for this URL's scheme."""
        if url.scheme == b"https":
            self._secure = self._secure or self._make(ssl_context=shared_context())
            return self._secure
        self._plain = self._plain or self._make()
        return self._plain

    def _make(self, **fields: Any) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            max_connections=self._max_connections,
            # No bound of its own for idle ones: httpcore would count the busy ones too, and close what is idle at once.
            max_keepalive_connections=None,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=AsyncioBackend(),
            **fields,
        )

    async def _keep(self) -> AsyncGenerator[None]:
        """Closes the pools when it is closed: by us, or by a loop that ends (loop.shutdown_asyncgens)."""
        try:
            yield
        finally:
            for pool in (self._plain, self._secure):
                if pool is not None:
                    with suppress(RuntimeError):  # answers still being read
                        await pool.aclose()


@lru_cache(maxsize=256)
def _target(url: str) -> tuple[httpcore.URL, bytes]:
    """The URL in httpcore's form, and its Host header."""
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna" if not url.isascii() else "ascii")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        secure = parts.scheme == "https"
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError
        parsed = httpcore.URL(
            scheme=parts.scheme.encode(),
            host=host,
            port=port or (443 if secure else 80),
            target=target.encode("ascii"),
        )
    except ValueError:
        raise ConfigError(
            f"{url!r} is no URL that can be called; it starts with https:// or http://"
        ) from None
    shown = b"[%b]" % host if b":" in host else host
    return parsed, shown + (b":%d" % port if port and port != (443 if secure else 80) else b"")


def _encode(request: Request, host: bytes) -> list[tuple[bytes, bytes]]:
    headers = [(b"host", host), (b"accept-encoding", b"identity")]
    try:
        headers += [(name.encode("ascii"), value.encode("ascii")) for name, value in request.headers.items()]
    except UnicodeEncodeError:
        raise ConfigError(f"{host.decode()}: a header has characters that HTTP forbids") from None
    if request.body or request.method not in _BODILESS:
        headers.append((b"content-length", b"%d" % len(request.body)))
    return headers


def _headers(answer: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in answer.headers}


def _broken(waits: Waits, error: Exception) -> CutError | LostError | ProtocolError:
    """What httpcore's error about the answer means: the peer hung up too early, or it does not speak HTTP."""
    if not waits.ended:
        return ProtocolError(f"{waits.host}: what came is not HTTP: {error}")
    if not waits.answered:
        return LostError(f"{waits.host}: the connection closed before an answer")
    return CutError(f"{waits.host}: the answer ended before its end")


def _oversize(waits: Waits, limit: int) -> OversizeError:
    return OversizeError(f"{waits.host}: the answer is larger than {limit} bytes")
