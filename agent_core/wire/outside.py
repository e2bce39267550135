"""OutsideWire: a wire for addresses that others name. Each is checked, looked up once, and pinned.

A name is asked for once; the addresses that came are checked and the connection is made to one of them. So a name
server that answers differently the second time (DNS rebinding) has no second time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import replace

from agent_core.errors import ConnectError, StalledError
from agent_core.wire.base import Request, Response, StreamedResponse, Wire
from agent_core.wire.reach import Reach, is_loopback, is_public

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Gives all IP addresses of a host; raises OSError where there are none."""


async def system_resolver(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver gives, IPv4 and IPv6."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class OutsideWire:
    """A Wire that goes only where its Reach allows. Redirects are answers here as everywhere: whoever follows one
    sends a new request, which is checked anew. No proxy is taken from the environment.
    """

    def __init__(self, wire: Wire, reach: Reach, *, resolver: Resolver = system_resolver) -> None:
        self._wire = wire
        self._reach = reach
        self._resolver = resolver

    async def send(self, request: Request) -> Response:
        """The whole answer. Raises ForbiddenAddressError before anything is sent."""
        return await self._wire.send(await self._checked(request))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """The answer as it comes. Raises ForbiddenAddressError before anything is sent."""
        async with self._wire.stream(await self._checked(request)) as answer:
            yield answer

    async def close(self) -> None:
        """Close all connections."""
        await self._wire.close()

    async def _checked(self, request: Request) -> Request:
        """The same request in its normal form, pinned to an address that was checked."""
        place = self._reach.place(request.url)
        if is_public(place.host) or is_loopback(place.host):
            addresses: Sequence[str] = (place.host,)
        else:
            addresses = await self._resolve(place.host, place.port, request.timeouts.connect)
        return replace(request, url=place.url, address=self._reach.check_answer(place, addresses))

    async def _resolve(self, host: str, port: int, seconds: float) -> Sequence[str]:
        try:
            async with asyncio.timeout(seconds):
                return await self._resolver(host, port)
        except TimeoutError:
            raise StalledError(
                f"{host}: its address was not found within {seconds:g} s", timeout="connect"
            ) from None
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"{host}: its address was not found: {error}") from None
