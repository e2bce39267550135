"""A store in memory: for tests, and for servers whose state may end with them."""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left, insort
from collections.abc import Mapping

from agent_core.clock import Clock
from agent_core.errors import StoreError
from agent_core.store.apply import Change, Row, bounds, decode, live, plan, prepare
from agent_core.store.base import (
    MAX_PAGE,
    Condition,
    Fields,
    Key,
    Page,
    Record,
    Scan,
    Update,
    Write,
    check_key,
    check_query,
)

_REMOVE = 10
"""Expired records that one write removes at most."""


class MemoryStore:
    """All four verbs over dicts of JSON, so that nobody shares state with it. For one event loop at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: dict[Key, Row] = {}
        self._sorts: dict[str, list[str]] = {}
        self._expiring: list[tuple[float, Key]] = []
        self._closed = False

    async def get(self, key: Key) -> Record | None:
        """The record under this key, or None."""
        check_key(key)
        await self._turn()
        row = live(self._rows.get(key), self._clock.now())
        return Record(key, decode(row.body), row.version) if row else None

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        """Records of one partition whose sort key begins with `prefix`, in order (or in reverse)."""
        check_query(partition, prefix, after, limit)
        await self._turn()
        sorts = self._sorts.get(partition, [])
        first, end = bounds(prefix, after, reverse)
        low = bisect_left(sorts, first)
        high = len(sorts) if end is None else bisect_left(sorts, end)
        records: list[Record] = []
        now, size = self._clock.now(), 0
        for place in range(high - 1, low - 1, -1) if reverse else range(low, high):
            row = live(self._rows[key := Key(partition, sorts[place])], now)
            if row is None:
                continue
            if len(records) == limit or size >= MAX_PAGE:
                return Page(tuple(records), after=records[-1].key.sort)
            records.append(Record(key, decode(row.body), row.version))
            size += len(row.body)
        return Page(tuple(records))

    async def write(self, *writes: Write) -> None:
        """Do all of 1 to 100 writes, or none."""
        prepared = prepare(writes)
        await self._turn()
        for change in plan(prepared, self._rows.get, self._clock.now()):
            self._change(change)
        self._sweep()

    async def add(
        self,
        key: Key,
        numbers: Mapping[str, int],
        *,
        expires_at: float | None = None,
        when: tuple[Condition, ...] = (),
    ) -> Fields:
        """Add to counters atomically and return all fields as they are then."""
        prepared = prepare([Update(key, add=numbers, when=when, expires_at=expires_at)])
        await self._turn()
        [change] = plan(prepared, self._rows.get, self._clock.now())
        self._change(change)
        self._sweep()
        return decode(change.row.body) if change.row else {}

    async def scan(self, *, after: Key | None = None) -> Scan:
        """Records of all partitions, also expired ones."""
        await self._turn()
        found: list[Record] = []
        size = 0
        for key in sorted(key for key in self._rows if after is None or key > after):
            if size >= MAX_PAGE:
                return Scan(tuple(found), found[-1].key)
            row = self._rows[key]
            found.append(Record(key, decode(row.body), row.version))
            size += len(row.body)
        return Scan(tuple(found))

    async def scrub(self) -> None:
        """Nothing is left of what was deleted."""
        await self._turn()

    async def close(self) -> None:
        """Refuse all further use."""
        self._closed = True

    async def _turn(self) -> None:
        # Every other store lets tasks pass here; without it, tests on this one would never see a race.
        await asyncio.sleep(0)
        if self._closed:
            raise StoreError("the store is closed")

    def _change(self, change: Change) -> None:
        key, row = change
        if row is None:
            if self._rows.pop(key, None) is not None:
                sorts = self._sorts[key.partition]
                del sorts[bisect_left(sorts, key.sort)]
                if not sorts:
                    del self._sorts[key.partition]
            return
        if key not in self._rows:
            insort(self._sorts.setdefault(key.partition, []), key.sort)
        if row.expires_at:
            heapq.heappush(self._expiring, (row.expires_at, key))
        self._rows[key] = row

    def _sweep(self) -> None:
        now = self._clock.now()
        for _ in range(_REMOVE):
            if not self._expiring or self._expiring[0][0] > now:
                return
            _, key = heapq.heappop(self._expiring)
            if key in self._rows and live(self._rows[key], now) is None:
                self._change(Change(key, None))
