"""The sweeper: once a minute, whatever was left lying is looked after again.

Each entry stands for itself: one that can't be read or looked after, a silent receiver or a tenant's thousands hold up
no other. Runs come first, and never wait for what leads outside.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import TypeVar

import msgspec

from agent_core.engine import keys
from agent_core.engine.due import ASK
from agent_core.engine.hooks import KIND as HOOK
from agent_core.engine.kit import Kit
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.pushing import push_again
from agent_core.engine.runs import Due, Head, Pending, Run
from agent_core.errors import AgentError, ConditionError, StoreError
from agent_core.messages import Principal, from_record
from agent_core.store.base import AtMost, Delete, Equals, Key, Record, Update
from agent_core.store.records import readable_or_none
from agent_core.store.shards import time_of

log = logging.getLogger("sampan.sweeper")

PAGE = 1000
READ_AT_ONCE = 8
AT_ONCE = 16
"""Entries that are looked after at the same time: runs and what is like them, and again as many that lead outside."""

OUTSIDE_OF_TENANT = 4
"""Entries of one tenant among those that lead outside."""

OUTSIDE_SECONDS = 20.0
"""After this time a sweep begins nothing more that leads outside: the next one does, and sees to new runs first."""

FIRST_PAUSE = 60.0
LONGEST_PAUSE = 900.0
"""Seconds from one wake-up of a session that nobody takes up to the next: from the first, twice as long each time."""

FORGOTTEN_AT_ONCE = 10
"""Entries of one session that a sweep asks about, where none is of the first message of its inbox."""

_OUTSIDE = ("push", HOOK, ASK, "pairing", "batch")

T = TypeVar("T")
Wake = Callable[[Principal, str], Awaitable[object]]
Entry = tuple[Key, Due]


class Swept(msgspec.Struct, frozen=True):
    """What one sweep did: runs queued again, pushes tried, runs given up, others (batches, schedules) looked after."""

    resumed: int = 0
    pushed: int = 0
    given_up: int = 0
    others: int = 0


class Sweeper:
    """Looks after what is due, in all partitions of the list. `wake` has a session worked on, soon and by anybody."""

    def __init__(self, kit: Kit, wake: Wake) -> None:
        self._kit = kit
        self._wake = wake

    async def sweep(self, *, ahead: float = 0.0) -> Swept:
        """Look after all that is due; costs one query of each partition where nothing is.

        `ahead`: runs that are due in so many seconds, too. Raises StoreError where no partition can be read.
        """
        await self._kit.shards.remember()
        entries = await self._all_due(ahead)
        done: Counter[str] = Counter()
        inside: dict[Hashable, list[Entry]] = defaultdict(list)
        outside: dict[Hashable, list[Entry]] = defaultdict(list)
        for key, due in sorted(entries, key=lambda entry: time_of(entry[0].sort)):
            (outside if due.kind in _OUTSIDE else inside)[_lane(due)].append((key, due))
        until = self._kit.clock.monotonic() + OUTSIDE_SECONDS

        async def within(lane: list[Entry]) -> None:
            await self._inside(lane, done)

        async def without(lane: list[Entry]) -> None:
            await self._outside(lane, done, until)

        await asyncio.gather(
            _by_turns(inside.values(), within, AT_ONCE),
            _by_turns(outside.values(), without, OUTSIDE_OF_TENANT),
        )
        return Swept(**{field: done[field] for field in Swept.__struct_fields__})

    async def _all_due(self, ahead: float) -> list[Entry]:
        places = asyncio.Semaphore(READ_AT_ONCE)
        failed: list[StoreError] = []

        async def read(partition: str) -> list[Entry]:
            async with places:
                try:
                    return await self._due_in(partition, ahead)
                except StoreError as error:
                    log.error("due=<%s> | can't be read, its entries wait: %s", partition, error)
                    failed.append(error)
                    return []

        partitions = await self._kit.shards.partitions()
        found = await asyncio.gather(*map(read, partitions))
        if len(failed) == len(partitions):
            raise failed[0]
        return [entry for entries in found for entry in entries]

    async def _due_in(self, partition: str, ahead: float) -> list[Entry]:
        found: list[Entry] = []
        after = ""
        while True:
            page = await self._kit.store.query(partition, after=after, limit=PAGE)
            for record in page.records:
                try:
                    early = time_of(record.key.sort) - self._kit.clock.now()
                except ValueError:
                    log.error("due=<%s> | has no time, so is left as it is", record.key.sort)
                    continue
                if early > ahead:
                    return found
                due = readable_or_none(Due, record)
                if due is not None and (early <= 0 or due.kind == "run"):
                    found.append((record.key, due))
            after = page.after
            if not after:
                return found

    async def _inside(self, lane: list[Entry], done: Counter[str]) -> None:
        key, due = lane[0]
        if due.kind == "run":
            woken = await _guarded(key, self._session(lane))
            if woken:
                done[woken] += 1
            return
        for key, due in lane:
            handled = await _guarded(key, self._handled(key, due))
            done["others"] += handled is not None

    async def _outside(self, lane: list[Entry], done: Counter[str], until: float) -> None:
        for key, due in lane:
            if self._kit.clock.monotonic() > until:
                return
            if due.kind == "push":
                pushed = await _guarded(key, push_again(self._kit, key, due))
                done["pushed"] += bool(pushed)
                continue
            handled = await _guarded(key, self._handled(key, due))
            done["others"] += handled is not None
            if due.kind == HOOK and not handled:
                return  # an endpoint that fails is tried once in a sweep

    async def _handled(self, key: Key, due: Due) -> bool | None:
        """What a higher floor has said of it, True where that was nothing; None where there is none for its kind."""
        handler = self._kit.due.get(due.kind)
        if handler is None:
            return None
        return await handler(key, due) is not False

    async def _session(self, entries: list[Entry]) -> str:
        """Have a session worked on whose messages nobody answers; what that is called in `Swept`, "" for nothing.

        Its first message alone wakes it: the others are answered with it, as soon as it is their turn.
        """
        now = self._kit.clock.now()
        due = entries[0][1]
        principal = Principal(tenant=due.tenant, user=due.user)
        partition = keys.session(principal, due.session_id)
        record = await self._kit.store.get(Key(partition, keys.STATE))
        head = from_record(Head, record.fields) if record is not None else Head()
        if record is not None and head.held:
            if not await self._freed(record):
                return ""  # somebody works on it
        elif any(now < each.again_at <= now + LONGEST_PAUSE for _, each in entries):
            return ""  # it was woken, and waits for a worker
        page = await self._kit.store.query(partition, keys.PENDING, limit=1)
        first = next((from_record(Pending, record.fields).run_id for record in page.records), "")
        for key, due in entries:
            if due.run_id == first:
                if not await self._marked(key, due, head.fence):
                    return ""
                await self._wake(principal, due.session_id)
                return "given_up" if head.takes >= self._kit.max_attempts else "resumed"
        for key, due in entries[:FORGOTTEN_AT_ONCE]:
            await _guarded(key, self._leave_or_forget(key, due))
        return ""

    async def _freed(self, record: Record) -> bool:
        """Free a session whose holder is gone, so that any worker may take it."""
        if not self._kit.sightings.abandoned(record.key, record.fields):
            return False
        lease = Lease(self._kit.clock, record.key, self._kit.lease_seconds)
        try:
            await self._kit.store.write(lease.freeing(record.fields))
        except ConditionError:
            return False
        self._kit.sightings.forget(record.key)
        return True

    async def _marked(self, key: Key, due: Due, fence: int) -> bool:
        """Note in the entry that its session is woken now; False where another process did in this moment."""
        wakes = due.wakes if due.fence == fence else 0  # else somebody took it up since: it is no backlog
        fields = {
            "wakes": wakes + 1,
            "again_at": self._kit.clock.now() + min(FIRST_PAUSE * 2 ** min(wakes, 10), LONGEST_PAUSE),
            "fence": fence,
        }
        point("before attempt")
        try:
            still = (Equals("run_id", due.run_id), AtMost("again_at", due.again_at))
            await self._kit.store.write(Update(key, set=fields, when=still))
        except ConditionError:
            return False
        point("after attempt")
        return True

    async def _leave_or_forget(self, key: Key, due: Due) -> None:
        """A run whose turn has not come is left to the one before it; the entry of one that is over goes."""
        run = await self._kit.store.get(Key(keys.run(due.tenant, due.run_id), keys.RUN))
        if run is None or from_record(Run, run.fields).done:
            await self._kit.store.write(Delete(key))


async def _guarded(key: Key, work: Awaitable[T]) -> T | None:
    """What looking after an entry comes to; None where it can't be: that must not keep the others waiting."""
    try:
        return await work
    except AgentError as error:
        log.error("due=<%s> | can't be looked after: %s", key.sort, error)
    except Exception:  # the outermost boundary of an entry: a bug in one must not stop the others
        log.exception("due=<%s> | can't be looked after", key.sort)
    return None


def _lane(due: Due) -> Hashable:
    """What must be looked after one by one: a session's messages, what goes to one receiver, a tenant's log."""
    if due.kind == "run":
        return due.kind, due.tenant, due.user, due.session_id
    if due.kind == HOOK:
        return due.kind, due.tenant, due.push_id
    if due.delivery is not None:
        return due.kind, due.tenant, due.delivery.kind, due.delivery.address
    return (due.kind, due.tenant, due.run_id)


async def _by_turns(
    lanes: Iterable[list[Entry]], work: Callable[[list[Entry]], Awaitable[None]], of_tenant: int
) -> None:
    """Work on some lanes at the same time, tenants by turns, on no more than so many of one tenant."""
    waiting: dict[str, deque[list[Entry]]] = {}
    for lane in lanes:
        waiting.setdefault(lane[0][1].tenant, deque()).append(lane)
    busy: Counter[str] = Counter()

    async def one_after_the_other() -> None:
        # Where all that wait are at their bound, those who work on them go on with them: this one is not needed.
        while (tenant := next((one for one in waiting if busy[one] < of_tenant), None)) is not None:
            mine = waiting.pop(tenant)
            lane = mine.popleft()
            if mine:
                waiting[tenant] = mine  # at the end: now it is the others' turn
            busy[tenant] += 1
            try:
                await work(lane)
            finally:
                busy[tenant] -= 1

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
