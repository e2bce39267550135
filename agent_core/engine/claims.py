"""Claims on pushes: one process tries one at a time, whatever the clocks of the others say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agent_core.clock import Clock
from agent_core.engine.owner import Holder, is_gone, this_process
from agent_core.engine.runs import Due
from agent_core.store.base import Key
from agent_core.store.shards import time_of

SKEW_SECONDS = 600.0
"""By so much two hosts' clocks may differ: a claim that ran out longer ago is over, whoever looks at it."""

MOST_SEEN = 10_000


@dataclass
class Claims:
    """What this process tries (`trying`) and claims (`mine`), and what it has seen others claim, by its own clock."""

    trying: set[str] = field(default_factory=set)
    mine: dict[str, tuple[str, int]] = field(default_factory=dict)
    _seen: dict[str, tuple[str, int, float]] = field(default_factory=dict)

    def keep(self, key: Key, due: Due) -> None:
        """Remember that this claim is ours, or that it is over."""
        if due.claimed:
            self.mine[name_of(due)] = (key.sort, due.moves)
        else:
            self.forget(due)

    def made(self, clock: Clock, seconds: float) -> dict[str, Any]:
        """The fields of an entry that say whose claim it is, and how long."""
        holder = Holder(clock.timeline, this_process(), seconds)
        return {"claimant": holder, "claim_ends": clock.monotonic() + seconds}

    def forget(self, due: Due) -> None:
        """Nothing of this entry is ours any more."""
        self.mine.pop(name_of(due), None)

    def free(self, key: Key, due: Due, clock: Clock, seconds: float) -> bool:
        """Whether nobody tries this entry now.

        Two machines' clocks are never compared: on one machine the clock that its processes share tells; the claim of
        another is over once it was seen unchanged here for its length. Where no process lives that long (functions),
        one that ran out long ago is.
        """
        name = name_of(due)
        if name in self.trying:
            return False
        if not due.claimed or self.mine.get(name) == (key.sort, due.moves):
            return True
        if due.claimant.timeline and due.claimant.timeline == clock.timeline:
            return is_gone(due.claimant.process) or clock.monotonic() >= due.claim_ends
        if clock.now() - time_of(key.sort) > SKEW_SECONDS:
            return True
        now = clock.monotonic()
        sort, moves, since = self._seen.get(name, ("", 0, now))
        if (sort, moves) == (key.sort, due.moves) and since <= now:
            return now - since >= seconds
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen[name] = (key.sort, due.moves, now)
        return False


def name_of(due: Due) -> str:
    """What tells one push from all others."""
    return f"{due.tenant}/{due.push_id or due.run_id}"
