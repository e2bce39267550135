"""Taking in the lines of a batch: as a stream, checked as they come, stored in segments, never all in memory."""

from __future__ import annotations

from collections.abc import AsyncIterable

import msgspec

from agent_core.batches.formats import LineFormat
from agent_core.batches.records import Batch, LineError, Segment, batch_key, blob_session, segment_key
from agent_core.blobs.base import Blobs
from agent_core.errors import AgentError, ConditionError, ConflictError, InputError, TooLargeError
from agent_core.messages import to_record
from agent_core.store.base import Equals, Put, Store, Update

SEGMENT_LINES = 500
SEGMENT_BYTES = 1024 * 1024
MAX_LINE = 1024 * 1024
MAX_LINES = 1_000_000
SHOWN_ERRORS = 100
JSONL = "application/jsonl"


class Upload:
    """Adds bytes to a batch that is being uploaded. What was stored stays, however the upload ends."""

    def __init__(self, store: Store, blobs: Blobs, batch: Batch, format: LineFormat) -> None:
        self._store = store
        self._blobs = blobs
        self._format = format
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._size = 0
        self.batch = batch

    async def take(self, chunks: AsyncIterable[bytes]) -> Batch:
        """Store all lines of a stream; a last line without its end is taken too. Returns the batch as it is then.

        Raises TooLargeError for a line over 1 MiB or a batch over a million lines, ConflictError where another
        upload of the same batch came between.
        """
        async for chunk in chunks:
            self._buffer += chunk
            *whole, rest = self._buffer.split(b"\n")
            self._buffer = bytearray(rest)
            for line in whole:
                await self._add(bytes(line) + b"\n")
            if len(self._buffer) > MAX_LINE:
                raise self._too_long(len(self._lines) + 1)
        if self._buffer:
            await self._add(bytes(self._buffer))
        await self._store_segment()
        return self.batch

    async def _add(self, line: bytes) -> None:
        if len(line) > MAX_LINE:
            raise self._too_long(len(self._lines) + 1)
        self._lines.append(line)
        self._size += len(line)
        if len(self._lines) >= SEGMENT_LINES or self._size >= SEGMENT_BYTES:
            await self._store_segment()

    def _too_long(self, place: int) -> TooLargeError:
        number = self.batch.lines + self.batch.invalid + place
        return TooLargeError(
            f"about line {number}: a line takes at most {MAX_LINE} bytes", field=f"line {number}"
        )

    async def _store_segment(self) -> None:
        """Store the lines gathered so far; the batch counts them in the same write."""
        if not self._lines:
            return
        batch, lines = self.batch, self._lines
        filled = [line for line in lines if line.strip()]
        errors = self._errors(filled, batch.lines)
        if batch.lines + len(filled) > MAX_LINES:
            raise TooLargeError(f"a batch takes at most {MAX_LINES} lines")
        after = msgspec.structs.replace(
            batch,
            received=batch.received + self._size,
            lines=batch.lines + len(filled),
            segments=batch.segments + bool(filled),
            invalid=batch.invalid + len(errors),
            errors=(*batch.errors, *errors)[:SHOWN_ERRORS],
        )
        tenant = batch.principal.tenant
        writes: list[Put] = []
        if filled:
            data = b"".join(line if line.endswith(b"\n") else line + b"\n" for line in filled)
            source = await self._blobs.put(tenant, blob_session(batch.id), data, JSONL)
            segment = Segment(number=batch.segments, first=batch.lines + 1, lines=len(filled), source=source)
            writes.append(Put(segment_key(tenant, batch.id, segment.number), to_record(segment)))
        fields = {name: getattr(after, name) for name in ("received", "lines", "segments", "invalid")}
        head = Update(
            batch_key(tenant, batch.id),
            set={**fields, "errors": msgspec.to_builtins(after.errors)},
            when=(Equals("status", "uploading"), Equals("received", batch.received)),
        )
        try:
            await self._store.write(head, *writes)
        except ConditionError as error:
            raise ConflictError(
                "another upload of this batch came between; read it again for its offset"
            ) from error
        self.batch, self._lines, self._size = after, [], 0

    def _errors(self, lines: list[bytes], before: int) -> list[LineError]:
        """The lines that can't be run, with their numbers."""
        errors = []
        for number, line in enumerate(lines, before + 1):
            try:
                self._format.read(self.batch, line)
            except InputError as error:
                errors.append(LineError(number, error.detail, error.field))
            except AgentError as error:
                errors.append(LineError(number, error.detail))
        return errors
