"""Work on messages: a batch at a time (`process`, what a queue-triggered function does) or for ever (`consume`).

Records run side by side on one event loop, those of a FIFO group one after the other. While they run their visibility
time-out is extended. A record that fails never holds up the rest: where trying again can help it comes again after a
growing pause, else, and after its last receive, it goes to the dead-letter queue with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from agent_core.clock import Clock
from agent_core.errors import AgentError, StoreError
from agent_core.queues.base import MAX_ENTRIES, MAX_WAIT, Queue, Received

log = logging.getLogger("sampan.queues")

LONGEST_PAUSE = 3600
"""Seconds before a record that failed is given out again, at most, unless its error knows better."""

LONGEST_SILENCE = 60
"""Seconds before the next receive from a queue that does not answer, at most."""

Handle = Callable[[Received], Awaitable[None]]
"""Does what a record asks for, or raises. It must bear a record that comes twice."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch, each in the order the records came.

    `failed` come again: they, and no others, are the partial batch failures of an SQS-triggered function
    (`batchItemFailures`). For a FIFO group these are the one that failed and all behind it.
    """

    done: tuple[Received, ...] = ()
    buried: tuple[Received, ...] = ()
    failed: tuple[Received, ...] = ()


async def process(
    records: Sequence[Received],
    handle: Handle,
    *,
    queue: Queue,
    clock: Clock,
    concurrency: int = 0,
    deadline: float = 0.0,
    delete: bool = False,
) -> Outcome:
    """Handle a batch that was received just now.

    `concurrency` is how many run at once (0: all). What has not ended at `deadline` (seconds since 1970, 0: none) is
    cancelled and comes again. With `delete`, each record is deleted as soon as it is done; a function that is triggered
    by SQS leaves that to its trigger.
    """
    return await _Batch(records, handle, queue, clock, delete).run(concurrency or len(records), deadline)


async def consume(
    queue: Queue,
    handle: Handle,
    stop: asyncio.Event,
    *,
    clock: Clock,
    concurrency: int = MAX_ENTRIES,
    wait_seconds: int = MAX_WAIT,
    grace_seconds: float = 30.0,
) -> None:
    """Receive and handle until `stop` is set, up to `concurrency` records at once.

    Then what runs may end within `grace_seconds`; what does not is cancelled and handed back to the queue.
    """
    await _Loop(queue, handle, clock, concurrency, wait_seconds).run(stop, grace_seconds)


def is_permanent(error: BaseException) -> bool:
    """Whether trying again can't help: the record is at fault, not a store that is out of reach."""
    return isinstance(error, AgentError) and not error.retryable and not isinstance(error, StoreError)


def pause_before(receive_count: int, error: BaseException, chance: float) -> int:
    """Seconds until a record that failed is tried again: 2, 16, 128, 1024, 3600, or longer where the error asks for it.

    Five receives last for a quarter of an hour: an overloaded model or a store out of reach comes back in less. What an
    error asks for is when to ask again, not how long its reason lasts. What failed for good, where only the queue's own
    policy can bury it, is not put off. `chance` in [0, 1) spreads what failed together over the pause's second half.
    """
    if is_permanent(error):
        return 1
    asked = (error.retry_after if isinstance(error, AgentError) else None) or 0.0
    longest = min(2 << 3 * min(max(receive_count, 1) - 1, 5), LONGEST_PAUSE)
    return max(1, math.ceil(longest * (0.5 + chance / 2)), math.ceil(min(asked, 12 * 3600)))


class _Batch:
    """Some records under way. `_open` are those without an outcome, by receipt: they are ours while we say so."""

    def __init__(
        self, records: Sequence[Received], handle: Handle, queue: Queue, clock: Clock, delete: bool
    ) -> None:
        self._records = tuple(records)
        self._handle = handle
        self._queue = queue
        self._clock = clock
        self._delete = delete
        self._open = {record.receipt: record for record in records}
        self._lost: set[str] = set()
        self._ours_until = clock.monotonic() + (queue.rules.visibility_seconds or math.inf)
        self._done: set[str] = set()
        self._buried: set[str] = set()

    async def run(self, concurrency: int, deadline: float) -> Outcome:
        """Handle all records, as far as the deadline allows."""
        beating = asyncio.create_task(self._beat())
        working = asyncio.create_task(self._work(concurrency))
        tasks = [beating, working]
        try:
            if deadline:
                tasks.append(asyncio.create_task(self._clock.sleep(max(deadline - self._clock.now(), 0.0))))
            await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
            for task in (beating, working):
                if task.done():
                    task.result()  # raises what is a bug of ours
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._hand_back(tuple(self._open.values()))
        return Outcome(
            done=self._chosen(self._done),
            buried=self._chosen(self._buried),
            failed=tuple(r for r in self._records if r.receipt not in self._done | self._buried),
        )

    def _chosen(self, receipts: set[str]) -> tuple[Received, ...]:
        return tuple(record for record in self._records if record.receipt in receipts)

    async def _work(self, concurrency: int) -> None:
        lanes: dict[str, list[Received]] = {}
        for record in self._records:
            lanes.setdefault(record.group if self._queue.rules.fifo else record.receipt, []).append(record)
        places = asyncio.Semaphore(max(concurrency, 1))
        async with asyncio.TaskGroup() as tasks:
            for lane in lanes.values():
                tasks.create_task(self._work_on_lane(lane, places))

    async def _work_on_lane(self, lane: list[Received], places: asyncio.Semaphore) -> None:
        """One after the other; behind one that failed, all come again."""
        for place, record in enumerate(lane):
            async with places:
                if self._lost_hold(record):
                    log.warning("%s | not begun: its time ran out", self._words(record))
                    goes_on = False
                else:
                    goes_on = await self._work_on(record)
            if not goes_on:
                return await self._hand_back(lane[place:])

    def _lost_hold(self, record: Received) -> bool:
        # This process may have been stopped for a while: then others may have the record by now.
        return record.receipt in self._lost or self._clock.monotonic() > self._ours_until

    async def _work_on(self, record: Received) -> bool:
        """Handle one record; False where those behind it in its group must wait."""
        try:
            await self._handle(record)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return await self._failed(record, error)  # something within was cancelled, not we
        except Exception as error:  # noqa: BLE001 - the outermost boundary of a record: the others go on
            return await self._failed(record, error)
        self._open.pop(record.receipt, None)
        self._done.add(record.receipt)
        return await self._remove(record) if self._delete else True

    async def _remove(self, record: Received) -> bool:
        try:
            refused = await self._queue.delete([record.receipt])
        except StoreError as error:
            log.warning("%s | done, but comes again: not deleted: %s", self._words(record), error)
            return not self._queue.rules.fifo
        if refused:
            log.warning("%s | done, but comes again: its time ran out", self._words(record))
        return not refused

    async def _failed(self, record: Received, error: BaseException) -> bool:
        self._open.pop(record.receipt, None)
        name = error.slug if isinstance(error, AgentError) else type(error).__name__
        words = f"{self._words(record)}, error=<{name}>"
        rules = self._queue.rules
        if rules.max_receives and (is_permanent(error) or record.receive_count >= rules.max_receives):
            if await self._bury(record, f"{name}: {error}"):
                log.error("%s | dead letter: %s", words, error)
                return True
        elif isinstance(error, AgentError):
            log.warning("%s | comes again: %s", words, error)
        else:
            log.error("%s | comes again, after a bug", words, exc_info=error)
        pause = pause_before(record.receive_count, error, self._clock.random())
        await self._extend([record.receipt], pause)
        return False

    async def _bury(self, record: Received, reason: str) -> bool:
        try:
            buried = await self._queue.bury(record, reason)
        except StoreError as failure:
            log.warning("%s | comes again: not buried: %s", self._words(record), failure)
            return False
        if buried:
            self._buried.add(record.receipt)
        return buried

    async def _hand_back(self, records: Sequence[Received]) -> None:
        receipts = [record.receipt for record in records if self._open.pop(record.receipt, None) is not None]
        if receipts:
            await self._extend(receipts, 0)

    async def _extend(self, receipts: Sequence[str], seconds: int) -> None:
        try:
            await self._queue.extend(receipts, seconds)
        except StoreError as error:
            # Then they come again after their time-out.
            log.warning("queue=<%s> | visibility not changed: %s", self._queue.rules.name, error)

    async def _beat(self) -> None:
        """Keep hold of what is open: at each third of the time-out, sooner again where that failed."""
        seconds = self._queue.rules.visibility_seconds
        pause = seconds / 3
        while seconds and self._open:
            await self._clock.sleep(pause)
            asked_at = self._clock.monotonic()
            try:
                refused = await self._queue.extend(tuple(self._open), seconds)
            except StoreError as error:
                log.warning("queue=<%s> | visibility not extended: %s", self._queue.rules.name, error)
                pause = seconds / 12
                continue
            pause, self._ours_until = seconds / 3, asked_at + seconds
            for receipt in refused:
                if receipt in self._open and receipt not in self._lost:
                    self._lost.add(receipt)
                    log.warning("%s | lost: others may work on it too", self._words(self._open[receipt]))

    def _words(self, record: Received) -> str:
        return f"queue=<{self._queue.rules.name}>, message=<{record.id}>, receives=<{record.receive_count}>"


class _Loop:
    """Receives while there is room for more records, and gives each batch to `process`."""

    def __init__(
        self, queue: Queue, handle: Handle, clock: Clock, concurrency: int, wait_seconds: int
    ) -> None:
        self._queue = queue
        self._handle = handle
        self._clock = clock
        self._wait_seconds = wait_seconds
        self._free = max(concurrency, 1)
        self._room = asyncio.Event()
        self._failures = 0

    async def run(self, stop: asyncio.Event, grace_seconds: float) -> None:
        """Until the event is set; then end in order."""
        batches: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:
            stopping = tasks.create_task(stop.wait())
            while not stop.is_set():
                if self._free <= 0:
                    self._room.clear()
                    await self._first(self._room.wait(), stopping)
                elif records := await self._receive(stopping):
                    self._free -= len(records)
                    batch = tasks.create_task(self._process(records))
                    batches.add(batch)
                    batch.add_done_callback(batches.discard)
            if batches:
                grace = tasks.create_task(self._clock.sleep(grace_seconds))
                await self._first(asyncio.wait(batches), grace)
                grace.cancel()
            for batch in batches:
                batch.cancel()  # it hands back what it holds

    async def _first(self, waiting: Awaitable[object], other: asyncio.Task[object]) -> bool:
        """Wait for either; whether it was the first."""
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait((task, other), return_when=asyncio.FIRST_COMPLETED)
            return task.done()
        finally:
            task.cancel()

    async def _receive(self, stopping: asyncio.Task[bool]) -> tuple[Received, ...]:
        limit = min(self._free, MAX_ENTRIES)
        receiving = asyncio.ensure_future(self._queue.receive(limit, wait_seconds=self._wait_seconds))
        try:
            await asyncio.wait((receiving, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiving.cancel()
        await asyncio.wait((receiving,))
        if receiving.cancelled():
            return ()
        try:
            records = receiving.result()
        except StoreError as error:
            self._failures += 1
            longest = min(1 << min(self._failures, 16), LONGEST_SILENCE)
            pause = math.ceil(longest * (0.5 + self._clock.random() / 2))
            log.warning("queue=<%s>, pause=<%d> | nothing received: %s", self._queue.rules.name, pause, error)
            await self._first(self._clock.sleep(pause), stopping)
            return ()
        self._failures = 0
        return records

    async def _process(self, records: Sequence[Received]) -> None:
        left = len(records)

        async def counted(record: Received) -> None:
            nonlocal left
            try:
                await self._handle(record)
            finally:
                left -= 1
                self._make_room(1)

        try:
            await process(records, counted, queue=self._queue, clock=self._clock, delete=True)
        finally:
            self._make_room(left)

    def _make_room(self, places: int) -> None:
        self._free += places
        self._room.set()
