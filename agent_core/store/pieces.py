"""Which fields of a transaction are too large to be written in place, and what they become: pure.

A pointer in the place of a field is `{"$overflow": [place, pieces, bytes]}`; a record in which there may be one has a
field `$overflow` besides, so that no more is asked of all others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from agent_core.errors import InputError
from agent_core.store.base import Equals, Fields, Key, Put, Record, Update, Write

OVERFLOW = "overflow"
"""What stands behind the tenant in the partitions of moved fields."""

MARK = "$overflow"

RECORD = 128 * 1024
"""Bytes of a record that is written whole; an Update may add half of that to it."""

TRANSACTION = 1024 * 1024
"""Bytes that one transaction writes. The rest of DynamoDB's 4 MB is for what it changes or deletes."""

PIECE = 96 * 1024
"""Bytes of a piece: as JSON inside JSON it may take twice that."""

FETCHED = 4 * 1024 * 1024
"""Bytes of moved fields after which a page ends."""

_LEAST = 1024
"""Bytes of a field that may be moved; conditions are on smaller ones."""

_LONGEST = 900
"""Bytes of a sort key that can stand in those of its pieces."""

_encode = msgspec.json.encode
_MARKED = MARK.encode()


class Pointer(NamedTuple):
    """Where a field is: the beginning of its pieces' sort keys, how many there are, and their bytes together."""

    place: str
    pieces: int
    size: int


def spread(writes: Sequence[Write], new_id: Callable[[], str]) -> tuple[Sequence[Write], list[Put]]:
    """The writes with what is too large moved out of them, and the writes of its pieces.

    Where nothing is large it costs one encoding of what is written, which is a few microseconds of a turn.
    """
    total, large = 0, False
    sizes: list[int] = []
    for write in writes:
        size = 0
        for condition in write.when:
            if type(condition) is Equals and type(condition.value) is str and len(condition.value) >= _LEAST:
                raise InputError(
                    f"a condition on {condition.field!r} compares with more than {_LEAST} characters"
                )
        if fields := fields_of(write):
            try:
                body = _encode(fields)
            except (TypeError, ValueError, RecursionError):
                return writes, []  # the store beneath says what is wrong with it
            size = len(body)
            if size > _limit(write) or _MARKED in body:
                large = True
                if MARK in fields:
                    raise InputError(
                        f"a field of {write.key} has the name {MARK}, which the store needs itself"
                    )
        sizes.append(size)
        total += size
    if not large and total <= TRANSACTION:
        return writes, []
    moved: list[Write] = []
    pieces: list[Put] = []
    for write, taken in zip(writes, _chosen(writes, sizes), strict=True):
        moved.append(_pointed(write, taken, pieces, new_id) if taken else write)
    return moved, pieces


def _chosen(writes: Sequence[Write], left: list[int]) -> list[dict[str, bytes]]:
    """For each write the fields to move, as JSON: the largest of each that is too large, then the largest of all."""
    bodies: list[tuple[int, int, str, bytes]] = []
    taken: list[dict[str, bytes]] = [{} for _ in writes]
    for index, write in enumerate(writes):
        if not _may_overflow(write.key):
            continue
        for field, value in (fields_of(write) or {}).items():
            body = _encode(value)
            if type(value) is dict and MARK in value:
                taken[index][field] = body  # it must not be taken for a pointer
            elif len(body) >= _LEAST:
                bodies.append((len(body), index, field, body))
    bodies.sort(key=lambda one: (-one[0], one[1]))
    for of_all in (False, True):
        total = sum(left)
        for size, index, field, body in bodies:
            over = total > TRANSACTION if of_all else left[index] > _limit(writes[index])
            if over and field not in taken[index]:
                taken[index][field] = body
                left[index] -= size
                total -= size
    return taken


def _pointed(
    write: Write, taken: Mapping[str, bytes], pieces: list[Put], new_id: Callable[[], str]
) -> Put | Update:
    """The write with pointers in the place of these fields."""
    assert isinstance(write, Put | Update)  # nothing else has fields
    partition = beside(write.key.partition)
    pointing: Fields = {MARK: True}
    for field, body in taken.items():
        place = f"{_short(write.key.sort)}/{new_id()}"
        cut = _cut(body)
        for number, text in enumerate(cut):
            key = Key(partition, f"{place}/{number:05d}")
            pieces.append(Put(key, {"at": number, "text": text}, expires_at=write.expires_at or 0.0))
        pointing[field] = {MARK: [place, len(cut), len(body)]}
    if isinstance(write, Put):
        return msgspec.structs.replace(write, fields={**write.fields, **pointing})
    return msgspec.structs.replace(write, set={**write.set, **pointing})


def beside(partition: str) -> str:
    """The partition of what was moved out of the records of this one; their sort keys begin with those records'."""
    tenant, _, rest = partition.partition("/")
    return f"{tenant}/{OVERFLOW}/{rest}"


def fields_of(write: Write) -> Mapping[str, Any] | None:
    """What a write puts or sets."""
    if type(write) is Put:
        return write.fields
    return write.set if type(write) is Update else None


def pointers(key: Key, fields: Mapping[str, Any]) -> dict[str, Pointer]:
    """The fields that were moved, and where they are."""
    if MARK not in fields or not _may_overflow(key):
        return {}
    return {
        field: Pointer(*value[MARK])
        for field, value in fields.items()
        if type(value) is dict and len(value) == 1 and MARK in value
    }


def unmarked(fields: Mapping[str, Any]) -> Fields:
    """The fields as they were written."""
    return {field: value for field, value in fields.items() if field != MARK}


def keys_of(key: Key, pointer: Pointer) -> list[Key]:
    """The pieces of a field of this record."""
    partition = beside(key.partition)
    return [Key(partition, f"{pointer.place}/{number:05d}") for number in range(pointer.pieces)]


def within(records: Sequence[Record]) -> Sequence[Record]:
    """The first of the records, as many as are to be read at once with what was moved out of them."""
    size = 0
    for place, record in enumerate(records):
        size += sum(pointer.size for pointer in pointers(record.key, record.fields).values())
        if size >= FETCHED:
            return records[: place + 1]
    return records


def _may_overflow(key: Key) -> bool:
    """Whether it begins with a tenant: what a process keeps for all of them is small by its nature."""
    _, slash, rest = key.partition.partition("/")
    return bool(slash) and not rest.startswith(f"{OVERFLOW}/")


def _limit(write: Write) -> int:
    return RECORD if isinstance(write, Put) else RECORD // 2


def _short(sort: str) -> str:
    return sort if len(sort.encode()) <= _LONGEST else hashlib.sha256(sort.encode()).hexdigest()


def _cut(body: bytes) -> list[str]:
    """JSON text in pieces, cut between two characters."""
    cut: list[str] = []
    start = 0
    while start < len(body):
        end = min(start + PIECE, len(body))
        while end < len(body) and body[end] & 0xC0 == 0x80:
            end -= 1
        cut.append(body[start:end].decode())
        start = end
    return cut
