"""Lines of a batch whose session is erased: they are blanked, and what came of them is taken out of the results."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from agent_core.batches.records import SEGMENT, Batch, Segment, batch_key, blob_session
from agent_core.batches.upload import JSONL
from agent_core.blobs.base import Blobs
from agent_core.engine.runs import Run
from agent_core.errors import SessionBusyError
from agent_core.messages import Principal, from_record, to_record
from agent_core.store.base import Key, Put, Store


async def forget(store: Store, blobs: Blobs, principal: Principal, runs: Sequence[Run]) -> None:
    """Take the lines of these runs out of their batches, which must be over: else SessionBusyError.

    The counters stay. Broken off, it can be done again.
    """
    batches: dict[str, set[int]] = {}
    for run in runs:
        if run.line:
            _, batch_id, number = run.line.split("/")
            batches.setdefault(batch_id, set()).add(int(number))
    for batch_id in batches:
        record = await store.get(batch_key(principal.tenant, batch_id))
        if record is not None and not from_record(Batch, record.fields).over:
            raise SessionBusyError(
                f"a message of the session is a line of batch {batch_id}, which is not over; wait or cancel it",
                retry_after=60.0,
            )
    for batch_id, lines in batches.items():
        await _blank(store, blobs, principal.tenant, batch_id, lines)


async def _blank(store: Store, blobs: Blobs, tenant: str, batch_id: str, lines: set[int]) -> None:
    found: dict[Key, Segment] = {}
    after = ""
    while True:
        page = await store.query(batch_key(tenant, batch_id).partition, SEGMENT, after=after, limit=100)
        found.update({record.key: from_record(Segment, record.fields) for record in page.records})
        after = page.after
        if not after:
            break
    concerned: list[Key] = []
    for key, segment in found.items():
        here = lines.intersection(range(segment.first, segment.first + segment.lines))
        if here:
            concerned.append(key)
            found[key] = await _blanked(blobs, tenant, blob_session(batch_id), segment, here)
            await store.write(Put(key, to_record(found[key])))
    # Segments of the same bytes share a blob.
    used = {ref for segment in found.values() for ref in (segment.source, segment.results, segment.answers)}
    for key in concerned:
        for ref in set(found[key].gone) - used:
            await blobs.remove(tenant, ref)
        await store.write(Put(key, to_record(msgspec.structs.replace(found[key], gone=()))))


async def _blanked(
    blobs: Blobs, tenant: str, session: str, segment: Segment, here: Collection[int]
) -> Segment:
    """The segment without these lines, in new blobs; the old ones stand in `gone`."""
    source = (await blobs.get(tenant, segment.source)).data
    rows = list(enumerate(source.split(b"\n"), segment.first))
    filled = [number for number, row in rows if row.strip()]
    blank = b"\n".join(b" " * len(row) if number in here else row for number, row in rows)
    refs = {"source": await blobs.put(tenant, session, blank, JSONL)}
    if segment.results:
        results = (await blobs.get(tenant, segment.results)).data.split(b"\n")[:-1]
        kept = b"".join(
            result + b"\n" for number, result in zip(filled, results, strict=True) if number not in here
        )
        refs["results"] = await blobs.put(tenant, session, kept, JSONL)
    if segment.answers:
        answers = (await blobs.get(tenant, segment.answers)).data.split(b"\n")[:-1]
        kept = b"".join(answer + b"\n" for answer in answers if int(answer.partition(b" ")[0]) not in here)
        refs["answers"] = await blobs.put(tenant, session, kept, "text/plain")
    gone = [getattr(segment, name) for name, ref in refs.items() if getattr(segment, name) != ref]
    return msgspec.structs.replace(segment, **refs, gone=(*segment.gone, *gone))
