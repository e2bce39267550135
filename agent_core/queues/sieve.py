"""Messages of a queue taken out by what they say: a queue can't be searched, only received from."""

from __future__ import annotations

from collections.abc import Callable

from agent_core.clock import Clock
from agent_core.errors import StoreBusyError
from agent_core.queues.base import FileQueue, Queue, Received

HIDDEN_SECONDS = 60
"""How long a message that is only looked at may be hidden from workers."""

MAX_KEPT = 10_000
"""Messages that are hidden at the same time."""


async def sift(
    queue: Queue,
    clock: Clock,
    unwanted: Callable[[Received], bool],
    *,
    wait_seconds: int = 1,
    most: int = MAX_KEPT,
) -> int:
    """Delete the unwanted messages that wait in the queue, and in its dead-letter queue; how many there were.

    Looking at the others counts as one more receive of theirs. Where a worker has messages in hand it is waited a while
    for them to be done or given back; what it keeps for longer, or was put off, is not reached. A queue that is not
    waited for may say that it is empty, as SQS does.
    Raises StoreBusyError where more than `most` others wait.
    """
    removed = await _sift(queue, clock, unwanted, wait_seconds, most)
    if queue.dead is not None:
        removed += await _sift(queue.dead, clock, unwanted, wait_seconds, most)
    if isinstance(queue, FileQueue):
        await queue.scrub()
    return removed


async def _sift(
    queue: Queue, clock: Clock, unwanted: Callable[[Received], bool], wait_seconds: int, most: int
) -> int:
    removed = await _looked_through(queue, clock, unwanted, wait_seconds, most)
    if (await queue.counts()).in_flight:
        # A worker has them in hand, or one like us died with them: they are gone by then, or come again.
        await clock.sleep(HIDDEN_SECONDS + 1)
        removed += await _looked_through(queue, clock, unwanted, wait_seconds, most)
    return removed


async def _looked_through(
    queue: Queue, clock: Clock, unwanted: Callable[[Received], bool], wait_seconds: int, most: int
) -> int:
    begun = clock.now()
    kept: list[str] = []
    removed = 0
    try:
        while found := await queue.receive(visibility_seconds=HIDDEN_SECONDS, wait_seconds=wait_seconds):
            doomed = [message.receipt for message in found if unwanted(message)]
            kept += [message.receipt for message in found if message.receipt not in doomed]
            await queue.delete(doomed)
            removed += len(doomed)
            if all(message.sent_at > begun for message in found):
                break
            if len(kept) > most:
                raise StoreBusyError(f"queue {queue.rules.name} holds too many messages to look through")
    finally:
        await queue.extend(kept, 0)
    return removed
