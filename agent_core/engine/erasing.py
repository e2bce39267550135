"""Erasing a session: all that it left goes, what its runs cost stays."""

from __future__ import annotations

import msgspec

from agent_core.blobs.base import room
from agent_core.engine import keys
from agent_core.engine.accept import take
from agent_core.engine.kit import Kit
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.reading import bill_so_far
from agent_core.engine.runs import Head, Run
from agent_core.errors import ConditionError, LeaseLostError, SessionBusyError
from agent_core.messages import Principal, from_record, to_record
from agent_core.security import audit
from agent_core.store.base import (
    MAX_WRITES,
    Delete,
    Equals,
    Fields,
    Key,
    LoggedStore,
    Put,
    Record,
    Store,
    Update,
)
from agent_core.store.records import readable_or_none
from agent_core.store.shards import place


class Remains(msgspec.Struct):
    """What is left of a session: the keys in its partition, and its runs.

    `times` tells when a run may have been made, for one whose record has expired; `runs` holds those that have not.
    """

    keys: list[Key]
    times: dict[str, set[float]]
    runs: dict[str, Run]


async def erase_session(kit: Kit, principal: Principal, session_id: str, head: Head, lease: Lease) -> None:
    """Remove all that a session left, under its lease; the head goes last, so that a broken-off erasure goes on."""
    await _take(kit, lease)
    remains = await _remains(kit.store, principal, session_id)
    try:
        for forget in kit.forget:
            await forget(principal, tuple(remains.runs.values()))
    except SessionBusyError:
        await kit.store.write(lease.release())
        raise
    doomed = await _doomed(kit, principal, session_id, remains)
    if head.listed:
        doomed.append(Key(keys.sessions(principal), head.listed))
    await kit.blobs.erase(principal.tenant, room(principal, session_id))
    for run_id, times in remains.times.items():
        await _unname(kit, principal, run_id, remains.runs.get(run_id), times)
    try:
        for start in range(0, len(doomed), MAX_WRITES - 1):
            point("before erasure")
            batch = [Delete(key) for key in doomed[start : start + MAX_WRITES - 1]]
            await kit.store.write(lease.renewal(), *batch)
        erased = audit.entry(
            kit.clock,
            principal.tenant,
            "session.erased",
            by=principal.user,
            session_id=session_id,
            shards=kit.shards.number,
        )
        await kit.store.write(Delete(lease.head, when=lease.held), erased)
        point("after erasure")
    except ConditionError as error:
        raise LeaseLostError("another worker took over the session; erase it again") from error
    if isinstance(kit.store, LoggedStore):
        await kit.store.empty_log()


async def _take(kit: Kit, lease: Lease) -> None:
    if not await take(kit, lease):
        raise SessionBusyError("the session is answering a message; try again", retry_after=1.0)
    record = await kit.store.get(lease.head)
    lease.fence = from_record(Head, record.fields).fence if record is not None else 0


async def _remains(store: Store, principal: Principal, session_id: str) -> Remains:
    remains = Remains([], {}, {})
    after = ""
    while True:
        page = await store.query(keys.session(principal, session_id), after=after, limit=1000)
        for record in page.records:
            # Read as they are: one that this Sampan can't read must go all the same.
            run_id = str(record.fields.get("run_id", ""))
            if record.key.sort.startswith(keys.MESSAGE):
                at = record.fields.get("created_at", 0.0)
                remains.times.setdefault(run_id, set()).add(at if isinstance(at, float | int) else 0.0)
            elif record.key.sort.startswith(keys.PENDING):
                remains.times.setdefault(run_id, set())
                remains.keys += _entry(record.fields)
            if record.key.sort != keys.STATE:
                remains.keys.append(record.key)
        after = page.after
        if not after:
            break
    unread = list(remains.times)
    while unread:
        run_id = unread.pop()
        stored = await store.get(Key(keys.run(principal.tenant, run_id), keys.RUN))
        run = readable_or_none(Run, stored) if stored is not None else None
        if run is not None:
            remains.runs[run_id] = run
            # Their messages stand in the session under the run that answered them too.
            unread += [other for other in run.joined if other not in remains.times]
            remains.times.update({other: set() for other in run.joined if other not in remains.times})
    return remains


async def _doomed(kit: Kit, principal: Principal, session_id: str, remains: Remains) -> list[Key]:
    """The keys of all that goes but the head, those of the runs first: they are found by the messages."""
    tenant = principal.tenant
    doomed: list[Key] = []
    for run_id in remains.times:
        for record in await _records_of(kit.store, keys.run(tenant, run_id)):
            doomed.append(record.key)
            if record.key.sort.startswith(keys.NOTE):  # a reply to be pushed, a question to be asked
                doomed += _entry(record.fields)
        doomed += await _keys_of(kit.store, keys.watchers(tenant, run_id))
        doomed += [keys.dead(tenant, run_id), keys.dead(tenant, f"{run_id}/push")]
        if kit.hooks is not None:
            for record in await _records_of(kit.store, keys.hooks(tenant), keys.NOTICE + run_id):
                doomed += [record.key, *_entry(record.fields)]
    for record in await _records_of(kit.store, keys.outbox(principal, session_id)):
        doomed += [record.key, *_entry(record.fields)]
    for run in remains.runs.values():
        if run.channel in kit.deliverers:
            doomed += await _keys_of(kit.store, keys.sent(tenant, run.channel), run.id)
    return list(dict.fromkeys([*doomed, *remains.keys]))


def _entry(fields: Fields) -> list[Key]:
    """The entry in the list of what is due that a record names, if it does."""
    sort = fields.get("due")
    return [place(sort)] if isinstance(sort, str) and sort else []


async def _unname(kit: Kit, principal: Principal, run_id: str, run: Run | None, times: set[float]) -> None:
    """Take the session's name, which people may have chosen, out of the ledger; what the run cost stays."""
    user, shards = principal.user, kit.shards
    if run is not None and not run.done:
        # What it has cost so far would stand there once it ended.
        bill = msgspec.structs.replace(await bill_so_far(kit.store, run), session_id="")
        key = keys.ledger(principal.tenant, run.created_at, run_id, user=user, shards=shards.number)
        await kit.store.write(Put(key, to_record(bill)))
        return
    for created_at in times if run is None else (run.created_at,):
        entries = [
            keys.ledger(principal.tenant, created_at, run_id, user=user, shards=number)
            for number in await shards.numbers()
        ]
        for entry in dict.fromkeys([*entries, keys.ledger(principal.tenant, created_at, run_id)]):
            try:
                await kit.store.write(Update(entry, set={"session_id": ""}, when=(Equals("run_id", run_id),)))
            except ConditionError:
                pass  # it stands elsewhere, or there is none: it joined another run, was not made at this time


async def _records_of(store: Store, partition: str, prefix: str = "") -> list[Record]:
    found: list[Record] = []
    after = ""
    while True:
        page = await store.query(partition, prefix, after=after, limit=1000)
        found += page.records
        after = page.after
        if not after:
            return found


async def _keys_of(store: Store, partition: str, prefix: str = "") -> list[Key]:
    return [record.key for record in await _records_of(store, partition, prefix)]
