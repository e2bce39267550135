"""The stores that count and that fail, as tests of others rely on them."""

from __future__ import annotations

import pytest

from agent_core.errors import StoreBusyError, StoreError
from agent_core.store.base import Key, Put
from agent_core.store.memory import MemoryStore
from agent_core.testing import CountingStore, Fault, FaultyStore, ManualClock

KEY = Key("p", "s")


async def test_round_trips_and_bytes_are_counted_by_verb() -> None:
    store = CountingStore(MemoryStore(ManualClock()))
    await store.write(Put(KEY, {"a": 1}), Put(Key("p", "t"), {"b": "22"}))
    await store.get(KEY)
    await store.get(Key("p", "none"))
    await store.query("p")
    await store.add(KEY, {"n": 1})
    assert store.trips == {"write": 1, "get": 2, "query": 1, "add": 1}
    record, other = len("ps" + '{"a":1}'), len("pt" + '{"b":"22"}')
    assert store.bytes_read == {"get": record, "query": record + other, "add": len('{"a":1,"n":1}')}
    store.reset()
    assert store.trips.total() == store.bytes_read.total() == 0
    await store.close()


async def test_a_fault_comes_at_its_call_instead_of_the_work() -> None:
    store = FaultyStore(MemoryStore(ManualClock()), [Fault(2, StoreBusyError("busy"))])
    await store.write(Put(KEY, {"n": 1}))
    with pytest.raises(StoreBusyError):
        await store.write(Put(KEY, {"n": 2}))
    record = await store.get(KEY)
    assert record is not None
    assert record.fields == {"n": 1}
    store.check_used_up()
    await store.close()


async def test_a_fault_after_the_work_loses_the_answer_alone() -> None:
    store = FaultyStore(MemoryStore(ManualClock()), [Fault(1, StoreError("lost"), "write", after=True)])
    assert await store.get(KEY) is None
    with pytest.raises(StoreError, match="lost"):
        await store.write(Put(KEY, {"n": 1}))
    assert await store.get(KEY) is not None
    await store.close()


async def test_faults_count_the_calls_of_their_verb_and_planned_ones_from_now() -> None:
    store = FaultyStore(MemoryStore(ManualClock()))
    await store.get(KEY)
    await store.add(KEY, {"n": 1})
    store.plan(Fault(2, StoreError("second get"), "get"), Fault(3, StoreError("third of all")))
    await store.get(KEY)
    with pytest.raises(StoreError, match="second get"):
        await store.get(KEY)
    with pytest.raises(StoreError, match="third of all"):
        await store.query("p")
    store.check_used_up()
    assert store.calls == {"": 5, "get": 3, "add": 1, "query": 1}
    await store.close()


async def test_a_fault_that_never_came_is_told() -> None:
    store = FaultyStore(MemoryStore(ManualClock()), [Fault(1, StoreError("x"), "query")])
    await store.get(KEY)
    with pytest.raises(AssertionError, match="never came"):
        store.check_used_up()
    await store.close()
