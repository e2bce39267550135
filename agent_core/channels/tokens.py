"""Access tokens that a service gives for a while: fetched when first needed, renewed in time, and when refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent_core.clock import Clock
from agent_core.wire.base import Response

MARGIN_SECONDS = 300.0
"""How long before its end a token is renewed: a call must not find it ended on the way."""


class AccessToken:
    """A token of one app. `fetch` asks for a new one and gives it with the seconds that it holds."""

    def __init__(self, fetch: Callable[[], Awaitable[tuple[str, float]]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._value = ""
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def get(self) -> str:
        """The token, new where there is none that holds; raises what `fetch` raises."""
        async with self._lock:  # who comes together asks for one token, not for one each
            now = self._clock.now()
            if not self._value or now >= self._until:
                self._value, seconds = await self._fetch()
                self._until = now + max(seconds - MARGIN_SECONDS, seconds / 2)
            return self._value

    async def call(
        self, send: Callable[[str], Awaitable[Response]], stale: Callable[[Response], bool]
    ) -> Response:
        """An answer to a call with the token; where the service no longer knows it, once more with a new one."""
        token = await self.get()
        answer = await send(token)
        if not stale(answer):
            return answer
        if token == self._value:
            self._value = ""
        return await send(await self.get())
