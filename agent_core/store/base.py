"""The Store port: small records under two-part keys, and transactions of conditional writes.

A record is a dict of JSON fields under (partition, sort): the shape of DynamoDB's table, so that a transaction here is
one round trip there. A store that can do these four verbs atomically can carry the whole engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec

from agent_core.errors import InputError, TooLargeError

Fields = dict[str, Any]

MAX_WRITES = 100
"""Operations in one transaction: DynamoDB's limit."""

MAX_RECORD = 400 * 1024
"""Bytes of one record as JSON, key included: DynamoDB's limit."""

MAX_PARTITION = 2048
"""Bytes of a partition key: DynamoDB's limit."""

MAX_SORT = 1024
"""Bytes of a sort key: DynamoDB's limit."""

MAX_QUERY = 1000
"""Records on one page of a query."""

FAR_FUTURE = 1e11
"""Seconds since 1970 that no record lives to see (the year 5138); milliseconds of today are above it."""

MAX_PAGE = 1024 * 1024
"""Bytes after which a page of a query ends, full or not: DynamoDB's limit."""


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
    """Four verbs; each is one round trip. What the caller did wrong is an InputError, all else a StoreError.

    Expired records are never returned and count as absent, at once, whenever the engine removes them for good.
    Reads see every write that was answered before the read began. A write that was answered is on the disk. One that
    ended in a StoreError other than ConditionError, or was cancelled, may have happened or not: like an answer lost
    on a network. So make writes conditional, and read before you repeat one.
    """

    async def get(self, key: Key) -> Record | None:
        """The record under this key, or None."""

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        """Records of one partition whose sort key begins with `prefix`, in order (or in reverse).

        `after` is the sort key of the last record already seen, `limit` the most to return (1 to 1,000). A page ends
        early after MAX_PAGE bytes, so only an empty `Page.after` says that there is no more.
        """

    async def write(self, *writes: Write) -> None:
        """Do all of 1 to 100 writes, or none. A key may stand in one write only.

        Raises ConditionError with the index of the first write whose condition failed and the fields in its way,
        InputError where a record is over 400 KB or the transaction is of no or too many writes.
        """

    async def add(
        self,
        key: Key,
        numbers: Mapping[str, int],
        *,
        expires_at: float | None = None,
        when: tuple[Condition, ...] = (),
    ) -> Fields:
        """Add to counters atomically and return all fields as they are then; as an Update of one record.

        Raises ConditionError unless all conditions hold.
        """

    async def close(self) -> None:
        """Finish what was asked for and let go of files and connections; no verb may be used after it."""


@runtime_checkable
class LoggedStore(Protocol):
    """A store whose own log of writes holds what was deleted, until it is emptied."""

    async def empty_log(self) -> None:
        """Empty it as far as that is possible now: not what another process is reading in this moment."""


class Scan(msgspec.Struct, frozen=True):
    """Some of all records of a store. `after` is the key to go on from, None at the end."""

    records: tuple[Record, ...]
    after: Key | None = None


class WholeStore(Store, Protocol):
    """A store that can be gone through from one end to the other: to export a tenant, or to erase one."""

    async def scan(self, *, after: Key | None = None) -> Scan:
        """Records of all partitions, in any order, each once; also expired ones that were not removed yet.

        A page of at most about MAX_PAGE bytes; what is written meanwhile may be among them or not. It reads everything,
        so it is for operators and not for the service.
        """

    async def scrub(self) -> None:
        """Have nothing left of what was deleted, in the store's own files and logs. May take long."""


def quoted(part: str) -> str:
    """A part of a key with its slashes made harmless."""
    return part.replace("%", "%25").replace("/", "%2F")


def check_key(key: Key) -> None:
    """Raise InputError for a key that not every store can hold: empty, too long, or no valid Unicode."""
    try:
        partition, sort = len(key.partition.encode()), len(key.sort.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"a key holds half a surrogate pair: {error.reason}") from None
    if not (1 <= partition <= MAX_PARTITION and 1 <= sort <= MAX_SORT):
        raise InputError(
            f"a key takes 1 to {MAX_PARTITION} and 1 to {MAX_SORT} bytes, not {partition} and {sort}"
        )


def check_query(partition: str, prefix: str, after: str, limit: int) -> None:
    """Raise InputError where a query is outside what every store can do."""
    if not 1 <= limit <= MAX_QUERY:
        raise InputError(f"a query takes a limit of 1 to {MAX_QUERY}, not {limit}")
    check_key(Key(partition, prefix or "-"))
    check_key(Key(partition, after or "-"))


def check_writes(writes: Sequence[Write]) -> None:
    """Raise InputError where a transaction is outside what every store can do; `encode_fields` checks the sizes."""
    if not 1 <= len(writes) <= MAX_WRITES:
        raise InputError(f"a transaction takes 1 to {MAX_WRITES} writes, not {len(writes)}")
    if len(writes) > 1 and len({write.key for write in writes}) != len(writes):
        raise InputError("a key stands in two writes of one transaction")
    for write in writes:
        check_key(write.key)
        if isinstance(write, Put | Update) and not 0 <= (write.expires_at or 0) < FAR_FUTURE:
            raise InputError(f"{write.key} expires at {write.expires_at}: that is not in seconds since 1970")
        if isinstance(write, Update):
            if not write.set.keys().isdisjoint(write.add):
                raise InputError(f"an update of {write.key} both sets a field and adds to it")
            if any(type(number) is not int for number in write.add.values()):
                raise InputError(f"an update of {write.key} adds something that is not an int")


def encode_fields(key: Key, fields: Mapping[str, Any]) -> bytes:
    """Fields as JSON. Raises InputError where they can't be that, TooLargeError for a record over MAX_RECORD."""
    try:
        body = msgspec.json.encode(fields)
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: a lone surrogate, among others
        raise InputError(f"the fields of {key} are not JSON: {error}") from error
    if len(body) + len(key.partition.encode()) + len(key.sort.encode()) > MAX_RECORD:
        raise TooLargeError(f"the record {key} is over {MAX_RECORD} bytes; put large parts into blobs")
    return body
