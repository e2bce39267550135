"""Where there is no queue, what the sweeper finds is worked on here: so many sessions at once, tenants by turns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from agent_core.errors import StoreError
from agent_core.messages import Principal

log = logging.getLogger("sampan.places")

AT_ONCE = 64
"""Sessions of a backlog that one process works on at the same time."""

Begin = Callable[[Principal, str], Awaitable[asyncio.Task[None] | None]]
Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Places:
    """The sessions of a backlog that this process will take up as soon as it has a place for them.

    It keeps nothing that could be lost: should it end before their turn, the sweeper finds them again.
    """

    def __init__(self, begin: Begin, spawn: Spawn, at_once: int = AT_ONCE) -> None:
        """`begin` takes a session up, None where somebody holds it; `spawn` has a coroutine run beside."""
        self._begin = begin
        self._spawn = spawn
        self._free = asyncio.Semaphore(at_once)
        self._waiting: dict[str, dict[tuple[str, str], Principal]] = {}
        self._seating = False

    async def add(self, principal: Principal, session_id: str) -> None:
        """Have a session taken up; one that waits already waits on in its place."""
        waiting = self._waiting.setdefault(principal.tenant, {})
        waiting.setdefault((principal.user, session_id), principal)
        if not self._seating:
            self._seating = True
            self._spawn(self._seat())

    async def _seat(self) -> None:
        try:
            while self._waiting:
                await self._free.acquire()
                task = None
                try:
                    task = await self._begin(*self._next())
                except StoreError as error:
                    log.warning("a session was not taken up, so left to the sweeper: %s", error)
                finally:
                    if task is None:
                        self._free.release()
                    else:
                        task.add_done_callback(lambda _: self._free.release())
        finally:
            self._seating = False
            self._waiting.clear()

    def _next(self) -> tuple[Principal, str]:
        """The session that waits longest of the tenant whose turn it is; the next time it is another's."""
        tenant = next(iter(self._waiting))
        waiting = self._waiting.pop(tenant)
        (_, session_id), principal = next(iter(waiting.items()))
        del waiting[principal.user, session_id]
        if waiting:
            self._waiting[tenant] = waiting
        return principal, session_id
