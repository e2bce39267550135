"""Running a batch: its lines through the engine, many at once, under one lease, from wherever it stopped before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from agent_core.batches.formats import LineFormat
from agent_core.batches.lines import LineRun
from agent_core.batches.records import Batch, batch_key
from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.engine.engine import Engine
from agent_core.errors import (
    ConditionError,
    LeaseLostError,
    NotFoundError,
    StoreError,
)
from agent_core.messages import from_record
from agent_core.store.base import AtMost, Equals, Store, Update

log = logging.getLogger("sampan.batches")

LEASE_SECONDS = 10.0
"""How long a batch stays with a worker that went silent: short, as somebody may watch it."""


class Runner:
    """Runs one batch while it holds its lease. Lines whose runs were done before are read, not run again."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        blobs: Blobs,
        clock: Clock,
        formats: Mapping[str, LineFormat],
        *,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._engine = engine
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._formats = formats
        self._lease_seconds = lease_seconds

    async def run(self, batch: Batch) -> Batch:
        """Run the batch to its end; returns it as it is then, or as it was where somebody else holds its lease."""
        taken = await self._take(batch)
        if taken is None:
            return batch
        task = LineRun(
            self._engine, self._store, self._blobs, self._clock, self._formats[taken.format], taken
        )
        beat = asyncio.create_task(task.keep_lease(self._lease_seconds))
        try:
            return await self._worked(task, batch)
        except asyncio.CancelledError:
            await task.let_go()
            raise
        finally:
            beat.cancel()

    async def _worked(self, task: LineRun, batch: Batch) -> Batch:
        try:
            return await task.work()
        except* LeaseLostError:
            log.warning("batch=<%s> | lease lost; another worker goes on", batch.id)
        except* StoreError as group:
            log.warning("batch=<%s> | stopped, to be gone on with: %s", batch.id, group.exceptions[0])
        return batch

    async def _take(self, batch: Batch) -> Batch | None:
        now = self._clock.now()
        owner = self._clock.new_id()
        key = batch_key(batch.principal.tenant, batch.id)
        fields = {
            "owner": owner,
            "lease_until": now + self._lease_seconds,
            "status": "running",
            "open_done": 0,
            "open_failed": 0,
            "open_cost": 0,
        }
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
