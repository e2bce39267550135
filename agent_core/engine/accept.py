"""Accept: one conditional write that stores a message under its key. After it the message can't be lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from agent_core.agent import Busy
from agent_core.engine import keys, window
from agent_core.engine.due import entry
from agent_core.engine.kit import Kit
from agent_core.engine.lease import FREE, Lease
from agent_core.engine.points import point
from agent_core.engine.runs import Inbound, Pending, Run
from agent_core.errors import ConditionError, KeyReusedError, RunningError, SessionBusyError, StoreBusyError
from agent_core.messages import Principal, from_record, to_record
from agent_core.store.base import Above, Absent, AtMost, Condition, Equals, Fields, Key, Put, Update, Write

TRIES = 50
"""How often acceptance is tried anew when others come in between; each time, one of them was accepted."""


@dataclass(frozen=True)
class Accepted:
    """The run of a message; `lease` where this worker shall do the work, `fresh` where its journal must be empty."""

    run: Run
    lease: Lease | None = None
    fresh: bool = False


def lease_of(kit: Kit, principal: Principal, session_id: str) -> Lease:
    """A new worker's lease on a session, not taken yet."""
    return Lease(kit.clock, Key(keys.session(principal, session_id), keys.STATE), kit.lease_seconds)


async def take(kit: Kit, lease: Lease) -> bool:
    """Take the lease of a session if nobody holds it, or whoever did is gone."""
    point("before lease")
    try:
        await kit.store.write(lease.taking())
    except ConditionError as error:
        if not await _take_over(kit, lease, error.current or {}):
            return False
    kit.sightings.forget(lease.head)
    point("after lease")
    return True


async def _take_over(kit: Kit, lease: Lease, head: Fields) -> bool:
    if not kit.sightings.abandoned(lease.head, head):
        return False
    try:
        await kit.store.write(lease.taking_over(head))
    except ConditionError:
        return False  # its holder lives, or somebody was first
    return True


async def accept(kit: Kit, inbound: Inbound, run: Run, busy: Busy, *, work: bool = True) -> Accepted:
    """Store the message in its session's inbox, its run, and take the lease with it if the session is free.

    `work` False leaves the work to others. Raises KeyReusedError, RunningError, SessionBusyError, StoreError.
    """
    session_id = run.session_id
    dated = [msgspec.structs.replace(m, created_at=m.created_at or run.created_at) for m in inbound.messages]
    messages = [await window.spill(message, kit.blobs, run.principal, session_id) for message in dated]
    inbound = msgspec.structs.replace(inbound, messages=tuple(messages))
    new: tuple[Condition, ...] = (Absent(),)
    lease = lease_of(kit, run.principal, session_id)
    door = _Door(kit, lease, busy, work)
    stamp = 0
    for _ in range(TRIES):
        stamp = max(int(kit.clock.now() * 1e6), stamp)
        head = door.head(stamp, run.agent)
        point("before accept")
        try:
            await kit.store.write(*_writes(kit, inbound, run, stamp, new, head))
        except ConditionError as error:
            if error.index == 0:
                stored = from_record(Run, error.current or {})
                _same_request(stored, run)
                if not _again(stored):
                    return await _replayed(kit, stored)
                # It failed for a passing reason: the same key tries again, as if it had not been.
                run = _retry_of(stored, run)
                lease = lease_of(kit, run.principal, run.session_id)
                door = _Door(kit, lease, busy, work)
                new = (Equals("status", "failed"), Equals("finished_at", stored.finished_at))
            elif (latest := (error.current or {}).get("latest", 0)) >= stamp:
                stamp = latest + 1  # another message came in between: this one is behind it
            else:
                door.look(error)
            continue
        point("after accept")
        if not door.takes:
            return Accepted(msgspec.structs.replace(run, status="queued"))
        kit.sightings.forget(lease.head)
        return Accepted(run, lease, fresh=new == (Absent(),))
    raise StoreBusyError("the session changes hands too often to be joined", retry_after=1.0)


class _Door:
    """What a message that comes in does to its session's head, by what was seen of the head so far.

    It takes the lease where the session is free (or its holder is gone) and the work is to be done here; else it tells
    whoever holds the lease, now or next, of the arrival. Clocks of several machines differ, and a clock may be set
    back: the order in which messages are accepted is the order of these writes, which `latest` keeps.
    """

    def __init__(self, kit: Kit, lease: Lease, busy: Busy, work: bool) -> None:
        self._kit = kit
        self._lease = lease
        self._busy = busy
        self._work = work
        self._held = False
        self._gone: Fields | None = None

    @property
    def takes(self) -> bool:
        """Whether the last write took the lease."""
        return self._work and (not self._held or self._gone is not None)

    def look(self, error: ConditionError) -> None:
        """Learn from a write that failed how the session is; raises SessionBusyError where that is to be told."""
        head = error.current or {}
        self._held = head.get("lease_until", 0.0) > 0
        self._gone = None
        if self._held and self._work and self._kit.sightings.abandoned(self._lease.head, head):
            self._gone = head
        elif self._busy == "reject" and (self._held or head.get("waiting", 0) > 0):
            raise SessionBusyError("the session is answering another message", retry_after=1.0) from error

    def head(self, stamp: int, agent: str) -> Update:
        """The write to the head."""
        fields: dict[str, Any] = {"latest": stamp}
        if self._busy == "interrupt":
            fields["interrupted"] = stamp  # for all that came before it, whoever works on it, and whenever
        if self._gone is not None:
            update = self._lease.taking_over(self._gone, agent=agent, **fields)
        elif self.takes:
            update = self._lease.taking(agent=agent, **fields)
        else:
            # Who wants to work finds out at once where the session is free again; else that makes no difference.
            still = (Above("lease_until", 0),) if self._work else ()
            update = Update(self._lease.head, set={"v": 1, **fields}, add={"arrivals": 1}, when=still)
        alone = (FREE, AtMost("waiting", 0)) if self._busy == "reject" and self._gone is None else ()
        return msgspec.structs.replace(
            update,
            add={**update.add, "waiting": 1},
            when=tuple(dict.fromkeys((*update.when, *alone, AtMost("latest", stamp - 1)))),
        )


def _retry_of(stored: Run, run: Run) -> Run:
    """The run to be tried again: it stays the same run, made when it was made, with its journal and its bill."""
    return msgspec.structs.replace(
        run,
        session_id=stored.session_id,
        created_at=stored.created_at,
        retries=stored.retries + 1,
        joined=stored.joined,
    )


def _writes(
    kit: Kit, inbound: Inbound, run: Run, stamp: int, new: tuple[Condition, ...], head: Update
) -> list[Write]:
    principal = run.principal
    due = keys.due(kit.clock.now() + kit.lease_seconds, principal.tenant, run.id, shards=kit.shards.number)
    pending = keys.pending(head.key.partition, stamp, kit.clock.new_id())
    works = "owner" in head.set
    stored = run if works else msgspec.structs.replace(run, status="queued")
    return [
        Put(
            Key(keys.run(principal.tenant, run.id), keys.RUN),
            to_record(stored),
            when=new,
            expires_at=run.created_at + kit.run_seconds,
        ),
        head,
        Put(pending, to_record(Pending(run_id=run.id, inbound=inbound, due=due.sort))),
        Put(due, to_record(entry(run))),
    ]


def _same_request(stored: Run, run: Run) -> None:
    if stored.fingerprint != run.fingerprint or not stored.principal.same(run.principal):
        raise KeyReusedError(
            "this idempotency key was used with another request; send a new key, or the same body"
        )


def _again(stored: Run) -> bool:
    return stored.status == "failed" and stored.failure is not None and stored.failure.retryable


async def _replayed(kit: Kit, stored: Run) -> Accepted:
    """What a key that was seen before gives: its run, done; or RunningError; or the work of a dead worker."""
    if stored.done or stored.asks_at(kit.clock.now()):
        return Accepted(msgspec.structs.replace(stored, replayed=True))
    lease = lease_of(kit, stored.principal, stored.session_id)
    if await take(kit, lease):
        return Accepted(stored, lease)
    raise RunningError("the run of this idempotency key has not finished yet", run_id=stored.id)
