"""Reading what the engine stored, and erasing it."""

from __future__ import annotations

import msgspec

from agent_core.blobs.base import room
from agent_core.clock import Clock
from agent_core.costs.ledger import Ledger, ledger_record
from agent_core.engine import keys
from agent_core.engine.events import Piece
from agent_core.engine.kit import Kit
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.runs import Due, Head, Pending, Run, Step
from agent_core.errors import ConditionError, LeaseLostError, NotFoundError, SessionBusyError
from agent_core.messages import Message, Principal, from_record, to_record
from agent_core.security import audit
from agent_core.store.base import MAX_WRITES, Delete, Equals, Key, LoggedStore, Put, Store, Update

DAY = 86_400.0


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
    store: Store, clock: Clock, principal: Principal, limit: int, before: str, days: int = 30
) -> list[Run]:
    """The caller's ended runs of the last days, newest first, found through the ledger."""
    after = ""
    at = clock.now()
    if before:
        last, _ = await read_run(store, principal.tenant, before)
        if last.principal.user != principal.user:
            raise NotFoundError(f"there is no run {before}")
        at, after = last.created_at, keys.ledger(principal.tenant, last.created_at, before).sort
    found: list[Run] = []
    for back in range(days):
        partition = keys.ledger(principal.tenant, at - back * DAY, "").partition
        while len(found) < limit:
            page = await store.query(partition, after=after, limit=limit, reverse=True)
            for record in page.records:
                entry = from_record(Ledger, record.fields)
                stored = await store.get(Key(keys.run(principal.tenant, entry.run_id), keys.RUN))
                run = from_record(Run, stored.fields) if stored else None
                if run is not None and run.principal.user == principal.user and len(found) < limit:
                    found.append(run)
            after = page.after
            if not after:
                break
        after = ""
        if len(found) >= limit:
            break
    return found


async def erase_session(kit: Kit, principal: Principal, session_id: str, head: Head, lease: Lease) -> None:
    """Remove all that a session left, under its lease; the head goes last, so that a broken-off erasure goes on."""
    await _take(kit, lease)
    partition = keys.session(principal, session_id)
    runs: set[str] = set()
    doomed: list[Key] = []
    after = ""
    while True:
        page = await kit.store.query(partition, after=after, limit=1000)
        for record in page.records:
            if record.key.sort.startswith(keys.MESSAGE):
                runs.add(from_record(Message, record.fields).run_id)
            elif record.key.sort.startswith(keys.PENDING):
                item = from_record(Pending, record.fields)
                runs.add(item.run_id)
                doomed.append(Key(keys.DUE, item.due))
            if record.key.sort != keys.STATE:
                doomed.append(record.key)
        after = page.after
        if not after:
            break
    for run_id in runs:
        doomed = await _keys_of(kit.store, keys.run(principal.tenant, run_id)) + doomed
        doomed += await _keys_of(kit.store, keys.watchers(principal.tenant, run_id))
        doomed += [keys.dead(principal.tenant, run_id), keys.dead(principal.tenant, f"{run_id}/push")]
    doomed += await _due_of(kit.store, principal.tenant, runs)
    doomed = list(dict.fromkeys(doomed))
    if head.listed:
        doomed.append(Key(keys.sessions(principal), head.listed))
    await kit.blobs.erase(principal.tenant, room(principal, session_id))
    for run_id in runs:
        await _unname(kit, principal.tenant, run_id)
    try:
        for start in range(0, len(doomed), MAX_WRITES - 1):
            point("before erasure")
            batch = [Delete(key) for key in doomed[start : start + MAX_WRITES - 1]]
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


async def _unname(kit: Kit, tenant: str, run_id: str) -> None:
    """Take the session's name, which people may have chosen, out of the ledger; what the run cost stays."""
    record = await kit.store.get(Key(keys.run(tenant, run_id), keys.RUN))
    if record is None:
        return
    run = from_record(Run, record.fields)
    entry = keys.ledger(tenant, run.created_at, run_id)
    if not run.done:
        # What it has cost so far would stand there once it ended.
        bill = msgspec.structs.replace(await bill_so_far(kit.store, run), session_id="")
        await kit.store.write(Put(entry, to_record(bill)))
        return
    try:
        await kit.store.write(Update(entry, set={"session_id": ""}, when=(Equals("run_id", run_id),)))
    except ConditionError:
        pass  # there is none, which no version of ours leaves


async def bill_so_far(store: Store, run: Run) -> Ledger:
    """What a run that has not ended has cost, by its journal."""
    _, steps = await read_run(store, run.principal.tenant, run.id)
    return ledger_record(run, steps)


async def _due_of(store: Store, tenant: str, runs: set[str]) -> list[Key]:
    """What is due for these runs: replies to be pushed, questions to be asked; they hold addresses."""
    found: list[Key] = []
    after = ""
    while True:
        page = await store.query(keys.DUE, after=after, limit=1000)
        for record in page.records:
            due = from_record(Due, record.fields)
            if due.tenant == tenant and due.run_id in runs and due.kind != audit.KIND:
                found.append(record.key)
        after = page.after
        if not after:
            return found


async def _take(kit: Kit, lease: Lease) -> None:
    try:
        await kit.store.write(lease.taking(kit.clock.now()))
    except ConditionError as error:
        raise SessionBusyError("the session is answering a message; try again", retry_after=1.0) from error
    record = await kit.store.get(lease.head)
    lease.fence = from_record(Head, record.fields).fence if record is not None else 0


async def _keys_of(store: Store, partition: str) -> list[Key]:
    found: list[Key] = []
    after = ""
    while True:
        page = await store.query(partition, after=after, limit=1000)
        found += [record.key for record in page.records]
        after = page.after
        if not after:
            return found
