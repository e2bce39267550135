"""Wakes those in this process that wait for a message, so that a wait costs nothing while there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from agent_core.clock import Clock


class Ear:
    """One that waits. What rings between two waits is heard by the next."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard = asyncio.Event()

    def ring(self) -> None:
        """Wake it, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._heard.set)
        except RuntimeError:  # its loop was closed: nobody waits there any more
            return

    async def wait(self, seconds: float, clock: Clock) -> None:
        """Until the bell rings, at most so long."""
        heard = asyncio.ensure_future(self._heard.wait())
        slept = asyncio.ensure_future(clock.sleep(seconds))
        try:
            await asyncio.wait((heard, slept), return_when=asyncio.FIRST_COMPLETED)
        finally:
            heard.cancel()
            slept.cancel()
        self._heard.clear()


class Bell:
    """Rings when there may be something to receive."""

    def __init__(self) -> None:
        self._ears: set[Ear] = set()

    def ring(self) -> None:
        """Wake all that listen."""
        for ear in tuple(self._ears):
            ear.ring()

    @contextmanager
    def listen(self) -> Iterator[Ear]:
        """An ear that hears from now on: listen first, then look, then wait, and no message is missed."""
        ear = Ear()
        self._ears.add(ear)
        try:
            yield ear
        finally:
            self._ears.discard(ear)
