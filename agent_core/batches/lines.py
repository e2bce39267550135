"""The lines of a batch through the engine, many at once, segment by segment, from wherever it stopped before."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent_core.batches.formats import LineFormat
from agent_core.batches.provider import ProviderBatch
from agent_core.batches.purse import Purse
from agent_core.batches.records import Batch, Segment, batch_key, blob_session, segment_key
from agent_core.batches.upload import JSONL
from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.engine.engine import Engine
from agent_core.engine.points import point
from agent_core.engine.runs import BATCH, Inbound, Run
from agent_core.errors import (
    AgentError,
    CancelledError,
    ConditionError,
    LeaseLostError,
    LimitError,
    NotFoundError,
    RunningError,
    StoreError,
)
from agent_core.messages import from_record, to_record
from agent_core.models.batching import PrefetchedModel, given, turnstile
from agent_core.store.base import Delete, Equals, Put, Store, Update
from agent_core.store.shards import place

log = logging.getLogger("sampan.batches")

LINE_TRIES = 4
"""How often a line is run before its failure, if it is a passing one, stands."""

BEATS = 10
"""How often within that time a worker renews its lease, tells how far it is, and learns of a wish to cancel."""

STORING = 16
"""Lines that are begun beyond those that ask their models, as others are being stored; at most half as many."""

SEGMENTS_AHEAD = 3
"""Segments under work at the same time: what bounds the memory of a batch, whatever its size."""


@dataclass
class _Work:
    """A segment under work: its lines with their places, and what came of each so far."""

    segment: Segment
    lines: list[bytes]
    results: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    answers: dict[int, bytes] = field(default_factory=dict)
    left: int = 0


class LineRun:
    """One worker's run of a batch."""

    def __init__(
        self, engine: Engine, store: Store, blobs: Blobs, clock: Clock, format: LineFormat, batch: Batch
    ) -> None:
        self._engine = engine
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._format = format
        self._batch = batch
        self._key = batch_key(batch.principal.tenant, batch.id)
        self._calls: asyncio.Semaphore | None = None
        lines = batch.concurrency
        if all(isinstance(bound.model, PrefetchedModel) for bound in engine.agents.values()):
            # What is limited is calls of models: while some lines are being stored, others ask.
            self._calls = asyncio.Semaphore(batch.concurrency)
            lines += min(-(-lines // 2), STORING)
        self._places = asyncio.Semaphore(lines)
        self._ahead = asyncio.Semaphore(SEGMENTS_AHEAD)
        self._open: list[_Work] = []
        self._provider = ProviderBatch(
            store, blobs, clock, format, batch, engine.agents, engine.default_agent
        )
        self._purse = Purse(batch.usd, batch.cost)
        self._stop: AgentError | None = (
            CancelledError("the batch was cancelled") if batch.cancelling else None
        )
        self._lost = False
        self._left = False

    async def keep_lease(self, seconds: float) -> None:
        """Renew the lease until cancelled, tell how far the work is, and learn of a wish to cancel."""
        while True:
            await self._clock.sleep(seconds / BEATS)
            if self._left:
                return
            try:
                until = self._clock.now() + seconds
                fields = {"lease_until": until, **self._progress(self._open)}
                await self._store.write(Update(self._key, set=fields, when=(self._fence,)))
                record = await self._store.get(self._key)
            except ConditionError:
                self._lost = True
                return
            except StoreError as error:
                log.warning("batch=<%s> | lease not renewed, trying again: %s", self._batch.id, error)
                continue
            if record is not None and record.fields.get("cancelling"):
                self._stop = CancelledError("the batch was cancelled")

    async def let_go(self, seconds: float = 0.0) -> None:
        """Release the lease in the middle, to be taken by anybody, or when these seconds are over."""
        self._left = True
        until = self._clock.now() + seconds if seconds else 0.0
        try:
            await self._store.write(Update(self._key, set={"lease_until": until}, when=(self._fence,)))
        except StoreError as error:
            log.warning("batch=<%s> | lease not released: %s", self._batch.id, error)

    @staticmethod
    def _progress(works: list[_Work]) -> dict[str, int]:
        """The counters of segments that are still under work."""
        return {f"open_{name}": sum(w.counts[name] for w in works) for name in ("done", "failed", "cost")}

    @property
    def _fence(self) -> Equals:
        return Equals("fence", self._batch.fence)

    async def work(self) -> Batch:
        """Run all segments that have no results yet, then end the batch; or let go of it till the provider is done."""
        wait = await self._provider.advance()
        if wait:
            await self.let_go(wait)
            return self._batch
        async with asyncio.TaskGroup() as group:
            for number in range(self._batch.segments):
                await self._ahead.acquire()
                work = await self._opened(number)
                if work is None:
                    self._ahead.release()
                    continue
                if not work.left:
                    await self._close(work)
                for place, line in enumerate(work.lines):
                    if line.strip():
                        await self._places.acquire()
                        group.create_task(self._line(work, place))
        return await self._end()

    async def _opened(self, number: int) -> _Work | None:
        tenant = self._batch.principal.tenant
        record = await self._store.get(segment_key(tenant, self._batch.id, number))
        if record is None:
            raise NotFoundError(f"batch {self._batch.id} has lost its segment {number}")
        segment = from_record(Segment, record.fields)
        if segment.results:
            return None
        lines = (await self._blobs.get(tenant, segment.source)).data.split(b"\n")
        work = _Work(
            segment,
            lines,
            results=[b""] * len(lines),
            answers=await self._provider.given(segment),
            left=sum(bool(line.strip()) for line in lines),
        )
        self._open.append(work)
        return work

    async def _line(self, work: _Work, place: int) -> None:
        try:
            result = await self._answered(work, work.segment.first + place, work.lines[place])
        finally:
            self._places.release()
        work.results[place] = msgspec.json.encode(result) + b"\n"
        work.left -= 1
        if not work.left:
            await self._close(work)

    async def _answered(self, work: _Work, number: int, line: bytes) -> dict[str, Any]:
        if self._lost:
            raise LeaseLostError("another worker took over the batch")
        answer = work.answers.pop(number, b"")
        if answer:  # what was paid for is taken in any case
            return await self._answered_within(work, number, line, answer)
        if self._stop is None and not await self._purse.enter():
            self._stop = LimitError(f"the batch has cost its cap of {self._batch.usd} USD", limit="usd")
        elif self._stop is None:
            try:
                return await self._answered_within(work, number, line, b"")
            finally:
                self._purse.leave()
        work.counts["skipped"] += 1
        return self._format.refusal(number, line, self._stop)

    async def _answered_within(self, work: _Work, number: int, line: bytes, answer: bytes) -> dict[str, Any]:
        try:
            inbound = self._format.read(self._batch, line)
            turnstile.set(self._calls)  # for this line's task and the run it starts, as is what follows
            if answer:
                given.set(self._provider.take(inbound, answer))
            run = await self._run(inbound, number)
        except StoreError:
            raise
        except AgentError as error:
            work.counts.update(done=1, failed=1)
            return self._format.refusal(number, line, error)
        except Exception:  # the outermost boundary of a record: one line never holds up the others
            log.exception("batch=<%s>, line=<%d> | line failed", self._batch.id, number)
            work.counts.update(done=1, failed=1)
            return self._format.refusal(number, line, AgentError("an unexpected error; the log has it"))
        self._count(work, run)
        return self._format.result(number, line, run)

    def _count(self, work: _Work, run: Run) -> None:
        """Count what a line came to."""
        work.counts.update(
            done=1,
            failed=int(run.status != "succeeded"),
            cost=run.cost,
            input_tokens=run.usage.input,
            output_tokens=run.usage.output,
            unpriced=int(bool(run.unpriced)),
        )
        self._purse.spend(run.cost)

    async def _run(self, inbound: Inbound, number: int) -> Run:
        """The run of a line; a passing failure is tried again, under the same key."""
        inbound = msgspec.structs.replace(
            inbound,
            principal=self._batch.principal,
            agent=inbound.agent or self._batch.agent,
            key=f"batch/{self._batch.id}/{number}",
            channel=BATCH,
        )
        failures = 0
        while True:
            try:
                run = await self._engine.answer(inbound)
            except RunningError as error:
                # A worker that died holds its session for some seconds more; or the sweeper goes on with it.
                if self._lost:
                    raise LeaseLostError("another worker took over the batch") from error
                await self._wait(error.retry_after or 1.0)
                continue
            failures += 1
            if run.failure is None or not run.failure.retryable or failures == LINE_TRIES:
                return run
            await self._clock.sleep(2 ** (failures - 1) * (0.5 + self._clock.random()))

    async def _wait(self, seconds: float) -> None:
        """Wait without keeping another line from its turn."""
        self._places.release()
        try:
            await self._clock.sleep(seconds)
        finally:
            await self._places.acquire()

    async def _close(self, work: _Work) -> None:
        """Store a segment's results and count them, in one write: a batch that goes on later finds both or neither."""
        tenant = self._batch.principal.tenant
        ref = await self._blobs.put(tenant, blob_session(self._batch.id), b"".join(work.results), JSONL)
        segment = msgspec.structs.replace(work.segment, results=ref)
        others = [other for other in self._open if other is not work]
        point("before segment")
        try:
            await self._store.write(
                Update(self._key, set=self._progress(others), add=dict(work.counts), when=(self._fence,)),
                Put(segment_key(tenant, self._batch.id, segment.number), to_record(segment)),
            )
        except ConditionError as error:
            raise LeaseLostError("another worker took over the batch") from error
        point("after segment")
        self._open.remove(work)
        self._ahead.release()

    async def _end(self) -> Batch:
        stop = self._stop
        status = (
            "succeeded" if stop is None else "cancelled" if isinstance(stop, CancelledError) else "failed"
        )
        fields = {
            "status": status,
            "finished_at": self._clock.now(),
            "lease_until": 0.0,
            "reason": stop.detail if stop else "",
        }
        try:
            await self._store.write(
                Update(self._key, set=fields, when=(self._fence,)), Delete(place(self._batch.due))
            )
        except ConditionError as error:
            raise LeaseLostError("another worker took over the batch") from error
        record = await self._store.get(self._key)
        if record is None:
            raise NotFoundError(f"there is no batch {self._batch.id}")
        return from_record(Batch, record.fields)
