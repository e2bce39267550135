"""What conditions and writes mean, as pure functions over one record; the embedded stores only read and write rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from agent_core.errors import ConditionError, StoreError
from agent_core.store.base import (
    Above,
    Absent,
    AtMost,
    Check,
    Condition,
    Delete,
    Equals,
    Fields,
    Key,
    Put,
    Update,
    Version,
    Write,
    check_writes,
    encode_fields,
)

_decode_fields = msgspec.json.Decoder(Fields).decode


class Row(NamedTuple):
    """A record as the embedded stores keep it; `body` is the JSON of its fields, `expires_at` 0 for never."""

    body: bytes
    version: int
    expires_at: float


class Prepared(NamedTuple):
    """A checked write and copies of what its caller could still change.

    `body` is the JSON of what a Put or an Update sets, `add` what an Update adds.
    """

    write: Write
    body: bytes
    add: dict[str, int]


class Change(NamedTuple):
    """What a transaction does to one key: put this row there, or remove what is there."""

    key: Key
    row: Row | None


def prepare(writes: Sequence[Write]) -> list[Prepared]:
    """Check a transaction and take a copy of its fields. Raises InputError."""
    check_writes(writes)
    prepared = []
    for write in writes:
        fields = write.fields if isinstance(write, Put) else write.set if isinstance(write, Update) else None
        add = dict(write.add) if isinstance(write, Update) else {}
        prepared.append(Prepared(write, encode_fields(write.key, fields) if fields else b"{}", add))
    return prepared


def plan(writes: Sequence[Prepared], read: Callable[[Key], Row | None], now: float) -> list[Change]:
    """The changes of a transaction on the rows that `read` finds. Nothing is written here, so a failure needs no undo.

    Raises ConditionError for the first write whose condition fails, StoreError where a field can't be added to.
    """
    changes = []
    for index, (write, body, add) in enumerate(writes):
        row = live(read(write.key), now)
        for condition in write.when:
            if not holds(condition, row):
                current = decode(row.body) if row else None
                raise ConditionError(
                    f"{condition} does not hold for {write.key}", index=index, current=current
                )
        if isinstance(write, Put):
            changes.append(Change(write.key, Row(body, row.version + 1 if row else 1, write.expires_at)))
        elif isinstance(write, Update):
            changes.append(Change(write.key, _updated(write, body, add, row)))
        elif isinstance(write, Delete):
            changes.append(Change(write.key, None))
        else:
            assert isinstance(write, Check)
    return changes


def live(row: Row | None, now: float) -> Row | None:
    """The row, unless it has expired."""
    return None if row and row.expires_at and row.expires_at <= now else row


def holds(condition: Condition, row: Row | None) -> bool:
    """Whether the condition holds for the record."""
    if isinstance(condition, Absent):
        return row is None
    if isinstance(condition, Version):
        return row is not None and row.version == condition.number
    fields = decode(row.body) if row else {}
    if condition.field not in fields:
        return isinstance(condition, AtMost)
    value = fields[condition.field]
    if isinstance(condition, Equals):
        # In JSON true is not 1, though Python has it so.
        return isinstance(value, bool) == isinstance(condition.value, bool) and bool(value == condition.value)
    if not _is_number(value):
        return False
    if isinstance(condition, AtMost):
        return bool(value <= condition.value)
    assert isinstance(condition, Above)
    return bool(value > condition.value)


def decode(body: bytes) -> Fields:
    """The fields again, fresh. Raises StoreError where what is stored is no JSON object."""
    try:
        return _decode_fields(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"a stored record is damaged: {error}") from error


def bounds(prefix: str, after: str, reverse: bool) -> tuple[str, str | None]:
    """The range of sort keys that a query may return: from the first on, below the second (None: no end).

    One bound on each side, for with two SQLite searches by one and goes through all that the other leaves out.
    Strings compare by code point, whose order UTF-8 keeps: so this is the order of stores that compare bytes.
    """
    low, high = prefix, _end_of(prefix)
    if after and reverse:
        high = after if high is None else min(after, high)
    elif after:
        low = max(prefix, after + "\0")  # the least string above `after`
    return low, high


def _end_of(prefix: str) -> str | None:
    """The least string above all that begin with `prefix`; None where there is none."""
    for place in range(len(prefix) - 1, -1, -1):
        point = ord(prefix[place])
        if point < 0x10FFFF:
            # Surrogates are no characters: what follows U+D7FF is U+E000.
            return prefix[:place] + chr(0xE000 if point == 0xD7FF else point + 1)
    return None


def _updated(write: Update, body: bytes, add: dict[str, int], row: Row | None) -> Row:
    fields = decode(row.body) if row else {}
    fields.update(decode(body))
    for name, number in add.items():
        old = fields.get(name, 0)
        if not _is_number(old):
            raise StoreError(f"the field {name!r} of {write.key} is not a number, nothing can be added to it")
        fields[name] = old + number
    expires_at = write.expires_at if write.expires_at is not None else row.expires_at if row else 0.0
    return Row(encode_fields(write.key, fields), row.version + 1 if row else 1, expires_at)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
