"""Records and transactions of any size, over stores that bound both."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.errors import ConditionError, InputError, StoreError
from agent_core.store.base import AtMost, Delete, Equals, Key, Put, Record, Store, Update, Write
from agent_core.store.memory import MemoryStore
from agent_core.store.overflow import OverflowStore
from agent_core.store.pieces import MARK, RECORD, beside
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import CountingStore, Fault, FaultyStore, ManualClock

KEY = Key("acme/session/ada/s", "message/1")
LARGE = 'größe"\\' * 100_000


def made(clock: ManualClock | None = None) -> tuple[OverflowStore, MemoryStore]:
    clock = clock or ManualClock()
    plain = MemoryStore(clock)
    return OverflowStore(plain, clock), plain


async def pieces(store: Store, partition: str = KEY.partition) -> tuple[Record, ...]:
    return (await store.query(beside(partition), limit=1000)).records


async def everything(store: OverflowStore) -> list[Record]:
    found: list[Record] = []
    after: Key | None = None
    while True:
        page = await store.scan(after=after)
        found += page.records
        after = page.after
        if after is None:
            return found


async def test_a_large_record_comes_back_whole_by_every_verb() -> None:
    store, plain = made()
    fields = {"v": 1, "text": LARGE, "list": ["x" * 200_000], "n": 1}
    await store.write(Put(KEY, fields))
    found = await store.get(KEY)
    assert found is not None
    assert found.fields == fields
    assert found.version == 1
    assert [record.fields for record in (await store.query(KEY.partition)).records] == [fields]
    assert await store.add(KEY, {"n": 1}) == {**fields, "n": 2}
    assert Record(KEY, {**fields, "n": 2}, 2) in await everything(store)
    with pytest.raises(ConditionError) as error:
        await store.write(Put(KEY, {}, when=(Equals("n", 7),)))
    assert error.value.current == {**fields, "n": 2}
    stored = await plain.get(KEY)
    assert stored is not None
    assert MARK in stored.fields["text"]


async def test_where_nothing_is_large_no_trip_is_added() -> None:
    clock = ManualClock()
    counted = CountingStore(MemoryStore(clock))
    store = OverflowStore(counted, clock)
    await store.write(Put(KEY, {"text": "x" * (RECORD - 100)}))
    await store.get(KEY)
    await store.query(KEY.partition)
    assert counted.trips == {"write": 1, "get": 1, "query": 1}


async def test_what_was_moved_goes_with_its_record() -> None:
    store, plain = made()
    await store.write(Put(KEY, {"text": LARGE}))
    first = {record.key for record in await pieces(plain)}
    await store.write(Update(KEY, set={"text": LARGE + "!"}))
    second = {record.key for record in await pieces(plain)}
    assert second
    assert not first & second
    await store.write(Update(KEY, set={"other": 1}))
    assert {record.key for record in await pieces(plain)} == second
    await store.write(Delete(KEY))
    assert await pieces(plain) == ()


async def test_a_refused_write_leaves_nothing_and_a_lost_answer_loses_nothing() -> None:
    clock = ManualClock()
    plain = MemoryStore(clock)
    faulty = FaultyStore(plain)
    store = OverflowStore(faulty, clock)
    with pytest.raises(ConditionError):
        await store.write(Put(KEY, {"text": LARGE}, when=(Equals("n", 1),)))
    assert await pieces(plain) == ()
    pieces_first = 2  # the pieces, then the record: its answer is lost, yet it is written
    faulty.plan(Fault(pieces_first, StoreError("lost"), verb="write", after=True))
    with pytest.raises(StoreError):
        await store.write(Put(KEY, {"text": "y" * 300_000}))
    found = await store.get(KEY)
    assert found is not None
    assert found.fields == {"text": "y" * 300_000}


async def test_a_reader_that_is_overtaken_reads_again() -> None:
    clock = ManualClock()
    plain = MemoryStore(clock)
    reader, writer = OverflowStore(plain, clock), OverflowStore(plain, clock)
    await writer.write(Put(KEY, {"text": LARGE}))

    async def read() -> None:
        for _ in range(20):
            found = await reader.get(KEY)
            assert found is not None
            assert found.fields["text"][-1] == found.fields["end"]

    async def write() -> None:
        for n in range(20):
            end = str(n % 10)
            await writer.write(Put(KEY, {"text": LARGE + end, "end": end}))

    await write()
    await asyncio.gather(read(), write(), read())


async def test_pieces_expire_with_their_record_also_where_only_its_expiry_changes() -> None:
    clock = ManualClock()
    store, plain = made(clock)
    await store.write(Put(KEY, {"text": LARGE}, expires_at=clock.now() + 10))
    await store.write(Update(KEY, expires_at=0))
    clock.advance(20)
    found = await store.get(KEY)
    assert found is not None
    assert found.fields == {"text": LARGE}
    await store.write(Update(KEY, expires_at=clock.now() + 10))
    clock.advance(20)
    assert await store.get(KEY) is None
    assert await pieces(plain) == ()


async def test_parts_that_are_gone_are_told_and_do_not_hide_the_record_from_an_erasure() -> None:
    store, plain = made()
    await store.write(Put(KEY, {"text": LARGE, "n": 1}))
    await plain.write(Delete((await pieces(plain))[0].key))
    with pytest.raises(StoreError, match="damaged"):
        await store.get(KEY)
    assert Record(KEY, {"n": 1}, 1) in await everything(store)


async def test_a_field_that_looks_like_a_pointer_is_none() -> None:
    store, _ = made()
    fields = {"metadata": {MARK: ["somebody/else", 1, 1]}, "nested": [{MARK: ["a", 1, 1]}]}
    await store.write(Put(KEY, fields))
    found = await store.get(KEY)
    assert found is not None
    assert found.fields == fields


async def test_a_field_that_was_large_may_become_small_again() -> None:
    store, plain = made()
    await store.write(Put(KEY, {"text": LARGE, "n": 1}))
    await store.write(Update(KEY, set={"text": "small"}))
    found = await store.get(KEY)
    assert found is not None
    assert found.fields == {"text": "small", "n": 1}
    assert await pieces(plain) == ()
    with pytest.raises(InputError, match="needs itself"):
        await store.write(Put(KEY, {MARK: 1}))


async def test_a_page_of_many_large_records_ends_early_and_goes_on() -> None:
    store, _ = made()
    for n in range(6):
        await store.write(Put(Key(KEY.partition, f"message/{n}"), {"text": f"{n}" * 1_500_000}))
    for reverse in (False, True):
        found: list[str] = []
        after = ""
        while True:
            page = await store.query(KEY.partition, after=after, reverse=reverse)
            assert len(page.records) < 6
            found += [record.key.sort for record in page.records]
            after = page.after
            if not after:
                break
        assert found == sorted((f"message/{n}" for n in range(6)), reverse=reverse)


async def test_no_condition_is_on_a_large_field() -> None:
    store, _ = made()
    with pytest.raises(InputError):
        await store.write(Put(KEY, {}, when=(Equals("text", "x" * 2000),)))
    await store.write(Put(KEY, {}, when=(AtMost("n", 1),)))


SIZES = st.sampled_from([0, 10, 900, 40_000, 130_000, 500_000, 1_200_000])
TEXTS = st.tuples(SIZES, st.sampled_from(["x", "é", '"', "\x00"])).map(lambda t: t[0] // 2 * t[1])
FIELDS = st.dictionaries(st.sampled_from("abc"), TEXTS | TEXTS.map(lambda text: [text]), max_size=3)
KEYS = st.builds(Key, st.sampled_from(["t/run/a", "t/run/b"]), st.sampled_from(["run", "step/1", "step/2"]))
WRITES = st.lists(st.tuples(st.sampled_from([Put, Update, Delete]), KEYS, FIELDS), min_size=1, max_size=5,
                  unique_by=lambda part: part[1])  # fmt: skip


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@given(steps=st.lists(WRITES, min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_any_transactions_of_any_size_agree_with_a_dict(
    kind: str, steps: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path: Path = tmp_path_factory.mktemp("overflow") / "store.db"

    async def check() -> None:
        clock = ManualClock()
        plain: Store = MemoryStore(clock) if kind == "memory" else SqliteStore(path, clock)
        store = OverflowStore(plain, clock)
        model: dict[Key, dict[str, Any]] = {}
        for parts in steps:
            writes: list[Write] = []
            for what, key, fields in parts:
                if what is Put:
                    writes.append(Put(key, fields))
                    model[key] = dict(fields)
                elif what is Update:
                    writes.append(Update(key, set=fields))
                    model[key] = {**model.get(key, {}), **fields}
                else:
                    writes.append(Delete(key))
                    model.pop(key, None)
            await store.write(*writes)
            found: dict[Key, dict[str, Any]] = {}
            for partition in ("t/run/a", "t/run/b"):
                after = ""
                while True:
                    page = await store.query(partition, after=after)
                    found |= {record.key: record.fields for record in page.records}
                    after = page.after
                    if not after:
                        break
            assert found == model
        for key in list(model):
            await store.write(Delete(key))
        assert await pieces(plain, "t/run/a") == await pieces(plain, "t/run/b") == ()
        await store.close()

    asyncio.run(check())
