"""A queue whose messages a platform pushes to us: a function that is triggered by SQS gets batches, and answers.

The trigger itself deletes what was done, and what was not comes again after the queue's visibility time-out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agent_core.errors import StoreError
from agent_core.queues.base import MAX_VISIBILITY, Counts, Entry, Received, Rules, Sent


class PushedQueue:
    """What `process` needs to know of such a queue. Nothing is asked of it: all verbs leave things to the trigger."""

    def __init__(self, *, fifo: bool = False) -> None:
        # No limit of receives: whether a message is one too many, the queue's own redrive policy says.
        self.rules = Rules(fifo=fifo, visibility_seconds=MAX_VISIBILITY, max_receives=0)
        self.dead = None

    async def send(self, *entries: Entry) -> tuple[Sent, ...]:
        """Refused: the trigger only gives."""
        raise StoreError("a trigger takes no messages")

    async def receive(
        self, limit: int = 10, *, visibility_seconds: int | None = None, wait_seconds: int = 0
    ) -> tuple[Received, ...]:
        """Nothing: the platform brings the messages by itself."""
        return ()

    async def delete(self, receipts: Sequence[str]) -> tuple[str, ...]:
        """The trigger deletes what is not among the failed."""
        return ()

    async def extend(self, receipts: Sequence[str], seconds: int) -> tuple[str, ...]:
        """The queue's visibility time-out is longer than the function may run."""
        return ()

    async def bury(self, record: Received, reason: str) -> bool:
        """Left to the queue's redrive policy."""
        return False

    async def redrive(self, ids: Collection[str] = ()) -> int:
        """Nothing is buried here."""
        return 0

    async def counts(self) -> Counts:
        """Nothing is known."""
        return Counts()

    async def close(self) -> None:
        """Nothing is held."""
