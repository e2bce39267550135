"""For state machines: a process that works on a store in memory, and may die at any of the engine's boundaries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from agent_core import Agent
from agent_core.app import App
from agent_core.engine.points import watch
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, test_app
from tests.durability.stage import Mortal

T = TypeVar("T")


class DiedError(Exception):
    """The process died in the middle of what it was asked for."""


class Life:
    """One store and one clock, and one process after the other on them."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._runner = asyncio.Runner()
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.deaths = 0
        self.dies_after = 0
        """Boundaries until the process dies; 0: it lives on."""
        self._start()

    def _start(self) -> None:
        self._mortal = Mortal(self.store)
        self.app: App = test_app(self._agent, store=self._mortal, clock=self.clock)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have the process do this and all that follows from it; raises DiedError where it died of it."""
        return self._runner.run(self._do(work))

    def look(self, work: Coroutine[Any, Any, T]) -> T:
        """Have this done by somebody who can't die."""
        return self._runner.run(work)

    def close(self) -> None:
        """End the loop."""
        self._runner.close()

    async def _do(self, work: Awaitable[T]) -> T:
        died = asyncio.Event()

        def kill(_: str) -> None:
            if self._mortal.dead:
                raise asyncio.CancelledError
            if self.dies_after:
                self.dies_after -= 1
                if self.dies_after == 0:
                    self._mortal.dead = True
                    died.set()
                    raise asyncio.CancelledError  # whatever was to come does not

        async def through() -> T:
            try:
                return await work
            finally:
                await self.app.engine.drain()

        watch(kill)
        doing, dying = asyncio.ensure_future(through()), asyncio.ensure_future(died.wait())
        try:
            await asyncio.wait({doing, dying}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch(None)
            dying.cancel()
        if not died.is_set():
            return doing.result()
        # What a task does in its `finally` reaches a dead process's store, too, and waits there until it is cancelled.
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.01)
        self.deaths += 1
        self._start()
        raise DiedError
