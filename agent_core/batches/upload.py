"""Taking in the lines of a batch: as a stream, checked as they come, stored in segments, never all in memory."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping

import msgspec

from agent_core.batches.formats import LineFormat, detect
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

    def __init__(
        self, store: Store, blobs: Blobs, batch: Batch, formats: Mapping[str, LineFormat], max_bytes: int
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._formats = formats
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._begun = 0
        self._lines: list[bytes] = []
        self._size = 0
        self.batch = batch

    async def take(self, chunks: AsyncIterable[bytes]) -> Batch:
        """Store all lines of a stream; a last line without its end is taken too. Returns the batch as it is then.

        Raises TooLargeError for a line over 1 MiB, a batch over a million lines or over its bytes; ConflictError
        where another upload of the same batch came between.
        """
        async for chunk in chunks:
            await self._take(chunk)
        if self._pieces:
            await self._add(b"".join(self._pieces))
        await self._store_segment()
        return self.batch

    async def _take(self, chunk: bytes) -> None:
        first, *others = chunk.split(b"\n")
        self._pieces.append(first)
        self._begun += len(first)
        for other in others:
            await self._add(b"".join(self._pieces) + b"\n")
            self._pieces, self._begun = [other], len(other)
        if self._begun > MAX_LINE:
            raise self._too_long()
        if not self._begun:
            self._pieces = []

    async def _add(self, line: bytes) -> None:
        if len(line) > MAX_LINE:
            raise self._too_long()
        self._lines.append(line)
        self._size += len(line)
        if self.batch.received + self._size > self._max_bytes:
            raise TooLargeError(f"a batch takes at most {self._max_bytes} bytes")
        if len(self._lines) >= SEGMENT_LINES or self._size >= SEGMENT_BYTES:
            await self._store_segment()

    def _too_long(self) -> TooLargeError:
        number = self.batch.rows + len(self._lines) + 1
        return TooLargeError(f"line {number}: a line takes at most {MAX_LINE} bytes", field=f"line {number}")

    async def _store_segment(self) -> None:
        """Store the lines gathered so far; the batch counts them in the same write."""
        if not self._lines:
            return
        before, lines = self.batch, self._lines
        filled = [(before.rows + place, line) for place, line in enumerate(lines, 1) if line.strip()]
        if filled and not before.format:
            self.batch = msgspec.structs.replace(before, format=detect(self._formats, filled[0][1]).name)
        errors = self._errors(filled)
        if before.lines + len(filled) > MAX_LINES:
            raise TooLargeError(f"a batch takes at most {MAX_LINES} lines")
        tenant = before.principal.tenant
        source = await self._blobs.put(tenant, blob_session(before.id), b"".join(lines), JSONL)
        after = msgspec.structs.replace(
            self.batch,
            received=before.received + self._size,
            rows=before.rows + len(lines),
            lines=before.lines + len(filled),
            segments=before.segments + 1,
            invalid=before.invalid + len(errors),
            errors=(*before.errors, *errors)[:SHOWN_ERRORS],
        )
        segment = Segment(
            number=before.segments, first=before.rows + 1, lines=len(lines), size=self._size, source=source
        )
        names = ("format", "received", "rows", "lines", "segments", "invalid")
        fields = {name: getattr(after, name) for name in names}
        head = Update(
            batch_key(tenant, before.id),
            set={**fields, "errors": msgspec.to_builtins(after.errors)},
            when=(Equals("status", "uploading"), Equals("received", before.received)),
        )
        try:
            await self._store.write(
                head, Put(segment_key(tenant, before.id, segment.number), to_record(segment))
            )
        except ConditionError as error:
            raise ConflictError(
                "another upload of this batch came between; read it again for its offset"
            ) from error
        self.batch, self._lines, self._size = after, [], 0

    def _errors(self, lines: list[tuple[int, bytes]]) -> list[LineError]:
        """The lines that can't be run, with their numbers."""
        errors = []
        for number, line in lines:
            try:
                self._formats[self.batch.format].read(self.batch, line)
            except InputError as error:
                errors.append(LineError(number, error.detail, error.field))
            except AgentError as error:
                errors.append(LineError(number, error.detail))
        return errors
