"""Erasing a session: all that it left goes, what its runs cost stays."""

from __future__ import annotations

import msgspec

from agent_core.blobs.base import room
from agent_core.engine import keys
from agent_core.engine.kit import Kit
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.reading import bill_so_far
from agent_core.engine.runs import Due, Head, Pending, Run
from agent_core.errors import ConditionError, LeaseLostError, SessionBusyError
from agent_core.messages import Message, Principal, from_record, to_record
from agent_core.security import audit
from agent_core.store.base import Delete, Equals, Key, LoggedStore, Put, Store, Update
from agent_core.store.pieces import beside

_AT_ONCE = 25
"""Records that one transaction removes: together they are within what it may take."""


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
        await kit.store.write(Update(lease.head, set={"lease_until": 0.0}, when=lease.held))
        raise
    doomed = await _doomed(kit, principal, session_id, remains)
    if head.listed:
        doomed.append(Key(keys.sessions(principal), head.listed))
    await kit.blobs.erase(principal.tenant, room(principal, session_id))
    for run_id, times in remains.times.items():
        await _unname(kit, principal.tenant, run_id, remains.runs.get(run_id), times)
    try:
        if head.summary:
            # The head goes last and must be readable until then: nothing of it may stand among what goes before.
            await kit.store.write(
                Update(lease.head, set={"summary": "", "covered": 0, "sources": []}, when=lease.held)
            )
        for start in range(0, len(doomed), _AT_ONCE):
            point("before erasure")
            batch = [Delete(key) for key in doomed[start : start + _AT_ONCE]]
            await kit.store.write(lease.renewal(kit.clock.now()), *batch)
        erased = audit.entry(
            kit.clock, principal.tenant, "session.erased", by=principal.user, session_id=session_id
        )
        await kit.store.write(Delete(lease.head, when=lease.held), erased)
        point("after erasure")
    except ConditionError as error:
        raise LeaseLostError("another worker took over the session; erase it again") from error
    if isinstance(kit.store, LoggedStore):
        await kit.store.empty_log()


async def _take(kit: Kit, lease: Lease) -> None:
    try:
        await kit.store.write(lease.taking(kit.clock.now()))
    except ConditionError as error:
        raise SessionBusyError("the session is answering a message; try again", retry_after=1.0) from error
    record = await kit.store.get(lease.head)
    lease.fence = from_record(Head, record.fields).fence if record is not None else 0


async def _remains(store: Store, principal: Principal, session_id: str) -> Remains:
    remains = Remains([], {}, {})
    after = ""
    while True:
        page = await store.query(keys.session(principal, session_id), after=after, limit=1000)
        for record in page.records:
            if record.key.sort.startswith(keys.MESSAGE):
                message = from_record(Message, record.fields)
                remains.times.setdefault(message.run_id, set()).add(message.created_at)
            elif record.key.sort.startswith(keys.PENDING):
                item = from_record(Pending, record.fields)
                remains.times.setdefault(item.run_id, set())
                remains.keys.append(Key(keys.DUE, item.due))
            if record.key.sort != keys.STATE:
                remains.keys.append(record.key)
        after = page.after
        if not after:
            break
    unread = list(remains.times)
    while unread:
        run_id = unread.pop()
        stored = await store.get(Key(keys.run(principal.tenant, run_id), keys.RUN))
        if stored is not None:
            run = remains.runs[run_id] = from_record(Run, stored.fields)
            # Their messages stand in the session under the run that answered them too.
            unread += [other for other in run.joined if other not in remains.times]
            remains.times.update({other: set() for other in run.joined if other not in remains.times})
    return remains


async def _doomed(kit: Kit, principal: Principal, session_id: str, remains: Remains) -> list[Key]:
    """The keys of all that goes but the head, those of the runs first: they are found by the messages."""
    tenant = principal.tenant
    doomed: list[Key] = []
    places = [(keys.session(principal, session_id), "")]
    for run_id in remains.times:
        places += [(keys.run(tenant, run_id), ""), (keys.dead(tenant, "").partition, run_id)]
        doomed += await _keys_of(kit.store, keys.run(tenant, run_id))
        doomed += await _keys_of(kit.store, keys.watchers(tenant, run_id))
        doomed += [keys.dead(tenant, run_id), keys.dead(tenant, f"{run_id}/push")]
    for run in remains.runs.values():
        if run.channel in kit.deliverers:
            doomed += await _keys_of(kit.store, keys.sent(tenant, run.channel), run.id)
        if kit.hooks is not None:
            doomed += await _keys_of(kit.store, keys.hooks(tenant), keys.NOTICE + run.id)
            places.append((keys.hooks(tenant), keys.NOTICE + run.id))
    doomed += await _due_of(kit.store, tenant, set(remains.times))
    doomed += remains.keys
    # After the records themselves, which can't be read without it: what was moved out of them.
    for partition, prefix in places:
        doomed += await _keys_of(kit.store, beside(partition), prefix)
    return list(dict.fromkeys(doomed))


async def _unname(kit: Kit, tenant: str, run_id: str, run: Run | None, times: set[float]) -> None:
    """Take the session's name, which people may have chosen, out of the ledger; what the run cost stays."""
    if run is not None and not run.done:
        # What it has cost so far would stand there once it ended.
        bill = msgspec.structs.replace(await bill_so_far(kit.store, run), session_id="")
        await kit.store.write(Put(keys.ledger(tenant, run.created_at, run_id), to_record(bill)))
        return
    for created_at in times if run is None else (run.created_at,):
        entry = keys.ledger(tenant, created_at, run_id)
        try:
            await kit.store.write(Update(entry, set={"session_id": ""}, when=(Equals("run_id", run_id),)))
        except ConditionError:
            pass  # none: it joined another run, or was not made at this time


async def _due_of(store: Store, tenant: str, runs: set[str]) -> list[Key]:
    """What is due for these runs: replies to be pushed, questions to be asked, notices; they hold addresses."""
    found: list[Key] = []
    after = ""
    while True:
        page = await store.query(keys.DUE, after=after, limit=1000)
        for record in page.records:
            due = from_record(Due, record.fields)
            # A notice's id is that of its run, with more behind a dot.
            run_id = due.run_id.partition(".")[0]
            if due.tenant == tenant and run_id in runs and due.kind != audit.KIND:
                found.append(record.key)
        after = page.after
        if not after:
            return found


async def _keys_of(store: Store, partition: str, prefix: str = "") -> list[Key]:
    found: list[Key] = []
    after = ""
    while True:
        page = await store.query(partition, prefix, after=after, limit=1000)
        found += [record.key for record in page.records]
        after = page.after
        if not after:
            return found
