"""Accept: one conditional write that stores a message under its key. After it the message can't be lost."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from agent_core.agent import Busy
from agent_core.engine import keys, window
from agent_core.engine.due import entry
from agent_core.engine.kit import Kit
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.runs import Inbound, Pending, Run
from agent_core.errors import ConditionError, KeyReusedError, RunningError, SessionBusyError, StoreBusyError
from agent_core.messages import Principal, from_record, to_record
from agent_core.store.base import Above, Absent, AtMost, Condition, Equals, Key, Put, Update, Write

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
    head = Key(keys.session(principal, session_id), keys.STATE)
    return Lease(head=head, owner=kit.clock.new_id(), seconds=kit.lease_seconds)


async def take(kit: Kit, lease: Lease) -> bool:
    """Take the lease of a session if nobody holds it."""
    point("before lease")
    try:
        await kit.store.write(lease.taking(kit.clock.now()))
    except ConditionError:
        return False
    point("after lease")
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
    waits, stamp = False, 0  # waits: the session is busy, so only leave the message in its inbox
    for _ in range(TRIES):
        stamp = max(int(kit.clock.now() * 1e6), stamp)
        head = _in_order(stamp, _head(kit, run, lease, busy, waits, work))
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
                new = (Equals("status", "failed"), Equals("finished_at", stored.finished_at))
            elif (latest := (error.current or {}).get("latest", 0)) > stamp:
                stamp = latest + 1  # another message came in between: this one is behind it
            elif not waits and busy == "reject":
                raise SessionBusyError("the session is answering another message", retry_after=1.0) from error
            else:
                waits = not waits
            continue
        point("after accept")
        if waits or not work:
            return Accepted(msgspec.structs.replace(run, status="queued"))
        return Accepted(run, lease, fresh=new == (Absent(),))
    raise StoreBusyError("the session changes hands too often to be joined", retry_after=1.0)


def _head(kit: Kit, run: Run, lease: Lease, busy: Busy, waits: bool, work: bool) -> Update:
    """What happens to the session's head: its lease is taken, or whoever holds it is told of the arrival."""
    now = kit.clock.now()
    if not work:
        return Update(lease.head, set={"v": 1}, add={"arrivals": 1})
    if not waits:
        return lease.taking(now, agent=run.agent)
    # Whoever holds the lease sees the new arrival before it can let go.
    arrival = {"arrivals": 1, "interrupts": 1} if busy == "interrupt" else {"arrivals": 1}
    return Update(lease.head, add=arrival, when=(Above("lease_until", now),))


def _in_order(stamp: int, head: Update) -> Update:
    """The head's write with the message's place in the order of the session: behind all that were accepted before it.

    Clocks of several machines differ, and a clock may be set back; the order in which messages are accepted is the
    order of these writes to the head.
    """
    return msgspec.structs.replace(
        head, set={**head.set, "latest": stamp}, when=(*head.when, AtMost("latest", stamp))
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
    due = keys.due(kit.clock.now() + kit.lease_seconds, principal.tenant, run.id)
    pending = keys.pending(head.key.partition, stamp, kit.clock.new_id())
    works = "owner" in head.set
    stored = run if works else msgspec.structs.replace(run, status="queued")
    return [
        Put(
            Key(keys.run(principal.tenant, run.id), keys.RUN),
            to_record(stored),
            when=new,
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
