"""Reading what the engine stored."""

from __future__ import annotations

from agent_core.clock import Clock
from agent_core.costs.ledger import Ledger, ledger_record
from agent_core.engine import keys
from agent_core.engine.events import Piece
from agent_core.engine.runs import BATCH, Pending, Run, Step
from agent_core.errors import ConditionError, NotFoundError
from agent_core.messages import Principal, from_record, to_record
from agent_core.store.base import Absent, Key, Put, Store

HOUR = 3600.0
DAY = 24 * HOUR


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
    return run, tuple(step for step in steps if not _of_another(step, run)), pieces


async def run_of(store: Store, key: Key, item: Pending) -> tuple[Run, tuple[Step, ...]]:
    """The run of a message in an inbox, and its journal. One whose record is gone is made anew from its message.

    Older Sampans let the record of a run expire that was still to be worked on; the message was accepted all the same.
    """
    tenant = item.inbound.principal.tenant
    try:
        return await read_run(store, tenant, item.run_id)
    except NotFoundError:
        run = made_anew(item, int(key.sort.split("/")[1]) / 1e6)
    try:
        await store.write(Put(Key(keys.run(tenant, run.id), keys.RUN), to_record(run), when=(Absent(),)))
    except ConditionError:
        return await read_run(store, tenant, item.run_id)
    return run, ()


def made_anew(item: Pending, created_at: float) -> Run:
    """The run of a message, as it was when this was accepted."""
    inbound = item.inbound
    return Run(
        id=item.run_id,
        session_id=inbound.session_id,
        agent=inbound.agent,
        principal=inbound.principal,
        status="queued",
        created_at=created_at,
        channel=inbound.channel,
        fingerprint=inbound.fingerprint,
        metadata=inbound.metadata,
        line=inbound.key if inbound.channel == BATCH else "",
    )


def _of_another(step: Step, run: Run) -> bool:
    """Whether a step is of an earlier run under the same key, whose record has expired: that outlives no step.

    Hosts' clocks may differ by minutes, and expiry takes days.
    """
    return 0 < max(step.started_at, step.finished_at) < run.created_at - HOUR


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


async def bill_so_far(store: Store, run: Run) -> Ledger:
    """What a run that has not ended has cost, by its journal."""
    _, steps = await read_run(store, run.principal.tenant, run.id)
    return ledger_record(run, steps)
