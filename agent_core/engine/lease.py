"""The lease on a session: one worker at a time, and none that lost it may write.

No two clocks are compared. The record of a held lease says so (`lease_until` is not 0) until its holder lets go.
Another worker takes over where the holder is gone: its process has ended, or its time has run out by the monotonic
clock that both share (one machine); or, seen from another machine, the record stood unchanged for the lease's length
by the observer's own clock. A holder that can't renew in time stops by itself before that.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple

import msgspec

from agent_core.clock import Clock
from agent_core.engine.owner import Holder, is_gone, this_process
from agent_core.errors import ConditionError, StoreError
from agent_core.store.base import AtMost, Condition, Equals, Fields, Key, Store, Update, Write

log = logging.getLogger("sampan.engine")

FREE = AtMost("lease_until", 0)
"""Nobody holds the session."""

MARGIN = 0.1
"""The share of a lease before whose end a holder that could not renew it stops."""

PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between tries of a write on which paid work depends, while a store is out of reach."""


class Moment(NamedTuple):
    """A time by both clocks, as either may stand still while a process is frozen."""

    now: float
    monotonic: float


class Lease:
    """One worker's hold on a session. `fence` is known once the head was read after taking it.

    `stamp` is the place in the inbox of the message that is worked on: an interruption is for those before it.
    """

    def __init__(self, clock: Clock, head: Key, seconds: float) -> None:
        self.head = head
        self.owner = clock.new_id()
        self.seconds = seconds
        self.fence = 0
        self.stamp = 0
        self.releasing = False
        """Whether a write that lets go is under way, or was done: what fails beside it is no loss."""
        self._clock = clock
        self._sure_until = Moment(0.0, 0.0)

    @property
    def held(self) -> tuple[Condition, ...]:
        """What must hold for every write of this worker.

        The owner too: a session that was erased counts its fences from 1 again, and one that was let go has none.
        """
        return (Equals("fence", self.fence), Equals("owner", self.owner))

    def lost(self, error: ConditionError) -> bool:
        """Whether a write to the head failed since another worker has the session now, or it was erased."""
        current = error.current or {}
        return (current.get("fence"), current.get("owner")) != (self.fence, self.owner)

    def moment(self) -> Moment:
        """The time before a write that keeps the lease, for `kept`."""
        return Moment(self._clock.now(), self._clock.monotonic())

    def kept(self, since: Moment) -> None:
        """The store has it that the lease was kept at this moment, or a little later."""
        self._sure_until = Moment(since.now + self.seconds, since.monotonic + self.seconds)

    @property
    def left(self) -> float:
        """Seconds for which nobody can have taken over; 0 or less where somebody may have."""
        at = self.moment()
        return min(self._sure_until.now - at.now, self._sure_until.monotonic - at.monotonic)

    @property
    def unsafe_in(self) -> float:
        """Seconds until a holder that has not renewed must stop; by the monotonic clock, which nobody sets."""
        return self._sure_until.monotonic - MARGIN * self.seconds - self._clock.monotonic()

    def taking(self, **fields: str | float) -> Update:
        """The write that takes the lease, if nobody holds it."""
        return self._take((FREE,), fields)

    def taking_over(self, seen: Fields, **fields: str | float) -> Update:
        """The write that takes the lease from a holder that is gone, if the head is as it was seen."""
        still: tuple[Condition, ...] = (
            Equals("fence", seen.get("fence", 0)),
            Equals("owner", seen.get("owner", "")),
            AtMost("lease_until", seen.get("lease_until", 0.0)),
        )
        return self._take(still, fields)

    def _take(self, when: tuple[Condition, ...], fields: dict[str, Any]) -> Update:
        holder = Holder(self._clock.timeline, this_process(), self.seconds)
        mine = {"v": 1, "owner": self.owner, "holder": msgspec.to_builtins(holder)}
        return Update(
            self.head, set={**mine, **self.renewed(), **fields}, add={"fence": 1, "takes": 1}, when=when
        )

    def freeing(self, seen: Fields) -> Update:
        """The write that frees a session whose holder is gone, if the head is as it was seen; for others to take."""
        return Update(
            self.head,
            set={"owner": "", "lease_until": 0.0},
            add={"fence": 1},
            when=self.taking_over(seen).when,
        )

    def renewed(self) -> dict[str, float]:
        """The fields of the head that keep the lease."""
        now, monotonic = self.moment()
        return {"lease_until": now + self.seconds, "lease_ends": monotonic + self.seconds}

    def renewal(self) -> Update:
        """The write that keeps the lease, and fails once it is lost."""
        return Update(self.head, set=self.renewed(), when=self.held)

    def step(self) -> Update:
        """The write that keeps the lease over a step that was done; fails too where a newer message interrupts."""
        return Update(
            self.head,
            set={**self.renewed(), "takes": 0},
            when=(*self.held, AtMost("interrupted", self.stamp)),
        )

    def release(self, *when: Condition, **fields: Any) -> Update:
        """The write that lets go and sets these `fields`, unless one of the conditions fails.

        A worker that never read the head knows no fence: its name must do.
        """
        held = self.held if self.fence else (Equals("owner", self.owner),)
        return Update(self.head, set={**fields, "owner": "", "lease_until": 0.0}, when=(*held, *when))

    async def insist(self, store: Store, *writes: Write) -> None:
        """Do a write on which paid work depends: tried again while the store is out of reach and the lease is sure.

        Raises ConditionError, or the last StoreError. A try whose answer was lost may have been done: then a condition
        of the next one fails, as if another worker had written.
        """
        for pause in PAUSES:
            try:
                return await store.write(*writes)
            except ConditionError:
                raise
            except StoreError as error:
                if self.left <= pause:
                    raise
                log.warning("session=<%s> | not written, trying again: %s", self.head.partition, error)
            await asyncio.sleep(pause)  # real time, as for renewals: the store's trouble knows no other
        return await store.write(*writes)


class Sightings:
    """What this process saw of leases that others hold, to tell when a holder is gone. Kept in memory alone."""

    MOST = 10_000
    """Sessions that are remembered; beyond them the oldest is forgotten, and seen anew."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._seen: dict[Key, tuple[tuple[object, ...], float]] = {}

    def abandoned(self, key: Key, head: Fields) -> bool:
        """Whether the holder of a head that was read just now is gone, so that its session may be taken over."""
        holder = msgspec.convert(head.get("holder") or {}, Holder)
        if holder.timeline and holder.timeline == self._clock.timeline:
            return is_gone(holder.process) or self._clock.monotonic() >= head.get("lease_ends", 0.0)
        now = self._clock.monotonic()
        look = (head.get("fence"), head.get("owner"), head.get("lease_until"), head.get("lease_ends"))
        before = self._seen.pop(key, None)
        at = before[1] if before is not None and before[0] == look else now
        self._seen[key] = (look, at)
        while len(self._seen) > self.MOST:
            del self._seen[next(iter(self._seen))]
        return now - at >= max(self._seconds, holder.seconds)

    def forget(self, key: Key) -> None:
        """The session is free, or ours."""
        self._seen.pop(key, None)
