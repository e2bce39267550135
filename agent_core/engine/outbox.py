"""The outbox: replies that are pushed to somebody, at least once, under an id that stays the same.

Each has an entry in the list of what is due, and a place in the line of its conversation (session, kind and address
of its delivery): `<tenant>/outbox/<user>/<session>`, sorted as the messages came. Only the first of a line is tried;
who is done with it goes on with the next. Whoever tries one has claimed it, by moving its entry, and keeps the claim
meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
from typing import NamedTuple

import msgspec

from agent_core.engine import keys
from agent_core.engine.claims import name_of
from agent_core.engine.dead import dead_letter
from agent_core.engine.due import NOTE_SECONDS, entry, noted, unnoted
from agent_core.engine.kit import Kit
from agent_core.engine.runs import Delivery, Due, Run
from agent_core.errors import ConditionError
from agent_core.messages import Principal, from_record, to_record
from agent_core.store.base import AtMost, Condition, Delete, Equals, Key, Put, Write
from agent_core.store.shards import later, place, time_of

log = logging.getLogger("sampan.outbox")

SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds from one try to the next: the schedule that Standard Webhooks recommends."""

ABANDONED_SECONDS = sum(SCHEDULE)
"""After so long with no process here that has its channel, a push is given up."""

WAIT_SECONDS = (60.0, 300.0)
"""How soon, and how late, one that waits in its line is looked at again, in case whoever was to go on with it died."""


class Place(NamedTuple):
    """A place in a line, and the sort key of the entry whose place it is."""

    order: str
    due: str


def made(kit: Kit, run: Run, delivery: Delivery, pending: Key) -> tuple[Key, Due, list[Write]]:
    """A push of the run's end, last in its line, with the writes that make it; claimed for who commits it."""
    mine = delivery.kind in kit.deliverers  # else it is for a process that has the channel, at once
    due = msgspec.structs.replace(
        entry(run),
        kind=keys.PUSH,
        delivery=delivery,
        push_id=run.push_id,
        attempts=int(mine),
        claimed=mine,
        **(kit.claims.made(kit.clock, kit.lease_seconds) if mine else {}),
        # The inbox numbers its messages as they come, and they are answered in that order.
        order=line_of(delivery) + pending.sort.removeprefix(keys.PENDING),
    )
    at = run.finished_at + (kit.lease_seconds if mine else 0.0)
    key = keys.due(at, due.tenant, due.run_id, suffix="/push", shards=kit.shards.number)
    return key, due, [Put(key, to_record(due)), lined(key, due, run.finished_at)]


def line_of(delivery: Delivery) -> str:
    """What the places in a conversation's line begin with."""
    return hashlib.sha256(f"{delivery.kind}\n{delivery.address}".encode()).hexdigest()[:24] + "/"


def lined(key: Key, due: Due, now: float) -> Put:
    """The record of an entry's place in its line; of one outside of all lines, the note where it is."""
    if not due.order:
        return noted(key, due, now)
    return Put(order_key(due), {"v": 1, "due": key.sort}, expires_at=now + NOTE_SECONDS)


def unlined(due: Due) -> Delete:
    """The entry leaves its line."""
    return Delete(order_key(due)) if due.order else unnoted(due)


def order_key(due: Due) -> Key:
    """Where the place of an entry in its line is."""
    principal = Principal(tenant=due.tenant, user=due.user)
    return Key(keys.outbox(principal, due.session_id), due.order)


async def first_of(kit: Kit, due: Due) -> Place | None:
    """The first of the line that this entry is in."""
    prefix = due.order.partition("/")[0] + "/"
    page = await kit.store.query(order_key(due).partition, prefix, limit=1)
    return next((Place(record.key.sort, str(record.fields["due"])) for record in page.records), None)


def still(due: Due) -> tuple[Condition, ...]:
    """What must hold for every write of who has this entry: nobody has moved it since."""
    return (Equals("run_id", due.run_id), AtMost("moves", due.moves))


async def move(kit: Kit, key: Key, due: Due, at: float, **fields: object) -> tuple[Key, Due] | None:
    """Move an entry to another time, with these fields; None where somebody else did, or it is gone."""
    new = later(key, at)
    moved = msgspec.structs.replace(due, moves=due.moves + 1, **fields)
    if moved.claimed:
        moved = msgspec.structs.replace(moved, **kit.claims.made(kit.clock, kit.lease_seconds))
    put = Put(new, to_record(moved), when=still(due) if new == key else ())
    gone: list[Write] = [] if new == key else [Delete(key, when=still(due))]
    try:
        await kit.store.write(*gone, put, lined(new, moved, kit.clock.now()))
    except ConditionError:
        return None
    kit.claims.keep(new, moved)
    return new, moved


async def claim(kit: Kit, key: Key, due: Due) -> tuple[Key, Due] | None:
    """Claim an entry for a try, which counts from now on; None where another process was first."""
    at = kit.clock.now() + kit.lease_seconds
    return await move(kit, key, due, at, claimed=True, attempts=due.attempts + 1)


async def wait(kit: Kit, key: Key, due: Due, first: Place) -> tuple[Key, Due] | None:
    """Let an entry wait for the first of its line, by nobody claimed; no try at it was made."""
    now = kit.clock.now()
    soonest, latest = WAIT_SECONDS
    at = min(max(time_of(first.due), now + soonest), now + latest)
    return await move(kit, key, due, at, claimed=False, attempts=0)


async def next_of(kit: Kit, due: Due) -> tuple[Key, Due] | None:
    """The entry that is now first in this line, claimed; None where there is none to go on with.

    One that is claimed is left to its claimant, who looks whether it is first; one that failed, to its time.
    """
    while due.order and (first := await first_of(kit, due)) is not None:
        record = await kit.store.get(place(first.due))
        if record is None:
            try:  # what it stood for is gone: so must it
                await kit.store.write(
                    Delete(Key(order_key(due).partition, first.order), when=(Equals("due", first.due),))
                )
            except ConditionError:
                pass  # it was moved in this moment
            continue
        following = from_record(Due, record.fields)
        waits = following.attempts > 0 and time_of(first.due) > kit.clock.now()
        if following.claimed or waits or name_of(following) in kit.claims.trying:
            return None
        return await claim(kit, record.key, following)
    return None


async def bury(kit: Kit, key: Key, due: Due, run: Run, reason: str) -> None:
    """Give a push up: a dead letter keeps it, and what is behind it in its line waits no longer."""
    kit.claims.forget(due)
    letter = dead_letter(run, "push", reason, kit.clock.now(), delivery=due.delivery)
    alarms: list[Write] = []
    if kit.hooks is not None:
        await kit.hooks.look(due.tenant)
        data = {
            "run_id": run.id,
            "session_id": run.session_id,
            "agent": run.agent,
            "reason": letter.reason,
        }
        for pair in kit.hooks.notices(
            due.tenant, "alarm.dead_letter", data, unique=f"{run.push_id}.dead.push"
        ):
            alarms += pair
    try:
        await kit.store.write(
            Delete(key, when=still(due)),
            unlined(due),
            Put(keys.dead(due.tenant, f"{due.run_id}/push"), to_record(letter)),
            *alarms,
        )
    except ConditionError:
        log.info("run=<%s> | its push was taken by another process meanwhile", due.run_id)
