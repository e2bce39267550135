"""Reading what the engine stored."""

from __future__ import annotations

import asyncio
import math

from agent_core.clock import Clock
from agent_core.costs.ledger import Ledger, ledger_record
from agent_core.engine import keys
from agent_core.engine.events import Piece
from agent_core.engine.runs import Run, Step
from agent_core.errors import NotFoundError
from agent_core.messages import Principal, from_record
from agent_core.store.base import Key, Store
from agent_core.store.records import readable, readable_or_none
from agent_core.store.shards import Shards

DAY = 86_400.0

MIXED_SECONDS = 2 * DAY
"""How long processes of an older version may have gone on after the first that spread the ledger."""

Place = tuple[str, str]
"""Where a run stands in the ledger: its time and its id."""

_NEWEST: Place | None = None
_AT_ONCE = 32


async def read_run(store: Store, tenant: str, run_id: str) -> tuple[Run, tuple[Step, ...]]:
    """A run and its journal by one query; raises NotFoundError."""
    run, steps, _ = await read_all(store, tenant, run_id)
    return run, steps


async def read_all(store: Store, tenant: str, run_id: str) -> tuple[Run, tuple[Step, ...], list[Piece]]:
    """A run, its journal and the pieces of a text that streams, by one query; raises NotFoundError."""
    run: Run | None = None
    steps: list[Step] = []
    pieces: list[Piece] = []
    after = ""
    while True:
        page = await store.query(keys.run(tenant, run_id), after=after, limit=1000)
        for record in page.records:
            if record.key.sort == keys.RUN:
                run = from_record(Run, record.fields)
            elif record.key.sort.startswith(keys.STEP):
                steps.append(from_record(Step, record.fields))
            elif record.key.sort.startswith(keys.PIECE):
                pieces.append(from_record(Piece, record.fields))
        after = page.after
        if not after:
            break
    if run is None:
        raise NotFoundError(f"there is no run {run_id}")
    return run, tuple(steps), pieces


async def recent_runs(
    store: Store,
    clock: Clock,
    shards: Shards,
    principal: Principal,
    *,
    limit: int,
    before: str = "",
    days: int = 30,
) -> list[Run]:
    """The caller's ended runs of the last days, newest first, found through the ledger: nobody else's are read."""
    at, place = clock.now(), _NEWEST
    if before:
        last, _ = await read_run(store, principal.tenant, before)
        if last.principal.user != principal.user:
            raise NotFoundError(f"there is no run {before}")
        at, place = (
            last.created_at,
            keys.ledger_place(keys.ledger(principal.tenant, last.created_at, before).sort),
        )
    first = await _first_run(store, principal)
    numbers, since = await shards.numbers(), await shards.since()
    back, width = 0, 1
    found: list[Run] = []
    while back < days and len(found) < limit:
        times = [
            at - ago * DAY for ago in range(back, min(back + width, days)) if at - ago * DAY >= first - DAY
        ]
        some = [
            _Day(store, principal, time, max(numbers), old=time - MIXED_SECONDS < since) for time in times
        ]
        for runs in await asyncio.gather(*(day.runs(place, limit) for day in some)):
            found += runs
        back, place = back + width, _NEWEST
        width = max(1, min(2 * width, _AT_ONCE // max(numbers)))
    return found[:limit]


async def _first_run(store: Store, principal: Principal) -> float:
    """Before this time the user has no runs: those of sessions that were erased are gone. Infinite where none is."""
    page = await store.query(keys.sessions(principal))
    made = [at for record in page.records if isinstance(at := record.fields.get("created_at"), float | int)]
    # A session is listed at the end of its first run, which may have waited for a person for days.
    return min(made, default=math.inf) - 7 * DAY


class _Day:
    """A user's runs of one day in the ledger, over its partitions and what older versions wrote beside them."""

    def __init__(self, store: Store, principal: Principal, at: float, shards: int, *, old: bool) -> None:
        self._store = store
        self._principal = principal
        self._at = at
        self._shards = shards
        self._old = old

    async def runs(self, before: Place | None, limit: int) -> list[Run]:
        """At most so many, newest first; those whose record has expired, or was erased, are passed over."""
        found: list[Run] = []
        while True:
            places = await self._places(before, limit)
            for stored in await asyncio.gather(*(self._store.get(self._key(place)) for place in places)):
                run = readable_or_none(Run, stored) if stored else None
                if run is not None and run.principal.user == self._principal.user:
                    found.append(run)
            if len(found) >= limit or len(places) < limit:
                return found
            before = places[-1]

    def _key(self, place: Place) -> Key:
        return Key(keys.run(self._principal.tenant, place[1]), keys.RUN)

    async def _places(self, before: Place | None, limit: int) -> list[Place]:
        partitions = keys.ledger_days(self._principal.tenant, self._at, self._shards)
        reads = [self._in_shard(partition, before, limit) for partition in partitions]
        if self._old:
            reads.append(self._in_old(partitions[0], before, limit))
        found = [place for places in await asyncio.gather(*reads) for place in places]
        return sorted(set(found), reverse=True)[:limit]

    async def _in_shard(self, partition: str, before: Place | None, limit: int) -> list[Place]:
        own = keys.ledger_of(self._principal.user)
        after = own + "/".join(before) if before else ""
        page = await self._store.query(partition, own, after=after, limit=limit, reverse=True)
        return [keys.ledger_place(record.key.sort) for record in page.records]

    async def _in_old(self, partition: str, before: Place | None, limit: int) -> list[Place]:
        start = self._at // DAY * DAY
        first, last = (f"{int(at * 1000):013d}" for at in (start, start + DAY))
        same = next(place for place in range(13) if first[place] != last[place])
        found: list[Place] = []
        after = "/".join(before) if before else ""
        while True:
            # What is spread begins with a user, not with a time of this day.
            page = await self._store.query(partition, first[:same], after=after, limit=1000, reverse=True)
            for record in page.records:
                own = record.fields.get("user") == self._principal.user
                if own and keys.OF_USER not in record.key.sort:
                    found.append(keys.ledger_place(record.key.sort))
            after = page.after
            if not after or len(found) >= limit:
                return found


async def bill_so_far(store: Store, run: Run) -> Ledger:
    """What a run that has not ended has cost, by its journal as far as that can be read."""
    steps: list[Step] = []
    after = ""
    while True:
        page = await store.query(keys.run(run.principal.tenant, run.id), keys.STEP, after=after, limit=1000)
        steps += readable(Step, page.records)
        after = page.after
        if not after:
            return ledger_record(run, steps)
