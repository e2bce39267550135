"""What every worker of an engine shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.costs.pricing import Prices
from agent_core.engine.bound import Bound
from agent_core.engine.feed import Feed
from agent_core.engine.runs import Delivery, Run
from agent_core.store.base import Store


class Deliverer(Protocol):
    """Brings the end of a run to where its sender wants it."""

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        """Push; raises an AgentError, retryable or not, where it did not arrive. `push_id` is stable over tries."""


@dataclass(frozen=True)
class Kit:
    """What every worker of an engine shares."""

    store: Store
    blobs: Blobs
    clock: Clock
    prices: Prices
    agents: Mapping[str, Bound]
    feeds: dict[str, Feed]
    lease_seconds: float
    run_seconds: float
    deliverers: Mapping[str, Deliverer]
