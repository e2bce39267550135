"""The list of what must be looked after: each message in an inbox has one entry in it, at the time it is for."""

from __future__ import annotations

import msgspec

from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Due, Pending, Run
from agent_core.messages import to_record
from agent_core.store.base import Delete, Key, Put, Write
from agent_core.store.shards import later, place

ASK = "ask"
"""The kind of entry that has a person asked, where their message came from, what a run waits for."""

NOTE_SECONDS = 30 * 86_400.0
"""How long a run knows where its entries are: longer than any of them is tried."""


def asking(run: Run, delivery: Delivery, at: float, shards: int = 1) -> tuple[Key, Due]:
    """The entry that has a person asked."""
    due = msgspec.structs.replace(entry(run), kind=ASK, delivery=delivery)
    return keys.due(at, run.principal.tenant, run.id, suffix=f"/{ASK}", shards=shards), due


def entry(run: Run) -> Due:
    """What the sweeper must know of a run."""
    principal = run.principal
    return Due(
        kind="run", tenant=principal.tenant, user=principal.user, session_id=run.session_id, run_id=run.id
    )


def moved(key: Key, item: Pending, run: Run, at: float) -> list[Write]:
    """The writes that have a run in an inbox, under this key, looked after at another time; its attempts count anew."""
    old = place(item.due or keys.due(at, run.principal.tenant, run.id).sort)
    due = later(old, at)
    writes: list[Write] = [
        Put(key, to_record(msgspec.structs.replace(item, due=due.sort))),
        Put(due, to_record(entry(run))),
    ]
    if due != old:
        writes.append(Delete(old))
    return writes


def noted(key: Key, due: Due, now: float) -> Put:
    """The note by which a run knows where this entry is: whoever erases it need not look through the whole list.

    Only of entries that hold an address, and live longer than their run: those of pushes and questions.
    """
    return Put(_note(due), {"v": 1, "due": key.sort}, expires_at=now + NOTE_SECONDS)


def unnoted(due: Due) -> Delete:
    """The entry is gone, and its note with it."""
    return Delete(_note(due))


def _note(due: Due) -> Key:
    return Key(keys.run(due.tenant, due.run_id), f"{keys.NOTE}{due.kind}/{due.push_id}")
