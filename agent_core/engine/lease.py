"""The lease on a session: one worker at a time, and none that lost it may write."""

from __future__ import annotations

import msgspec

from agent_core.errors import ConditionError
from agent_core.store.base import AtMost, Equals, Key, Update


class Lease(msgspec.Struct, kw_only=True):
    """One worker's hold on a session. `fence` and `interrupts` are known once the head was read after taking it."""

    head: Key
    owner: str
    seconds: float
    fence: int = 0
    interrupts: int = 0
    _sure_until: tuple[float, float] = (0.0, 0.0)

    @property
    def held(self) -> tuple[Equals, Equals]:
        """What must hold for every write of this worker.

        The owner too: a session that was erased counts its fences from 1 again.
        """
        return (Equals("fence", self.fence), Equals("owner", self.owner))

    def lost(self, error: ConditionError) -> bool:
        """Whether a write to the head failed since another worker has the session now, or it was erased."""
        current = error.current or {}
        return (current.get("fence"), current.get("owner")) != (self.fence, self.owner)

    def kept(self, now: float, monotonic: float) -> None:
        """The store has it that the lease was kept at these times, or a little later."""
        self._sure_until = (now + self.seconds, monotonic + self.seconds)

    def sure(self, now: float, monotonic: float) -> bool:
        """Whether nobody can have taken over; by both clocks, as either may stand still while a process is frozen."""
        return now < self._sure_until[0] and monotonic < self._sure_until[1]

    def taking(self, now: float, **fields: str | float) -> Update:
        """The write that takes the lease, if nobody holds it."""
        return Update(
            self.head,
            set={"v": 1, "owner": self.owner, "lease_until": now + self.seconds, **fields},
            add={"fence": 1},
            when=(AtMost("lease_until", now),),
        )

    def renewal(self, now: float) -> Update:
        """The write that keeps the lease, and fails once it is lost."""
        return Update(self.head, set={"lease_until": now + self.seconds}, when=self.held)

    def step(self, now: float) -> Update:
        """The write that keeps the lease over a step, and fails too where a newer message interrupts the run."""
        kept = self.renewal(now)
        return msgspec.structs.replace(kept, when=(*kept.when, AtMost("interrupts", self.interrupts)))
