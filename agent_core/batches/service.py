"""Batches as their callers see them: submit, go on with an upload, look, cancel, fetch results."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterable, AsyncIterator, Mapping

import msgspec

from agent_core.batches.formats import LineFormat
from agent_core.batches.records import (
    SEGMENT,
    Batch,
    Segment,
    batch_key,
    blob_session,
    listing,
    listing_key,
)
from agent_core.batches.runner import LEASE_SECONDS, Runner
from agent_core.batches.upload import Upload
from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.engine import keys
from agent_core.engine.engine import Engine
from agent_core.engine.runs import Due
from agent_core.errors import ConditionError, ConflictError, InputError, KeyReusedError, NotFoundError
from agent_core.messages import Principal, from_record, to_record
from agent_core.store.base import Absent, Delete, Equals, Key, Put, Store, Update

log = logging.getLogger("sampan.batches")

KIND = "batch"
PIECE = 256 * 1024


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch is asked to be; `format` "" is told by the first line, `agent` "" is the default one."""

    format: str = ""
    agent: str = ""
    concurrency: int = 8
    usd: float | None = None
    deadline: str = ""

    def fingerprint(self) -> str:
        """A hash of the options."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class OffsetError(ConflictError):
    """An upload is not at this byte; `received` says where it is."""

    def __init__(self, received: int, offset: int) -> None:
        super().__init__(f"the upload stopped at byte {received}, not {offset}; go on from there")
        self.received = received


class Batches:
    """The batches of a process; `formats` by their names."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        blobs: Blobs,
        clock: Clock,
        formats: Mapping[str, LineFormat],
        *,
        max_bytes: int = 1024**3,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._engine = engine
        self._store = store
        self._blobs = blobs
        self._clock = clock
        self._formats = formats
        self._max_bytes = max_bytes
        self._runner = Runner(engine, store, blobs, clock, formats, lease_seconds=lease_seconds)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def create(self, principal: Principal, options: Options, batch_id: str = "") -> tuple[Batch, bool]:
        """A batch with no lines yet, open for upload; and whether it was there before, under the same `batch_id`.

        Raises InputError, or KeyReusedError where a batch of this id was asked to be another one.
        """
        if options.format and options.format not in self._formats:
            known = ", ".join(sorted(self._formats))
            raise InputError(f"a batch's format is one of {known}", field="$.format")
        if options.agent and options.agent not in self._engine.agents:
            known = ", ".join(sorted(self._engine.agents))
            raise NotFoundError(f"there is no agent {options.agent!r}; there are: {known}")
        batch = Batch(
            id=batch_id or self._clock.new_id(),
            principal=principal,
            status="uploading",
            created_at=self._clock.now(),
            fingerprint=options.fingerprint(),
            **msgspec.structs.asdict(options),
        )
        try:
            await self._store.write(
                Put(batch_key(principal.tenant, batch.id), _counters(batch), when=(Absent(),)),
                Put(listing_key(batch), {"v": 1, "id": batch.id}),
            )
        except ConditionError:
            there = await self.get(principal, batch.id)
            if there.fingerprint != batch.fingerprint:
                raise KeyReusedError("this idempotency key was used for a batch with other options") from None
            return there, True
        return batch, False

    async def append(
        self, principal: Principal, batch_id: str, offset: int, chunks: AsyncIterable[bytes]
    ) -> Batch:
        """Go on with an upload at this byte; raises OffsetError where that is not where it stopped."""
        batch = await self.get(principal, batch_id)
        if batch.status != "uploading":
            raise ConflictError(f"the batch is {batch.status}; it takes no more lines")
        if offset != batch.received:
            raise OffsetError(batch.received, offset)
        return await self._upload(batch).take(chunks)

    async def submit(
        self, principal: Principal, options: Options, chunks: AsyncIterable[bytes], batch_id: str = ""
    ) -> tuple[Batch, bool]:
        """Make a batch of a whole stream of lines and have it run; and whether all of it was there before.

        Sent again under the same `batch_id`, an upload that broke off is completed: the bytes that are stored are
        compared, what follows them is taken. Raises KeyReusedError where they are others.
        """
        batch, known = await self.create(principal, options, batch_id)
        if known:
            chunks = self._behind(batch, chunks)
        if batch.status != "uploading":
            async for _ in chunks:
                raise KeyReusedError("this idempotency key was used for a batch with fewer lines")
            return batch, True
        batch = await self._upload(batch).take(chunks)
        if not batch.lines:
            raise InputError("the batch has no lines")
        return await self.start(principal, batch.id), False

    async def blob(self, principal: Principal, ref: str) -> AsyncIterator[bytes]:
        """The lines in a blob; raises NotFoundError, before anything is made of them."""
        data = memoryview((await self._blobs.get(principal.tenant, ref)).data)
        for start in range(0, len(data), PIECE):
            yield bytes(data[start : start + PIECE])

    def _upload(self, batch: Batch) -> Upload:
        return Upload(self._store, self._blobs, batch, self._formats, self._max_bytes)

    async def _behind(self, batch: Batch, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """What follows the bytes of a stream that the batch has, once these were compared by their hashes."""
        other = KeyReusedError("this idempotency key was used for a batch with other lines")
        stored = self.segments(batch)
        segment = await anext(stored, None)
        digest, left = hashlib.sha256(), segment.size if segment else 0
        async for chunk in chunks:
            rest = memoryview(chunk)
            while segment is not None and rest:
                digest.update(rest[:left])
                taken, rest = len(rest[:left]), rest[left:]
                left -= taken
                if left:
                    continue
                if digest.hexdigest() != segment.source.rpartition("/")[2]:
                    raise other
                segment = await anext(stored, None)
                digest, left = hashlib.sha256(), segment.size if segment else 0
            if rest:
                yield bytes(rest)
        if segment is not None:
            raise other

    async def segments(self, batch: Batch) -> AsyncIterator[Segment]:
        """The segments of a batch in order."""
        after = ""
        while True:
            page = await self._store.query(
                batch_key(batch.principal.tenant, batch.id).partition, SEGMENT, after=after, limit=100
            )
            for record in page.records:
                yield from_record(Segment, record.fields)
            after = page.after
            if not after:
                return

    async def start(self, principal: Principal, batch_id: str, *, work: bool = True) -> Batch:
        """End the upload and have the batch run; `work` False leaves the work to the sweeper of another process."""
        batch = await self.get(principal, batch_id)
        if batch.status != "uploading":
            return batch
        if not batch.lines:
            raise ConflictError("the batch has no lines yet; send some, then start it")
        due = keys.due(self._clock.now(), principal.tenant, batch.id, suffix="/batch")
        entry = Due(kind=KIND, tenant=principal.tenant, user=principal.user, session_id="", run_id=batch.id)
        try:
            await self._store.write(
                Update(
                    batch_key(principal.tenant, batch.id),
                    set={"status": "queued", "due": due.sort},
                    when=(Equals("status", "uploading"), Equals("received", batch.received)),
                ),
                Put(due, to_record(entry)),
            )
        except ConditionError as error:
            raise ConflictError("the batch changed in this moment; read it again") from error
        batch = msgspec.structs.replace(batch, status="queued", due=due.sort)
        if work:
            self._spawn(batch)
        return batch

    async def get(self, principal: Principal, batch_id: str) -> Batch:
        """A batch with its counters; raises NotFoundError."""
        record = await self._store.get(batch_key(principal.tenant, batch_id))
        batch = from_record(Batch, record.fields) if record else None
        if batch is None or batch.principal.user != principal.user:
            raise NotFoundError(f"there is no batch {batch_id}")
        return batch

    async def list(self, principal: Principal, *, limit: int = 50, before: str = "") -> list[Batch]:
        """The caller's batches, newest first; `before` is the id of the last one already seen."""
        after = listing_key(await self.get(principal, before)).sort if before else ""
        page = await self._store.query(listing(principal), after=after, limit=limit, reverse=True)
        return [await self.get(principal, record.fields["id"]) for record in page.records]

    async def cancel(self, principal: Principal, batch_id: str) -> Batch:
        """Begin no further line; lines under way come to their end. A batch that is over stays as it is."""
        batch = await self.get(principal, batch_id)
        if batch.over:
            return batch
        key = batch_key(principal.tenant, batch_id)
        if batch.status == "uploading":
            await self._store.write(
                Update(key, set={"status": "cancelled", "finished_at": self._clock.now()})
            )
        else:
            await self._store.write(Update(key, set={"cancelling": 1}))
        return await self.get(principal, batch_id)

    async def results(self, batch: Batch) -> AsyncIterator[bytes]:
        """The results in the order of the lines, a segment at a time, as far as they are there."""
        async for segment in self.segments(batch):
            if not segment.results:
                return
            data = (await self._blobs.get(batch.principal.tenant, segment.results)).data
            if data:
                yield data

    async def look_after(self, key: Key, due: Due) -> None:
        """Run a batch that nobody works on: what the sweeper calls."""
        batch = await self.get(Principal(tenant=due.tenant, user=due.user), due.run_id)
        if batch.over:
            await self._store.write(Delete(key))
        else:
            self.go_on(batch)

    def go_on(self, batch: Batch) -> None:
        """Work here on a batch that was started, unless somebody holds it, or it is over."""
        if batch.status in ("queued", "running") and batch.lease_until <= self._clock.now():
            self._spawn(batch)

    def _spawn(self, batch: Batch) -> None:
        if batch.id in self._tasks:
            return
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._tasks[batch.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(batch.id))

    async def _run(self, batch: Batch) -> None:
        try:
            ended = await self._runner.run(batch)
        except Exception:  # the outermost boundary of a worker: the batch stays due, the log has the reason
            log.exception("batch=<%s> | worker stopped", batch.id)
            return
        log.info("batch=<%s>, status=<%s> | worker done", ended.id, ended.status)

    async def drain(self) -> None:
        """Wait for the batches that run in this process."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await asyncio.sleep(0)  # as in the engine's drain

    async def close(self) -> None:
        """Stop working; what is left is gone on with by another process, or by this one when it starts again."""
        for task in self._tasks.values():
            task.cancel()
        await self.drain()

    async def erase(self, principal: Principal, batch_id: str) -> None:
        """Remove the blobs of a batch that is over."""
        batch = await self.get(principal, batch_id)
        if not batch.over:
            raise ConflictError("the batch is not over; cancel it first")
        await self._blobs.erase(principal.tenant, blob_session(batch_id))


def _counters(batch: Batch) -> dict[str, object]:
    """The batch as a record in which conditions and counters find their fields, also where they are 0."""
    return to_record(batch) | {"received": 0, "finished_at": 0.0, "lease_until": 0.0, "fence": 0}
