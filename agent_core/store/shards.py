"""Lists that all write to, spread over partitions: on DynamoDB one of them carries 1,000 writes a second.

An entry's sort key tells which partition it is in, so that who has noted the one finds the other, whatever the number
of partitions was or will be. The first of them has the list's own name: what older versions wrote lies there.

    due      <time>/<rest>       the first partition
    due/7    <time>.7/<rest>     one of the others
    shards   due                 the numbers of partitions that were ever in use
"""

from __future__ import annotations

import math
import zlib

import msgspec

from agent_core.clock import Clock
from agent_core.errors import ConditionError
from agent_core.messages import from_record, to_record
from agent_core.store.base import Absent, Key, Put, Store, Version

LIST = "due"
"""The one list of this kind. What other lists are spread over goes by the same number."""

MOST = 256

REREAD_SECONDS = 600.0
"""How often it is read anew which numbers are in use: another process may have another setting."""

_PLACE = Key("shards", LIST)


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that were ever in use, and since when entries are spread at all."""

    numbers: tuple[int, ...] = (1,)
    since: float = 0.0


def shard_of(name: str, shards: int) -> int:
    """Which of so many partitions is for this name; the same in every process."""
    return zlib.crc32(name.encode()) % shards


def timed(at: float, name: str, *, shards: int = 1, by: str = "") -> Key:
    """The place of an entry that is for this time, spread `by` something or by its name."""
    shard = shard_of(by or name, shards)
    return Key(_partition(shard), f"{_stamp(at, shard)}/{name}")


def place(sort: str) -> Key:
    """Where the entry with this sort key is."""
    return Key(_partition(_shard(sort)), sort)


def later(key: Key, at: float) -> Key:
    """The place of the same entry at another time; it stays in its partition."""
    _, _, name = key.sort.partition("/")
    return Key(key.partition, f"{_stamp(at, _shard(key.sort))}/{name}")


def time_of(sort: str) -> float:
    """What time an entry is for, in seconds since 1970; raises ValueError for what is no entry's sort key."""
    return int(sort.partition("/")[0].partition(".")[0]) / 1000


def is_list(partition: str) -> bool:
    """Whether this is one of the list's partitions; a tenant may have its name, and has more behind it."""
    head, slash, number = partition.partition("/")
    return head == LIST and (not slash or (number.isascii() and number.isdigit()))


class Shards:
    """How many partitions there are: `number` for what is written now, and all that may still hold something."""

    def __init__(self, store: Store, clock: Clock, number: int = 1) -> None:
        self._store = store
        self._clock = clock
        self.number = number
        self._known = _Known()
        self._read_at: float | None = None

    async def partitions(self) -> list[str]:
        """All partitions that the list may have entries in."""
        return [_partition(shard) for shard in range(max(await self.numbers()))]

    async def numbers(self) -> tuple[int, ...]:
        """The numbers of partitions that were ever in use, this process's among them."""
        await self._look()
        return tuple(sorted({self.number, *self._known.numbers}))

    async def of(self, name: str) -> list[str]:
        """The partitions that may hold entries spread by this name: one, and those of other numbers."""
        numbers = await self.numbers()
        return list(dict.fromkeys(_partition(shard_of(name, number)) for number in numbers))

    async def since(self) -> float:
        """From when on all writers spread what they write, in seconds since 1970; infinite where nobody knows yet."""
        await self._look()
        return self._known.since or math.inf

    async def remember(self) -> None:
        """Have it known to all that this number is in use: who lowers it later must still read as far."""
        await self._look()
        if self._known.since and self.number in self._known.numbers:
            return
        record = await self._store.get(_PLACE)
        known = from_record(_Known, record.fields) if record else _Known(since=self._clock.now())
        known = msgspec.structs.replace(known, numbers=tuple(sorted({self.number, *known.numbers})))
        condition = Version(record.version) if record else Absent()
        try:
            await self._store.write(Put(_PLACE, to_record(known), when=(condition,)))
        except ConditionError:
            return  # another process wrote its number in this moment: the next sweep tells ours
        self._known = known

    async def _look(self) -> None:
        now = self._clock.monotonic()
        if self._read_at is None or not 0 <= now - self._read_at < REREAD_SECONDS:
            record = await self._store.get(_PLACE)
            self._known = from_record(_Known, record.fields) if record else _Known()
            self._read_at = now


def _partition(shard: int) -> str:
    return f"{LIST}/{shard}" if shard else LIST


def _stamp(at: float, shard: int) -> str:
    return f"{int(at * 1000):013d}" + (f".{shard}" if shard else "")


def _shard(sort: str) -> int:
    _, _, shard = sort.partition("/")[0].partition(".")
    return int(shard) if shard else 0
