"""Sockets for httpcore straight on asyncio, where its own backend goes through anyio.

Three things are gained: a third less CPU per call, timeouts that know what they wait for (httpcore hands the
`timeout` of a request through untouched, and here it is a Waits), and what is no HTTP is told at its first byte.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from agent_core.errors import ConnectError, CutError, LostError, ProtocolError, StalledError
from agent_core.wire.waits import Waits

_HIGH_WATER = 256 * 1024
_START = b"HTTP/1."
PINNED = "|"
"""Between a host and the address it is pinned to. httpcore's pools go by host: so they go by the address, too."""


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """Connects; made for one event loop."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: Any = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A plain connection. `timeout` is the request's Waits. Raises ConnectError, StalledError."""
        loop = asyncio.get_running_loop()
        waits: Waits = timeout
        name, _, address = host.partition(PINNED)
        try:
            async with asyncio.timeout_at(waits.connecting(loop.time())):
                _, stream = await loop.create_connection(lambda: SocketStream(loop), address or name, port)
        except TimeoutError as error:
            raise _timed_out(loop, waits, error) from None
        except OSError as error:
            raise ConnectError(f"{waits.host}: no connection: {_reason(error)}") from None
        return stream


class SocketStream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection: a protocol below, httpcore's stream above."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = loop.create_future()
        self._ended = False
        self._error: BaseException | None = None
        self._reading = True
        self._writable: asyncio.Future[None] | None = None

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called again, with another one, when TLS starts."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Buffer the bytes; stop the flow where nobody takes them."""
        self._buffer += data
        if len(self._buffer) > _HIGH_WATER and self._reading:
            self._reading = False
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The peer has nothing more to say: the connection may go."""
        self._ended = True
        self._wake()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Whatever waits on this connection goes on and finds the end."""
        self._ended = True
        self._error = exc
        self.resume_writing()
        self._wake()
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """The peer takes our bytes slowly."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """There is room for more of our bytes."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What httpcore calls.

    async def read(self, max_bytes: int, timeout: Any = None) -> bytes:
        """Some bytes, or none at the end. `timeout` is the request's Waits."""
        waits: Waits = timeout
        if not self._buffer and not self._ended:
            self._waiter = self._loop.create_future()
            await self._wait(self._waiter, waits)
        if not self._buffer:
            waits.ended = True
            if self._error is not None:
                kind = CutError if waits.answered else LostError
                raise kind(f"{waits.host}: the connection broke: {_reason(self._error)}")
            return b""
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[:max_bytes]
        if not self._reading and len(self._buffer) < _HIGH_WATER // 2:
            self._reading = True
            self._transport.resume_reading()
        if not waits.received and not data.startswith(_START[: len(data)]):
            raise ProtocolError(f"{waits.host}: what came is not HTTP/1")
        waits.received += len(data)
        return data

    async def write(self, buffer: bytes, timeout: Any = None) -> None:
        """Hand over the bytes, and wait where too many are on their way. Raises httpcore.WriteError, StalledError."""
        if self._ended:
            # httpcore takes this one calmly: the peer may have answered before it hung up.
            raise httpcore.WriteError
        self._transport.write(buffer)
        if self._writable is not None:
            await self._wait(self._writable, timeout)

    async def _wait(self, future: asyncio.Future[None], waits: Waits) -> None:
        """Wait for the future till the request's deadline. One timer: asyncio.timeout costs four times as much."""
        timer = self._loop.call_at(waits.reading(self._loop.time()), _expire, future)
        try:
            await future
        except TimeoutError:
            raise waits.stalled(self._loop.time()) from None
        finally:
            timer.cancel()
            self._waiter = None

    async def aclose(self) -> None:
        """Drop the connection, and wait until the loop has let go of it."""
        self._transport.abort()
        await self._closed

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: Any = None
    ) -> httpcore.AsyncNetworkStream:
        """The same connection, encrypted. Raises ConnectError, StalledError."""
        waits: Waits = timeout
        try:
            async with asyncio.timeout_at(waits.connecting(self._loop.time())):
                self._transport = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError as error:
            self._transport.abort()
            raise _timed_out(self._loop, waits, error) from None
        except OSError as error:
            self._transport.abort()
            raise ConnectError(f"{waits.host}: no secure connection: {_reason(error)}") from None
        return self

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for: whether the peer hung up (or spoke unasked), and the TLS object."""
        if info == "is_readable":
            return self._ended or bool(self._buffer)
        return self._transport.get_extra_info(info)


def _expire(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())


def _timed_out(loop: asyncio.AbstractEventLoop, waits: Waits, error: OSError) -> ConnectError | StalledError:
    """A passed deadline, or the kernel's own ETIMEDOUT, which is a TimeoutError too."""
    if error.errno is not None:
        return ConnectError(f"{waits.host}: no connection: {_reason(error)}")
    return waits.stalled(loop.time(), connecting=True)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
    return text or type(error).__name__
