"""A store whose records and transactions may be of any size, over one that bounds both (DynamoDB: 400 KB and 4 MB).

A field that is too large for its record, or for the transaction it is written in, is stored beside it, cut in pieces,
and the record keeps a pointer in its place. So large records have the store's own durability, expiry and erasure, and
need no blob store. Where nothing is large, nothing is read or written more than without.

    <tenant>/<rest>            <sort>                   the record, with pointers in the place of moved fields
    <tenant>/overflow/<rest>   <sort>/<unique>/<piece>  what was moved, as JSON text in pieces

Pieces are written ahead of the record, under a name of their own each time: nobody who reads the record before or
after sees a mixture. Those of a record that was overwritten or deleted are removed after it; what a crash leaves of
them expires with the record, or is found when its session or tenant is erased.

Three rules for who writes records that may be large: no condition is on a large field; they lie in a partition that
begins with their tenant; and one that expires is written whole (or read before its expiry is changed), since an
Update does not know when the record expires.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from agent_core.clock import Clock
from agent_core.errors import ConditionError, InputError, StoreBusyError, StoreError
from agent_core.store.base import (
    MAX_QUERY,
    MAX_WRITES,
    Above,
    Condition,
    Delete,
    Fields,
    Key,
    LoggedStore,
    Page,
    Put,
    Record,
    Scan,
    Store,
    Update,
    WholeStore,
    Write,
)
from agent_core.store.pieces import (
    MARK,
    PIECE,
    TRANSACTION,
    Pointer,
    beside,
    fields_of,
    keys_of,
    pointers,
    spread,
    unmarked,
    within,
)

log = logging.getLogger("sampan.store")

_AT_ONCE = 16
_TRIES = 5
_REMEMBERED = 10_000
"""Records with moved fields that are kept in mind."""

_decode = msgspec.json.decode


class OverflowStore:
    """All verbs of the store beneath, without its limits. `clock` makes the names of pieces."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._places = asyncio.Semaphore(_AT_ONCE)
        # What this process has read or written: whose pieces are to be removed or kept longer with it.
        self._known: dict[Key, dict[str, Pointer]] = {}

    async def get(self, key: Key) -> Record | None:
        """The record under this key, or None."""
        return await self._whole(await self._store.get(key))

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        """Records of one partition whose sort key begins with `prefix`, in order (or in reverse)."""
        page = await self._store.query(partition, prefix, after=after, limit=limit, reverse=reverse)
        if not any(MARK in record.fields for record in page.records):
            return page
        kept = within(page.records)
        whole = await asyncio.gather(*map(self._whole, kept))
        after = page.after if len(kept) == len(page.records) else kept[-1].key.sort
        return Page(tuple(record for record in whole if record is not None), after)

    async def write(self, *writes: Write) -> None:
        """Do all of 1 to 100 writes, or none; of any size together."""
        moved, pieces = spread(writes, self._clock.new_id)
        await self._do(pieces)
        if self._known:
            await self._do(self._kept(writes, forever=True))
        try:
            await self._store.write(*moved)
        except ConditionError as error:
            await self._remove(piece.key for piece in pieces)
            if error.current is None or MARK not in error.current:
                raise
            found = await self._whole(Record(writes[error.index].key, error.current, 0))
            raise ConditionError(
                str(error), index=error.index, current=found.fields if found else None
            ) from error
        except InputError:
            await self._remove(piece.key for piece in pieces)
            raise
        if self._known or pieces:
            await self._settle(writes, moved)

    async def add(
        self,
        key: Key,
        numbers: Mapping[str, int],
        *,
        expires_at: float | None = None,
        when: tuple[Condition, ...] = (),
    ) -> Fields:
        """Add to counters atomically and return all fields as they are then."""
        fields = await self._store.add(key, numbers, expires_at=expires_at, when=when)
        if MARK not in fields:
            return fields
        found = await self._whole(Record(key, fields, 0))
        return found.fields if found else {}

    async def scan(self, *, after: Key | None = None) -> Scan:
        """Records of all partitions, and the pieces too: whoever erases must find those that nobody points to."""
        page = await cast(WholeStore, self._store).scan(after=after)
        kept = within(page.records)
        whole = [await self._remains(record) for record in kept]
        return Scan(tuple(whole), page.after if len(kept) == len(page.records) else kept[-1].key)

    async def scrub(self) -> None:
        """Have nothing left of what was deleted, in the store's own files and logs."""
        await cast(WholeStore, self._store).scrub()

    async def empty_log(self) -> None:
        """Empty the store's own log of writes, where it has one."""
        if isinstance(self._store, LoggedStore):
            await self._store.empty_log()

    async def close(self) -> None:
        """Close the store beneath."""
        await self._store.close()

    # Reading

    async def _whole(self, record: Record | None) -> Record | None:
        """The record with its moved fields; read again where it was overwritten meanwhile, None where deleted."""
        for _ in range(_TRIES):
            if record is None or MARK not in record.fields:
                return record
            moved = pointers(record.key, record.fields)
            fields = await self._fetched(record, moved)
            if fields is not None:
                self._remember(record.key, moved)
                return Record(record.key, fields, record.version)
            again = await self._store.get(record.key)
            if again is not None and pointers(again.key, again.fields) == moved:
                raise StoreError(f"a stored record is damaged: parts of {record.key} are missing")
            record = again
        raise StoreBusyError(f"{record and record.key} is overwritten all the time", retry_after=1.0)

    async def _remains(self, record: Record) -> Record:
        """The record with those of its moved fields that are there: an expired or half erased one must be found."""
        if MARK not in record.fields:
            return record
        moved = pointers(record.key, record.fields)
        fields = unmarked(record.fields)
        for field, pointer in moved.items():
            found = await self._fetched(record, {field: pointer})
            if found is None:
                del fields[field]
            else:
                fields[field] = found[field]
        self._remember(record.key, moved)
        return Record(record.key, fields, record.version)

    async def _fetched(self, record: Record, moved: Mapping[str, Pointer]) -> Fields | None:
        """The fields with what was moved; None where any of it is not there any more."""
        partition = beside(record.key.partition)
        texts = await asyncio.gather(*(self._text(partition, pointer) for pointer in moved.values()))
        fields = unmarked(record.fields)
        for field, text in zip(moved, texts, strict=True):
            if text is None:
                return None
            fields[field] = _decode(text)
        return fields

    async def _text(self, partition: str, pointer: Pointer) -> str | None:
        texts: list[str] = []
        after = ""
        async with self._places:
            while True:
                page = await self._store.query(
                    partition, f"{pointer.place}/", after=after, limit=min(pointer.pieces, MAX_QUERY)
                )
                texts += [record.fields["text"] for record in page.records]
                after = page.after
                if not after:
                    break
        return "".join(texts) if len(texts) == pointer.pieces else None

    # Writing

    async def _settle(self, writes: Sequence[Write], moved: Sequence[Write]) -> None:
        """After a write: remember what was moved now, and remove what it took the place of."""
        longer = self._kept(writes, forever=False)
        doomed: list[Key] = []
        for write, after in zip(writes, moved, strict=True):
            new = pointers(write.key, fields_of(after) or {})
            known = self._known.pop(write.key, {})
            for field, pointer in known.items():
                if isinstance(write, Put | Delete) or (isinstance(write, Update) and field in write.set):
                    doomed += keys_of(write.key, pointer)
                else:
                    new.setdefault(field, pointer)
            if new:
                self._remember(write.key, new)
        await self._remove(doomed)
        await self._do(longer)

    def _kept(self, writes: Sequence[Write], *, forever: bool) -> list[Update]:
        """The writes that have pieces expire when their record does, where only its expiry changes."""
        kept: list[Update] = []
        for write in writes:
            if (
                not isinstance(write, Update)
                or write.expires_at is None
                or (write.expires_at == 0) != forever
            ):
                continue
            for field, pointer in self._known.get(write.key, {}).items():
                if field not in write.set:
                    kept += [
                        Update(key, when=(Above("at", -1),), expires_at=write.expires_at)
                        for key in keys_of(write.key, pointer)
                    ]
        return kept

    async def _do(self, writes: Sequence[Put] | Sequence[Update]) -> None:
        """These writes, in as many transactions as they need."""
        batch: list[Write] = []
        size = 0
        for write in writes:
            size += len(str(write.fields["text"])) * 2 if isinstance(write, Put) else PIECE
            if batch and (size > 2 * TRANSACTION or len(batch) == MAX_WRITES):
                await self._store.write(*batch)
                batch, size = [], 0
            batch.append(write)
        if batch:
            await self._store.write(*batch)

    async def _remove(self, doomed: Any) -> None:
        """Remove pieces that nobody points to any more; where that fails, they lie about until they expire."""
        keys = list(doomed)
        most = TRANSACTION // PIECE
        try:
            for start in range(0, len(keys), most):
                await self._store.write(*map(Delete, keys[start : start + most]))
        except StoreError as error:
            log.warning("pieces=<%d> | not removed: %s", len(keys), error)

    def _remember(self, key: Key, moved: dict[str, Pointer]) -> None:
        self._known.pop(key, None)
        self._known[key] = moved
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
