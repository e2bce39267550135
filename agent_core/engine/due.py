"""The list of what must be looked after: each message in an inbox has one entry in it, at the time it is for."""

from __future__ import annotations

import msgspec

from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Due, Pending, Run
from agent_core.messages import to_record
from agent_core.store.base import Delete, Key, Put, Write

ASK = "ask"
"""The kind of entry that has a person asked, where their message came from, what a run waits for."""


def asking(run: Run, delivery: Delivery, at: float) -> tuple[Key, Due]:
    """The entry that has a person asked."""
    due = msgspec.structs.replace(entry(run), kind=ASK, delivery=delivery)
    return keys.due(at, run.principal.tenant, run.id, suffix=f"/{ASK}"), due


def entry(run: Run) -> Due:
    """What the sweeper must know of a run."""
    principal = run.principal
    return Due(
        kind="run", tenant=principal.tenant, user=principal.user, session_id=run.session_id, run_id=run.id
    )


def moved(key: Key, item: Pending, run: Run, at: float) -> list[Write]:
    """The writes that have a run in an inbox, under this key, looked after at another time; its attempts count anew."""
    due = keys.due(at, run.principal.tenant, run.id)
    writes: list[Write] = [
        Put(key, to_record(msgspec.structs.replace(item, due=due.sort))),
        Put(due, to_record(entry(run))),
    ]
    if due.sort != item.due:
        writes.append(Delete(Key(keys.DUE, item.due)))
    return writes
