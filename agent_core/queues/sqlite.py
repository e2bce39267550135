"""Queues in one SQLite file, for one machine: safe over many processes, durable, nothing to install.

What was sent is on the disk when that is answered. Receives and deletes outlive any crash of a process; a power cut may
undo the latest of them, and then a message comes twice, as it may on any queue.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Sequence
from copy import copy
from pathlib import Path
from typing import TypeVar

from agent_core.clock import Clock
from agent_core.errors import StoreError
from agent_core.queues.base import (
    MAX_ENTRIES,
    Counts,
    Entry,
    Received,
    Rules,
    Sent,
    check_entries,
    check_receive,
    check_visibility,
)
from agent_core.queues.bell import Bell
from agent_core.queues.tables import BACKWARDS, NEXT, SCHEMA, Messages
from agent_core.sqlite.database import Database

R = TypeVar("R")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.2
"""Seconds between looks at the file while waiting; what this process sends is noticed at once."""

_SWEEP_SECONDS = 60.0
_REDRIVE_ROWS = 100
"""Dead letters moved in one transaction, so that others get their turn."""


class SqliteQueue:
    """All verbs over the file at `path`, made with its folder when first used. Queues of several names may share it."""

    def __init__(
        self, path: str | Path, clock: Clock, rules: Rules | None = None, *, busy_seconds: float = 10.0
    ) -> None:
        self.rules = rules or Rules()
        self.dead: SqliteQueue | None = None
        self._database = Database(path, SCHEMA, busy_seconds=busy_seconds)
        self._clock = clock
        self._bell = Bell()
        self._next_sweep = 0.0
        self._closed = False
        if self.rules.max_receives:
            self.dead = copy(self)  # the same file, under another name
            self.dead.rules = self.rules.for_dead()
            self.dead._bell = Bell()

    async def send(self, *entries: Entry) -> tuple[Sent, ...]:
        """Send 1 to 10 messages of 1 MiB in all, in order; what became of each."""
        check_entries(entries, self.rules)
        new_ids = [self._clock.new_id() for _ in entries]

        def work(messages: Messages) -> list[str]:
            return [messages.send(entry, new_id) for entry, new_id in zip(entries, new_ids, strict=True)]

        ids = await self._write(work, durable=True)
        self._bell.ring()
        await self._sweep()
        return tuple(Sent(id) for id in ids)

    async def receive(
        self, limit: int = MAX_ENTRIES, *, visibility_seconds: int | None = None, wait_seconds: int = 0
    ) -> tuple[Received, ...]:
        """Take up to `limit` messages, and hide them from others for a time."""
        visibility = self.rules.visibility_seconds if visibility_seconds is None else visibility_seconds
        check_receive(limit, visibility, wait_seconds)
        until = self._clock.monotonic() + wait_seconds
        pause = _FIRST_PAUSE
        await asyncio.sleep(
            0
        )  # a look at the file lets no other task pass, and many who look would let none ever
        with self._bell.listen() as ear:
            while True:
                due = await self._due()
                if due <= 0 and (taken := await self._take(limit, visibility)):
                    return taken
                left = until - self._clock.monotonic()
                if left <= 0:
                    return ()
                await ear.wait(min(left, pause, due if due > 0 else pause), self._clock)
                pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def delete(self, receipts: Sequence[str]) -> tuple[str, ...]:
        """Done with these messages. Returns the receipts that were refused."""

        def remove(messages: Messages, receipt: str) -> bool:
            row = messages.held(receipt)
            if row is not None:
                messages.remove(row)
            return row is not None

        return await self._each(receipts, remove)

    async def extend(self, receipts: Sequence[str], seconds: int) -> tuple[str, ...]:
        """Hide these messages for `seconds` more, counted from now; 0 hands them back at once."""
        check_visibility(seconds)

        def extend(messages: Messages, receipt: str) -> bool:
            row = messages.held(receipt)
            return row is not None and messages.extend(row, seconds)

        return await self._each(receipts, extend)

    async def bury(self, record: Received, reason: str) -> bool:
        """Move a message in hand to the dead-letter queue, for good reason."""
        dead = self._dead()

        def work(messages: Messages) -> bool:
            row = messages.held(record.receipt)
            if row is not None:
                messages.bury(row, reason)
            return row is not None

        buried = await self._write(work, durable=True)
        self._bell.ring()
        dead._bell.ring()
        return buried

    async def redrive(self, ids: Collection[str] = ()) -> int:
        """Send messages from the dead-letter queue back to this one."""
        self._dead()
        start = self._clock.now()
        total = 0
        while True:
            new_ids = [self._clock.new_id() for _ in range(_REDRIVE_ROWS)]

            def work(messages: Messages, new_ids: Sequence[str] = tuple(new_ids)) -> int:
                return messages.redrive(tuple(ids), start, new_ids)  # none of those that die again meanwhile

            moved = await self._write(work, durable=True)
            self._bell.ring()
            total += moved
            if moved < _REDRIVE_ROWS:
                return total

    async def counts(self) -> Counts:
        """About how many messages there are."""
        return await self._write(Messages.counts)

    async def oldest_seconds(self) -> float | None:
        """How long the oldest message has been here, in hands or not; 0 where there is none."""
        return await self._write(Messages.oldest_seconds)

    async def scrub(self) -> None:
        """Write the file anew and empty its log, so that nothing is left of what was deleted."""
        await self._database.scrub()

    async def close(self) -> None:
        """Finish what was asked for and let go of the file."""
        self._closed = True
        if self.dead is not None:
            self.dead._closed = True
            self.dead._bell.ring()
        self._bell.ring()
        await self._database.close()

    def _dead(self) -> SqliteQueue:
        if self.dead is None:
            raise StoreError(f"queue {self.rules.name} has no dead-letter queue")
        return self.dead

    async def _write(self, work: Callable[[Messages], R], *, durable: bool = False) -> R:
        if self._closed:
            raise StoreError(f"queue {self.rules.name} is closed")

        def begin(connection: sqlite3.Connection) -> R:
            return work(Messages(connection, self.rules, self._clock.now()))

        return await self._database.write(begin, durable=durable)

    async def _each(self, receipts: Sequence[str], act: Callable[[Messages, str], bool]) -> tuple[str, ...]:
        """Do it for each receipt; those that were refused."""

        def work(messages: Messages) -> tuple[str, ...]:
            return tuple(receipt for receipt in receipts if not act(messages, receipt))

        refused = await self._write(work)
        self._bell.ring()
        return refused

    async def _due(self) -> float:
        """Seconds until there may be something to take; 0 or less for now."""
        if self._closed:
            raise StoreError(f"queue {self.rules.name} is closed")
        [[latest, ready_at]] = await self._database.read(NEXT, (self.rules.name,))
        now = self._clock.now()
        if latest - now > BACKWARDS:
            return 0.0  # the clock was set back; a write takes care of that
        return float("inf") if ready_at is None else ready_at - now

    async def _take(self, limit: int, visibility: int) -> tuple[Received, ...]:
        receive_id = self._clock.new_id()
        taking = asyncio.ensure_future(
            self._write(lambda messages: messages.take(limit, visibility, receive_id))
        )
        try:
            return tuple(await asyncio.shield(taking))
        except asyncio.CancelledError:
            # It may be done already: then hand back what nobody will look at.
            if records := await taking:
                await self.extend([record.receipt for record in records], 0)
            raise

    async def _sweep(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_SECONDS
            if await self._write(Messages.sweep):
                self._next_sweep = now
