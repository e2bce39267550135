"""A queue whose messages a platform pushes to us: a function that is triggered by SQS gets batches, and answers.

The trigger itself deletes what was done. What was not comes again after the queue's visibility time-out, which is long:
where the queue `behind` the trigger can be asked, after the pause that the consumer wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from agent_core.errors import StoreError
from agent_core.queues.base import MAX_VISIBILITY, Counts, Entry, Queue, Received, Rules, Sent

PATIENCE = 1.0
"""Seconds to change when a message comes again: the platform may be about to stop us."""


class PushedQueue:
    """What `process` needs to know of such a queue. All verbs but `extend` leave things to the trigger."""

    def __init__(self, *, fifo: bool = False, behind: Queue | None = None) -> None:
        self._behind = behind
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
        """Have these messages come again in so many seconds; without it, after the queue's own time-out."""
        if self._behind is None:
            return ()
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._behind.extend(receipts, seconds)
        except TimeoutError:
            raise StoreError(f"the queue did not answer within {PATIENCE:g} s") from None

    async def bury(self, record: Received, reason: str) -> bool:
        """Left to the queue's redrive policy."""
        return False

    async def redrive(self, ids: Collection[str] = ()) -> int:
        """Nothing is buried here."""
        return 0

    async def counts(self) -> Counts:
        """Nothing is known."""
        return Counts()

    async def oldest_seconds(self) -> float | None:
        """Not known here: CloudWatch has it, as ApproximateAgeOfOldestMessage."""
        return None

    async def close(self) -> None:
        """Nothing is held."""
