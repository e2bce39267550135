"""What those who watch a run in this process are told, as it happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from agent_core.engine.events import ended
from agent_core.engine.runs import Run, RunEvent


class Feed:
    """The events of one run, from its first. Followers may come late or leave early; the run does not care."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.run: Run | None = None
        self.error: BaseException | None = None
        self.left = False
        """Whether this process will see no more of the run: another one goes on with it."""
        self.wanted = False
        """Whether somebody wants the reply in pieces; without followers the model is not asked to stream."""
        self.awaited = False
        """Whether somebody in this process waits for the end."""
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def over(self) -> bool:
        """Whether the last event has come."""
        return self.left or self.run is not None or self.error is not None

    def emit(self, event: RunEvent) -> None:
        """Tell all followers."""
        if self.wanted:
            self.events.append(event)
            self.nudge()

    def finish(self, run: Run) -> None:
        """The run is over, or waits for a person; the last event carries it."""
        last = ended(run, run.steps)
        if last is not None:
            self.emit(last)
        self.run = run
        self.nudge()

    def fail(self, error: BaseException) -> None:
        """This process can't go on with the run; followers get the error."""
        self.error = error
        self.nudge()

    def leave(self) -> None:
        """The platform stops this process, so another one goes on with the run; followers end without its end."""
        self.left = True
        self.nudge()

    async def finished(self) -> Run | None:
        """The run at its end, None where it was left to another process; raises what `fail` was given."""
        while not self.over:
            await self.change()
        if self.error is not None:
            raise self.error
        return self.run

    async def follow(self) -> AsyncIterator[RunEvent]:
        """All events from the first, as they come."""
        told = 0
        while True:
            while told < len(self.events):
                told += 1
                yield self.events[told - 1]
            if self.error is not None:
                raise self.error
            if self.over:
                return
            await self.change()

    async def change(self) -> None:
        """Wait for the next event, end or nudge."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def nudge(self) -> None:
        """Have whoever waits look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
