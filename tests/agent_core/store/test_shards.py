"""A list over several partitions: an entry's sort key tells where it is, whatever the number was or will be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agent_core.store.base import Key
from agent_core.store.memory import MemoryStore
from agent_core.store.shards import REREAD_SECONDS, Shards, is_list, later, place, shard_of, time_of, timed
from agent_core.testing import ManualClock


@given(
    at=st.floats(0, 4e9),
    again=st.floats(0, 4e9),
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    shards=st.integers(1, 256),
)
def test_the_sort_key_tells_the_place(at: float, again: float, name: str, shards: int) -> None:
    key = timed(at, name, shards=shards)
    moved = later(key, again)
    assert (place(key.sort), place(moved.sort)) == (key, moved)
    assert (moved.partition, moved.sort.partition("/")[2]) == (key.partition, name)
    assert (time_of(key.sort), time_of(moved.sort)) == (int(at * 1000) / 1000, int(again * 1000) / 1000)
    assert is_list(key.partition)


def test_one_partition_is_as_it_was_before_there_were_several() -> None:
    assert timed(1_750_000_000, "t/r") == Key("due", "1750000000000/t/r")
    assert place("1750000000000/t/r") == Key("due", "1750000000000/t/r")


def test_a_tenant_may_have_the_lists_name() -> None:
    assert not any(map(is_list, ("due/session/u/s", "due/ledger/2026-11-22", "due/dead", "due/", "duty")))


def test_entries_are_spread_evenly_and_the_same_everywhere() -> None:
    found = Counter(shard_of(f"default/{number:026d}", 16) for number in range(16_000))
    assert len(found) == 16
    assert max(found.values()) < 1.2 * 1000
    assert shard_of("default/run", 16) == 1  # CRC-32: in each process, and in any later version


async def test_whoever_lowers_the_number_still_reads_as_far() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    wide, narrow = Shards(store, clock, 16), Shards(store, clock, 2)
    assert len(await narrow.partitions()) == 2
    await wide.remember()
    clock.advance(REREAD_SECONDS)
    await narrow.remember()
    assert len(await narrow.partitions()) == 16
    assert await narrow.numbers() == (1, 2, 16)
    assert await Shards(store, clock).partitions() == ["due", *(f"due/{n}" for n in range(1, 16))]
