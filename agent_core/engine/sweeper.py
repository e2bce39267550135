"""The sweeper: once a minute, whatever was left lying is queued again, and what can't be done is given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from agent_core.engine import keys
from agent_core.engine.accept import lease_of, take
from agent_core.engine.hooks import KIND as HOOK
from agent_core.engine.kit import Kit
from agent_core.engine.outbox import push_again
from agent_core.engine.points import point
from agent_core.engine.runs import Due, Head, Pending, Run
from agent_core.engine.worker import Worker
from agent_core.errors import AgentError, ConditionError, StoreError
from agent_core.messages import Principal, from_record
from agent_core.store.base import Delete, Equals, Key, Record, Update

log = logging.getLogger("sampan.sweeper")

MAX_ATTEMPTS = 5
"""How often a run is queued again before it is given up."""

PAGE = 100

MOST_NOTICES = 1000
"""Webhook notices that one sweep tells of; the others are the next one's."""

ENDPOINTS_AT_ONCE = 10

T = TypeVar("T")
Wake = Callable[[Principal, str], Awaitable[object]]


class Swept(msgspec.Struct, frozen=True):
    """What one sweep did: runs queued again, pushes tried, runs given up, others (batches, schedules) looked after."""

    resumed: int = 0
    pushed: int = 0
    given_up: int = 0
    others: int = 0


async def sweep(kit: Kit, wake: Wake) -> Swept:
    """Look after all that is due; costs one query where nothing is."""
    done = {"resumed": 0, "pushed": 0, "given_up": 0, "others": 0}
    notices: dict[tuple[str, str], list[tuple[Key, Due]]] = {}
    kept = 0
    after, more = "", True
    while more:
        page = await kit.store.query(keys.DUE, after=after, limit=PAGE)
        for record in page.records:
            if int(record.key.sort.split("/", 1)[0]) > kit.clock.now() * 1000:
                more = False
                break
            if record.fields.get("kind") == HOOK:
                # After all the others, as a dead endpoint may take its time to say nothing.
                due = from_record(Due, record.fields)
                if kept < MOST_NOTICES:
                    notices.setdefault((due.tenant, due.push_id), []).append((record.key, due))
                    kept += 1
                continue
            what = await _guarded(record.key, _look_after(kit, wake, record))
            if what:
                done[what] += 1
        after = page.after
        more = more and bool(after)
    done["others"] += await _tell(kit, notices)
    return Swept(**done)


async def _guarded(key: Key, work: Awaitable[T]) -> T | None:
    """What looking after an entry comes to; None where it can't be: that must not keep the others waiting."""
    try:
        return await work
    except StoreError:
        raise
    except AgentError as error:
        log.error("due=<%s> | can't be looked after: %s", key.sort, error)
    except Exception:  # the outermost boundary of an entry: a bug in one must not stop the others
        log.exception("due=<%s> | can't be looked after", key.sort)
    return None


async def _tell(kit: Kit, notices: dict[tuple[str, str], list[tuple[Key, Due]]]) -> int:
    """Tell endpoints what is due, some at once; one that fails is tried once in a sweep."""
    handler = kit.due.get(HOOK)
    if handler is None:
        return 0
    places = asyncio.Semaphore(ENDPOINTS_AT_ONCE)

    async def tell(waiting: list[tuple[Key, Due]]) -> int:
        tried = 0
        async with places:
            for key, due in waiting:
                tried += 1
                if not await _guarded(key, handler(key, due)):
                    break
        return tried

    return sum(await asyncio.gather(*(tell(waiting) for waiting in notices.values())))


async def _look_after(kit: Kit, wake: Wake, record: Record) -> str:
    due = from_record(Due, record.fields)
    principal = Principal(tenant=due.tenant, user=due.user)
    if due.kind == "push":
        return "pushed" if await push_again(kit, record.key, due) else ""
    if due.kind != "run":
        handler = kit.due.get(due.kind)
        if handler is not None:
            await handler(record.key, due)
        return "others" if handler else ""
    partition = keys.session(principal, due.session_id)
    head = await kit.store.get(Key(partition, keys.STATE))
    if head is not None and from_record(Head, head.fields).lease_until > kit.clock.now():
        return ""  # somebody works on it
    first = await kit.store.query(partition, keys.PENDING, limit=1)
    if not any(from_record(Pending, record.fields).run_id == due.run_id for record in first.records):
        await _leave_or_forget(kit, record, due)
        return ""
    point("before attempt")
    try:
        await kit.store.write(Update(record.key, add={"attempts": 1}, when=(Equals("run_id", due.run_id),)))
    except ConditionError:
        return ""  # it ended in this moment
    point("after attempt")
    if due.attempts < MAX_ATTEMPTS:
        await wake(principal, due.session_id)
        return "resumed"
    lease = lease_of(kit, principal, due.session_id)
    if not await take(kit, lease):
        return ""
    log.error("run=<%s>, session=<%s> | given up after %d attempts", due.run_id, due.session_id, due.attempts)
    await Worker(kit, principal, due.session_id, lease, {}, 0.0).give_up(due.run_id, due.attempts)
    await wake(principal, due.session_id)  # what came behind it waits no longer
    return "given_up"


async def _leave_or_forget(kit: Kit, record: Record, due: Due) -> None:
    """A run whose turn has not come is left to the one before it: no attempt at it was made, so none may count.

    An entry of a run that is over, or was erased, is removed.
    """
    run = await kit.store.get(Key(keys.run(due.tenant, due.run_id), keys.RUN))
    if run is None or from_record(Run, run.fields).done:
        await kit.store.write(Delete(record.key))
