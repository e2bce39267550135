"""Running a batch: its lines through the engine, many at once, under one lease, from wherever it stopped before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent_core.batches.formats import LineFormat
from agent_core.batches.records import Batch, Segment, batch_key, blob_session, segment_key
from agent_core.batches.upload import JSONL
from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.engine import keys
from agent_core.engine.engine import Engine
from agent_core.engine.points import point
from agent_core.engine.runs import Inbound, Run
from agent_core.errors import (
    AgentError,
    CancelledError,
    ConditionError,
    LeaseLostError,
    LimitError,
    NotFoundError,
    StoreError,
)
from agent_core.messages import from_record
from agent_core.store.base import AtMost, Delete, Equals, Key, Put, Store, Update

log = logging.getLogger("sampan.batches")

LINE_TRIES = 4
"""How often a line is run before its failure, if it is a passing one, stands."""

SEGMENTS_AHEAD = 3
"""Segments under work at the same time: what bounds the memory of a batch, whatever its size."""


@dataclass
class _Work:
    """A segment under work: its lines, and what came of each so far."""

    segment: Segment
    lines: list[bytes]
    results: list[dict[str, Any]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    left: int = 0
    failed: int = 0
    skipped: int = 0


class Runner:
    """Runs one batch while it holds its lease. Lines whose runs were done before are read, not run again."""

    def __init__(
        self, engine: Engine, store: Store, blobs: Blobs, clock: Clock, formats: Mapping[str, LineFormat]
    ) -> None:
        self._engine = engine
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._formats = formats

    async def run(self, batch: Batch, *, lease_seconds: float = 30.0) -> Batch:
        """Run the batch to its end; returns it as it is then, or as it was where somebody else holds its lease."""
        taken = await self._take(batch, lease_seconds)
        if taken is None:
            return batch
        task = _Run(self._engine, self._store, self._blobs, self._clock, self._formats[taken.format], taken)
        beat = asyncio.create_task(task.keep_lease(lease_seconds))
        try:
            return await task.work()
        except* LeaseLostError:
            log.warning("batch=<%s> | lease lost; another worker goes on", batch.id)
        except* StoreError as group:
            log.warning("batch=<%s> | stopped, to be gone on with: %s", batch.id, group.exceptions[0])
        finally:
            beat.cancel()
        return batch

    async def _take(self, batch: Batch, seconds: float) -> Batch | None:
        now = self._clock.now()
        owner = self._clock.new_id()
        key = batch_key(batch.principal.tenant, batch.id)
        fields = {"owner": owner, "lease_until": now + seconds, "status": "running"}
        if not batch.started_at:
            fields["started_at"] = now
        free = (AtMost("lease_until", now), AtMost("finished_at", 0), Equals("id", batch.id))
        try:
            await self._store.write(Update(key, set=fields, add={"fence": 1}, when=free))
        except ConditionError:
            return None
        record = await self._store.get(key)
        if record is None:
            raise NotFoundError(f"there is no batch {batch.id}")
        taken = from_record(Batch, record.fields)
        return taken if taken.owner == owner else None


class _Run:
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
        self._places = asyncio.Semaphore(batch.concurrency)
        self._ahead = asyncio.Semaphore(SEGMENTS_AHEAD)
        self._spent = batch.cost
        self._stop: AgentError | None = None
        self._lost = False

    async def keep_lease(self, seconds: float) -> None:
        """Renew the lease until cancelled, and learn of a wish to cancel with it."""
        while True:
            await self._clock.sleep(seconds / 3)
            try:
                fields = await self._store.add(self._key, {"beats": 1})
                now = self._clock.now()
                await self._store.write(
                    Update(self._key, set={"lease_until": now + seconds}, when=(self._fence,))
                )
            except ConditionError:
                self._lost = True
                return
            except StoreError as error:
                log.warning("batch=<%s> | lease not renewed, trying again: %s", self._batch.id, error)
                continue
            if fields.get("cancelling"):
                self._stop = CancelledError("the batch was cancelled")

    @property
    def _fence(self) -> Equals:
        return Equals("fence", self._batch.fence)

    async def work(self) -> Batch:
        """Run all segments that have no results yet, then end the batch."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._batch.segments):
                await self._ahead.acquire()
                work = await self._open(number)
                if work is None:
                    self._ahead.release()
                    continue
                for place in range(len(work.lines)):
                    await self._places.acquire()
                    group.create_task(self._line(work, place))
        return await self._end()

    async def _open(self, number: int) -> _Work | None:
        tenant = self._batch.principal.tenant
        record = await self._store.get(segment_key(tenant, self._batch.id, number))
        if record is None:
            raise NotFoundError(f"batch {self._batch.id} has lost its segment {number}")
        segment = from_record(Segment, record.fields)
        if segment.results:
            return None
        blob = await self._blobs.get(tenant, segment.source)
        lines = blob.data.splitlines(keepends=True)
        return _Work(segment, lines, results=[{}] * len(lines), left=len(lines))

    async def _line(self, work: _Work, place: int) -> None:
        number, line = work.segment.first + place, work.lines[place]
        try:
            work.results[place] = await self._answered(work, number, line)
        finally:
            self._places.release()
        work.left -= 1
        if not work.left:
            await self._close(work)
            self._ahead.release()

    async def _answered(self, work: _Work, number: int, line: bytes) -> dict[str, Any]:
        if self._lost:
            raise LeaseLostError("another worker took over the batch")
        try:
            if self._stop is not None:
                work.skipped += 1
                raise self._stop
            inbound = self._format.read(self._batch, line)
            run = await self._run(inbound, number)
        except StoreError:
            raise
        except AgentError as error:
            work.failed += 1
            return self._format.refusal(number, line, error)
        work.runs.append(_figures(run))
        work.failed += run.status != "succeeded"
        self._spend(run.cost)
        return self._format.result(number, line, run)

    def _spend(self, cost: int) -> None:
        """Count what a line cost; at the cap no further line is begun."""
        self._spent += cost
        cap = self._batch.usd
        if cap is not None and self._spent >= cap * 1_000_000_000 and self._stop is None:
            self._stop = LimitError(f"the batch has cost its cap of {cap} USD", limit="usd")

    async def _run(self, inbound: Inbound, number: int) -> Run:
        """The run of a line; a passing failure is tried again, under the same key."""
        inbound = msgspec.structs.replace(
            inbound,
            principal=self._batch.principal,
            agent=inbound.agent or self._batch.agent,
            key=f"batch/{self._batch.id}/{number}",
            channel="batch",
        )
        for attempt in range(LINE_TRIES):
            run = await self._engine.answer(inbound)
            if run.failure is None or not run.failure.retryable or attempt == LINE_TRIES - 1:
                break
            await self._clock.sleep(2**attempt * (0.5 + self._clock.random()))
        return run

    async def _close(self, work: _Work) -> None:
        """Store a segment's results and count them, in one write: a batch that goes on later finds both or neither."""
        tenant = self._batch.principal.tenant
        data = b"".join(msgspec.json.encode(result) + b"\n" for result in work.results)
        ref = await self._blobs.put(tenant, blob_session(self._batch.id), data, JSONL)
        segment = msgspec.structs.replace(work.segment, results=ref)
        counts = {
            "done": len(work.lines) - work.skipped,
            "failed": work.failed - work.skipped,
            "skipped": work.skipped,
            "cost": sum(run.cost for run in work.runs),
            "input_tokens": sum(run.usage.input for run in work.runs),
            "output_tokens": sum(run.usage.output for run in work.runs),
            "unpriced": sum(bool(run.unpriced) for run in work.runs),
        }
        point("before segment")
        try:
            await self._store.write(
                Update(self._key, add=counts, when=(self._fence,)),
                Put(
                    segment_key(tenant, self._batch.id, segment.number),
                    msgspec.to_builtins(segment) | {"v": 1},
                ),
            )
        except ConditionError as error:
            raise LeaseLostError("another worker took over the batch") from error
        point("after segment")

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
                Update(self._key, set=fields, when=(self._fence,)), Delete(Key(keys.DUE, self._batch.due))
            )
        except ConditionError as error:
            raise LeaseLostError("another worker took over the batch") from error
        record = await self._store.get(self._key)
        if record is None:
            raise NotFoundError(f"there is no batch {self._batch.id}")
        return from_record(Batch, record.fields)


def _figures(run: Run) -> Run:
    """The run without its words, which a segment need not keep in memory."""
    return msgspec.structs.replace(run, reply=None)
