"""What every worker of an engine shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.costs.pricing import Prices
from agent_core.engine.bound import Bound
from agent_core.engine.claims import Claims
from agent_core.engine.feed import Feed
from agent_core.engine.hooks import Hooks
from agent_core.engine.lease import Sightings
from agent_core.engine.runs import Delivery, Due, Run
from agent_core.engine.switches import Switches
from agent_core.messages import Part, Principal
from agent_core.security.audit import Audit
from agent_core.store.base import Key, Store
from agent_core.store.shards import Shards


class Deliverer(Protocol):
    """Brings the end of a run to where its sender wants it."""

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        """Push; raises an AgentError, retryable or not, where it did not arrive. `push_id` is stable over tries."""


class Prover(Protocol):
    """Tells whether somebody is who they are: by their second factor."""

    async def prove(self, who: Principal, code: str, subject: str) -> None:
        """Raise StepUpError unless the code is right, for this subject, and was never used."""


class Attendant(Protocol):
    """Shows whoever waits for a pushed reply that somebody is at work on it."""

    async def attend(self, run: Run, delivery: Delivery, feed: Feed) -> None:
        """Called when work on a run begins; cancelled when it is over. What it shows is never the last word."""


Fetch = Callable[[Part], Awaitable[Part]]
"""Gives a part whose bytes are still elsewhere with its bytes, any other as it is. Raises nothing."""

Forget = Callable[[Principal, Sequence[Run]], Awaitable[None]]
"""Removes what a higher floor keeps of runs whose session is being erased; SessionBusyError where it can't now."""

DueHandler = Callable[[Key, Due], Awaitable[object]]


@dataclass(frozen=True, kw_only=True)
class Kit:
    """What every worker of an engine shares.

    `switches` stop agents, tools and tenants, `audit` keeps who did what, `factors` tell whether a person's second
    factor is right, `hooks` tell addresses of a tenant's what happens there, `shards` are the partitions of what is
    due.

    `lease_seconds` is how long a worker that went silent keeps a session, `run_seconds` how long runs and their
    journals are kept, `max_attempts` how many workers may take a session and get nowhere with its first message
    before it is given up. `deliverers` bring replies to those who want them pushed, by the kind of delivery;
    `attendants` show them meanwhile that it is worked on. `asks` are the kinds of delivery that can ask a person, by an
    entry of the kind `ASK`. `feeds` are those of the runs that somebody in this process follows, `claims` the pushes
    that it tries.
    `due` looks after what higher floors have put into the list of what is due, by its kind; it gets the entry's key
    and the entry. `fetch` brings attachments of messages, `forget` is what an
    erased session's runs left on higher floors.
    """

    store: Store
    blobs: Blobs
    clock: Clock
    prices: Prices
    agents: Mapping[str, Bound]
    switches: Switches
    audit: Audit
    shards: Shards
    lease_seconds: float = 30.0
    run_seconds: float = 90 * 86_400.0
    max_attempts: int = 5
    deliverers: dict[str, Deliverer] = field(default_factory=dict)
    attendants: dict[str, Attendant] = field(default_factory=dict)
    asks: set[str] = field(default_factory=set)
    due: dict[str, DueHandler] = field(default_factory=dict)
    fetch: list[Fetch] = field(default_factory=list)
    forget: list[Forget] = field(default_factory=list)
    factors: Prover | None = None
    hooks: Hooks | None = None
    claims: Claims = field(default_factory=Claims)
    feeds: dict[str, Feed] = field(default_factory=dict)

    @cached_property
    def sightings(self) -> Sightings:
        """What this process saw of sessions that others hold."""
        return Sightings(self.clock, self.lease_seconds)
