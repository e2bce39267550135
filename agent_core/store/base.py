"""The Store port: small records under two-part keys, and transactions of conditional writes.

A record is a dict of JSON fields under (partition, sort): the shape of DynamoDB's table, so that a transaction here is
one round trip there. A store that can do these four verbs atomically can carry the whole engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from agent_core.errors import InputError, TooLargeError

Fields = dict[str, Any]

MAX_WRITES = 100
"""Operations in one transaction: DynamoDB's limit."""

MAX_RECORD = 400 * 1024
"""Bytes of one record as JSON, key included: DynamoDB's limit."""


class Key(NamedTuple):
    """Where a record is. Records of one partition are sorted by `sort`, bytewise."""

    partition: str
    sort: str


class Record(msgspec.Struct, frozen=True):
    """A record as it was read. `version` grows with each write to it, from 1."""

    key: Key
    fields: Fields
    version: int


class Page(msgspec.Struct, frozen=True):
    """One page of a query. `after` is the sort key to go on from, empty on the last page."""

    records: tuple[Record, ...]
    after: str = ""


class Absent(msgspec.Struct, frozen=True):
    """Condition: there is no such record (or it has expired)."""


class Version(msgspec.Struct, frozen=True):
    """Condition: the record stands at this version."""

    number: int


class Equals(msgspec.Struct, frozen=True):
    """Condition: the record exists and its field has this value."""

    field: str
    value: str | int | float | bool | None


class AtMost(msgspec.Struct, frozen=True):
    """Condition: the field is at most this number; a missing field or record passes."""

    field: str
    value: float


class Above(msgspec.Struct, frozen=True):
    """Condition: the record exists and its field is a number above this."""

    field: str
    value: float


Condition = Absent | Version | Equals | AtMost | Above


class Put(msgspec.Struct, frozen=True):
    """Write the whole record, if all conditions hold. `expires_at`: seconds since 1970, 0 for never."""

    key: Key
    fields: Fields
    when: tuple[Condition, ...] = ()
    expires_at: float = 0.0


class Update(msgspec.Struct, frozen=True):
    """Set some fields and add numbers to others, if all conditions hold; makes the record where there is none.

    A field in `add` that is missing counts from 0. `expires_at` None leaves the expiry as it is, 0 takes it away.
    """

    key: Key
    set: Mapping[str, Any] = {}
    add: Mapping[str, int] = {}
    when: tuple[Condition, ...] = ()
    expires_at: float | None = None


class Delete(msgspec.Struct, frozen=True):
    """Remove the record, if all conditions hold; a record that is not there is no error."""

    key: Key
    when: tuple[Condition, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """Write nothing; the transaction fails unless all conditions hold."""

    key: Key
    when: tuple[Condition, ...]


Write = Put | Update | Delete | Check


class Store(Protocol):
    """Four verbs; each is one round trip. All errors are StoreErrors.

    Expired records are never returned and count as absent, at once, whenever the engine removes them for good.
    Reads see every write that was answered before the read began.
    """

    async def get(self, key: Key) -> Record | None:
        """The record under this key, or None."""

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        """Records of one partition whose sort key begins with `prefix`, in order (or in reverse).

        `after` is the sort key of the last record already seen, `limit` the most to return (1 to 1,000).
        """

    async def write(self, *writes: Write) -> None:
        """Do all of 1 to 100 writes, or none. A key may stand in one write only.

        Raises ConditionError with the index of the first write whose condition failed and the fields in its way,
        InputError where a record is over 400 KB or the transaction is of no or too many writes.
        """

    async def add(self, key: Key, numbers: Mapping[str, int], *, expires_at: float = 0.0) -> Fields:
        """Add to counters atomically and return all fields as they are then."""

    async def close(self) -> None:
        """Let go of files and connections."""


def check_writes(writes: Sequence[Write]) -> None:
    """Raise InputError where a transaction is outside what every store can do."""
    if not 1 <= len(writes) <= MAX_WRITES:
        raise InputError(f"a transaction takes 1 to {MAX_WRITES} writes, not {len(writes)}")
    if len({write.key for write in writes}) != len(writes):
        raise InputError("a key stands in two writes of one transaction")
    for write in writes:
        if isinstance(write, Put) and len(msgspec.json.encode(write.fields)) > MAX_RECORD:
            raise TooLargeError(f"the record {write.key} is over {MAX_RECORD} bytes; put large parts into blobs")
