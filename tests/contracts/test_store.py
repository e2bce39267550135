"""What every implementation of the Store port does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_core.errors import ConditionError, InputError, StoreError, TooLargeError
from agent_core.store.base import (
    MAX_PAGE,
    MAX_RECORD,
    Above,
    Absent,
    AtMost,
    Check,
    Condition,
    Delete,
    Equals,
    Fields,
    Key,
    Page,
    Put,
    Record,
    Store,
    Update,
    Version,
    WholeStore,
    Write,
)
from agent_core.store.memory import MemoryStore
from agent_core.store.overflow import OverflowStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import CountingStore, FaultyStore, ManualClock
from tests.aws.emulator import Emulator

KEY = Key("tenant", "record")
OTHER = Key("tenant", "other")

Open = Callable[[], AbstractAsyncContextManager[tuple[Store, ManualClock]]]


@pytest.fixture(params=["memory", "sqlite", "wrapped", "dynamodb", "overflow"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens a new, empty store; wrappers are stores as well."""
    count = 0

    @asynccontextmanager
    async def fresh() -> AsyncIterator[tuple[Store, ManualClock]]:
        nonlocal count
        count += 1
        clock = ManualClock(jump=request.param == "dynamodb")  # its pauses between tries are not waited for
        store: Store
        if request.param == "dynamodb":
            emulator: Emulator = request.getfixturevalue("emulator")
            with emulator.store(clock) as store:
                try:
                    yield store, clock
                finally:
                    await store.close()
            return
        if request.param == "sqlite":
            store = SqliteStore(tmp_path / f"{count}.db", clock)
        elif request.param == "memory":
            store = MemoryStore(clock)
        elif request.param == "overflow":
            store = OverflowStore(SqliteStore(tmp_path / f"{count}.db", clock), clock)
        else:
            store = CountingStore(FaultyStore(MemoryStore(clock)))
        try:
            yield store, clock
        finally:
            await store.close()

    return fresh


@pytest.fixture
async def pair(opened: Open) -> AsyncIterator[tuple[Store, ManualClock]]:
    async with opened() as pair:
        yield pair


@pytest.fixture
def store(pair: tuple[Store, ManualClock]) -> Store:
    return pair[0]


@pytest.fixture
def clock(pair: tuple[Store, ManualClock]) -> ManualClock:
    return pair[1]


async def fields_of(store: Store, key: Key = KEY) -> Fields | None:
    record = await store.get(key)
    return record.fields if record else None


async def everything(store: Store, partition: str, prefix: str = "", **how: Any) -> list[Record]:
    """All pages, one after the other."""
    records: list[Record] = []
    after, pages = "", 0
    while True:
        page = await store.query(partition, prefix, after=after, **how)
        assert len(page.records) <= how.get("limit", 100)
        records += page.records
        pages += 1
        if not page.after:
            return records
        after = page.after
        assert after == records[-1].key.sort
        assert pages < 1000


# --- put, get, delete


async def test_nothing_is_there_at_first(store: Store) -> None:
    assert await store.get(KEY) is None
    assert await store.query("tenant") == Page(())


JSON = [
    {},
    {"text": "größer 名前 \U0001f600 \x00 \n"},
    {"": {"deep": [1, 2.5, True, False, None, {"x": []}]}},
    {"big": 2**63 - 1, "small": -(2**63), "float": 1e300},
]


@pytest.mark.parametrize("fields", JSON)
async def test_fields_come_back_as_they_were(store: Store, fields: Fields) -> None:
    await store.write(Put(KEY, fields))
    record = await store.get(KEY)
    assert record is not None
    assert record.key == KEY
    assert record.fields == fields
    assert (await store.query("tenant")).records == (record,)


async def test_true_is_not_1_and_1_is_not_a_float(store: Store) -> None:
    await store.write(Put(KEY, {"true": True, "one": 1}))
    fields = await fields_of(store)
    assert fields is not None
    assert [type(fields["true"]), type(fields["one"])] == [bool, int]


async def test_a_put_replaces_all_fields(store: Store) -> None:
    await store.write(Put(KEY, {"a": 1}))
    await store.write(Put(KEY, {"b": 2}))
    assert await fields_of(store) == {"b": 2}


async def test_the_version_grows_with_each_write(store: Store) -> None:
    versions = []
    for write in (Put(KEY, {}), Put(KEY, {}), Update(KEY, {"a": 1}), Update(KEY, add={"n": 1})):
        await store.write(write)
        record = await store.get(KEY)
        assert record is not None
        versions.append(record.version)
    await store.add(KEY, {"n": 1})
    record = await store.get(KEY)
    assert record is not None
    versions.append(record.version)
    assert versions == sorted(set(versions))
    assert versions[0] >= 1


async def test_nobody_shares_state_with_the_store(store: Store) -> None:
    given_fields: Fields = {"list": [1]}
    update: Fields = {"more": [2]}
    await store.write(Put(KEY, given_fields))
    await store.write(Update(KEY, update))
    given_fields["list"].append("mine")
    update["more"].append("mine")
    read = await store.get(KEY)
    assert read is not None
    read.fields["list"].append("mine")
    (await store.query("tenant")).records[0].fields["list"].append("mine")
    (await store.add(KEY, {"n": 1}))["list"].append("mine")
    assert await fields_of(store) == {"list": [1], "more": [2], "n": 1}


async def test_a_write_is_as_it_was_when_it_was_asked_for(store: Store) -> None:
    fields: Fields = {"list": [1]}
    add = {"n": 1}
    put = asyncio.ensure_future(store.write(Put(KEY, fields)))
    update = asyncio.ensure_future(store.write(Update(OTHER, fields, add)))
    await asyncio.sleep(0)  # both have begun, neither is done
    fields["list"].append(2)
    add["n"] = 5
    await asyncio.gather(put, update)
    assert await fields_of(store) == {"list": [1]}
    assert await fields_of(store, OTHER) == {"list": [1], "n": 1}


async def test_delete_removes_and_is_no_error_where_nothing_is(store: Store) -> None:
    await store.write(Delete(KEY))
    await store.write(Put(KEY, {"a": 1}))
    await store.write(Delete(KEY))
    assert await store.get(KEY) is None
    assert await store.query("tenant") == Page(())
    await store.write(Put(KEY, {"b": 1}, when=(Absent(),)))
    assert await fields_of(store) == {"b": 1}


async def test_keys_that_differ_are_different_records(store: Store) -> None:
    keys = [Key(*pair) for pair in (("a", "b"), ("a", "B"), ("A", "b"), ("ab", "b"), ("a", "bb"), ("b", "a"))]
    keys += [Key("a", "é"), Key("a", "e\u0301"), Key("a", "b\x00"), Key("a", "b "), Key("a\x00", "b")]
    for number, key in enumerate(keys):
        await store.write(Put(key, {"number": number}, when=(Absent(),)))
    for number, key in enumerate(keys):
        assert await fields_of(store, key) == {"number": number}


# --- update and add


async def test_update_sets_and_adds_and_keeps_the_rest(store: Store) -> None:
    await store.write(Put(KEY, {"keep": [1], "change": "old", "n": 5}))
    await store.write(Update(KEY, {"change": {"new": None}}, {"n": -7, "m": 3}))
    assert await fields_of(store) == {"keep": [1], "change": {"new": None}, "n": -2, "m": 3}


async def test_update_makes_the_record_where_there_is_none(store: Store) -> None:
    await store.write(Update(KEY, {"a": 1}, {"n": 2}))
    assert await fields_of(store) == {"a": 1, "n": 2}
    await store.write(Update(OTHER))
    assert await fields_of(store, OTHER) == {}


async def test_add_answers_with_all_fields_as_they_are_then(store: Store) -> None:
    assert await store.add(KEY, {"n": 2}) == {"n": 2}
    await store.write(Update(KEY, {"a": "x"}))
    assert await store.add(KEY, {"n": 3, "m": -1}) == {"n": 5, "m": -1, "a": "x"}
    assert await fields_of(store) == {"n": 5, "m": -1, "a": "x"}


async def test_counters_are_exact_beyond_32_and_53_bits(store: Store) -> None:
    assert await store.add(KEY, {"nano": 2**61 + 1}) == {"nano": 2**61 + 1}
    assert await store.add(KEY, {"nano": 1}) == {"nano": 2**61 + 2}


async def test_add_does_nothing_unless_its_conditions_hold(store: Store) -> None:
    with pytest.raises(ConditionError) as raised:
        await store.add(KEY, {"n": 1}, when=(Above("n", 0),))
    assert raised.value.current is None
    assert await store.get(KEY) is None
    assert await store.add(KEY, {"n": 1}, when=(AtMost("n", 5),)) == {"n": 1}
    assert await store.add(KEY, {"n": 5}, when=(Above("n", 0), AtMost("n", 1))) == {"n": 6}
    for when in ((AtMost("n", 5),), (Above("n", 6),), (Absent(),), (Above("n", 0), AtMost("n", 5))):
        with pytest.raises(ConditionError) as raised:
            await store.add(KEY, {"n": 1}, when=when)
        assert raised.value.current == {"n": 6}
    assert await store.add(KEY, {"n": 0}) == {"n": 6}


async def test_an_int_may_be_added_to_a_float(store: Store) -> None:
    await store.write(Put(KEY, {"n": 0.5}))
    assert await store.add(KEY, {"n": 2}) == {"n": 2.5}


@pytest.mark.parametrize("value", ["1", True, None, [1], {}])
async def test_nothing_can_be_added_to_what_is_no_number(store: Store, value: Any) -> None:
    await store.write(Put(KEY, {"n": value}))
    with pytest.raises(StoreError):
        await store.add(KEY, {"n": 1})
    with pytest.raises(StoreError):
        await store.write(Put(OTHER, {}), Update(KEY, add={"n": 1}))
    assert await fields_of(store) == {"n": value}
    assert await store.get(OTHER) is None


@pytest.mark.parametrize("number", [1.5, True, "1", None])
async def test_only_ints_can_be_added(store: Store, number: Any) -> None:
    with pytest.raises(InputError):
        await store.add(KEY, {"n": number})
    with pytest.raises(InputError):
        await store.write(Update(KEY, add={"n": number}))
    assert await store.get(KEY) is None


async def test_a_field_is_set_or_added_to_not_both(store: Store) -> None:
    with pytest.raises(InputError):
        await store.write(Update(KEY, {"n": 1}, {"n": 1}))


# --- conditions

STANDS: Fields = {"text": "x", "int": 5, "float": 2.5, "true": True, "zero": 0, "null": None, "list": [1]}

HOLDS: list[Condition] = [
    *(Equals("text", "x"), Equals("int", 5), Equals("int", 5.0), Equals("float", 2.5)),
    *(Equals("true", True), Equals("zero", 0), Equals("null", None)),
    *(AtMost("int", 5), AtMost("int", 5.5), AtMost("float", 2.5), AtMost("zero", 0), AtMost("missing", -1)),
    *(Above("int", 4), Above("int", 4.999), Above("float", 2), Above("zero", -1)),
]
FAILS: list[Condition] = [
    *(Absent(), Equals("text", "y"), Equals("text", None), Equals("int", "5"), Equals("int", 6)),
    *(
        Equals("true", 1),
        Equals("zero", False),
        Equals("null", ""),
        Equals("missing", None),
        Equals("list", "[1]"),
    ),
    *(AtMost("int", 4.999), AtMost("float", 2), AtMost("zero", -1)),
    *(AtMost("text", 9), AtMost("true", 9), AtMost("null", 9), AtMost("list", 9)),
    *(Above("int", 5), Above("float", 2.5), Above("zero", 0), Above("missing", -1)),
    *(Above("text", 0), Above("true", 0), Above("null", -1), Above("list", 0)),
]
WITHOUT_RECORD: list[tuple[Condition, bool]] = [
    *((Absent(), True), (AtMost("int", -1), True), (Version(0), False), (Version(1), False)),
    *((Equals("int", 5), False), (Equals("int", None), False), (Above("int", -1), False)),
]


def writes(*when: Condition) -> list[Write]:
    return [
        Put(KEY, {"new": 1}, when),
        Update(KEY, {"new": 1}, when=when),
        Delete(KEY, when),
        Check(KEY, when),
    ]


@pytest.mark.parametrize("condition", HOLDS, ids=repr)
async def test_a_condition_that_holds_lets_every_write_through(store: Store, condition: Condition) -> None:
    for write in writes(condition):
        await store.write(Put(KEY, STANDS))
        await store.write(write)
        after = {Put: {"new": 1}, Update: {**STANDS, "new": 1}, Delete: None, Check: STANDS}[type(write)]
        assert await fields_of(store) == after


@pytest.mark.parametrize("condition", FAILS, ids=repr)
async def test_a_condition_that_fails_stops_every_write_and_shows_the_record(
    store: Store, condition: Condition
) -> None:
    await store.write(Put(KEY, STANDS))
    for write in writes(condition):
        with pytest.raises(ConditionError) as caught:
            await store.write(write)
        assert (caught.value.index, caught.value.current) == (0, STANDS)
    assert await fields_of(store) == STANDS


@pytest.mark.parametrize("state", ["missing", "deleted", "expired"])
@pytest.mark.parametrize(("condition", "holds"), WITHOUT_RECORD, ids=repr)
async def test_conditions_where_no_record_is_or_no_longer(
    store: Store, clock: ManualClock, state: str, condition: Condition, holds: bool
) -> None:
    for write in writes(condition):
        if state != "missing":
            await store.write(Put(KEY, STANDS, expires_at=clock.now() + 5 if state == "expired" else 0.0))
        if state == "deleted":
            await store.write(Delete(KEY))
        clock.advance(5)
        if holds:
            await store.write(write)
            made = isinstance(write, Put | Update)
            assert await fields_of(store) == ({"new": 1} if made else None)
        else:
            with pytest.raises(ConditionError) as caught:
                await store.write(write)
            assert caught.value.current is None
            assert await store.get(KEY) is None
        await store.write(Delete(KEY))


async def test_a_version_holds_until_the_next_write(store: Store) -> None:
    await store.write(Put(KEY, {"a": 1}))
    read = await store.get(KEY)
    assert read is not None
    await store.write(Put(KEY, {"a": 2}, when=(Version(read.version),)))
    for write in writes(Version(read.version)):
        with pytest.raises(ConditionError) as caught:
            await store.write(write)
        assert caught.value.current == {"a": 2}


async def test_all_conditions_of_a_write_must_hold(store: Store) -> None:
    await store.write(Put(KEY, STANDS))
    await store.write(Update(KEY, {"int": 6}, when=(Equals("int", 5), Above("float", 1), AtMost("zero", 0))))
    with pytest.raises(ConditionError):
        await store.write(
            Update(KEY, {"int": 7}, when=(Equals("int", 6), Above("float", 9), AtMost("zero", 0)))
        )
    assert await fields_of(store) == {**STANDS, "int": 6}


async def test_a_check_writes_nothing(store: Store) -> None:
    await store.write(Put(KEY, STANDS))
    before = await store.get(KEY)
    await store.write(Check(KEY, (Equals("int", 5),)), Check(OTHER, (Absent(),)))
    assert await store.get(KEY) == before
    assert await store.get(OTHER) is None


# --- transactions


async def test_a_transaction_does_all_of_its_writes(store: Store) -> None:
    await store.write(Put(Key("t", "gone"), {}), Put(Key("t", "changed"), {"n": 1}))
    await store.write(
        Put(Key("t", "new"), {"a": 1}, when=(Absent(),)),
        Update(Key("t", "changed"), add={"n": 1}, when=(Equals("n", 1),)),
        Delete(Key("t", "gone"), when=(Version(1),)),
        Check(Key("u", "none"), when=(Absent(),)),
        Put(Key("u", "elsewhere"), {"b": 2}),
    )
    assert [(r.key.sort, r.fields) for r in await everything(store, "t")] == [
        ("changed", {"n": 2}),
        ("new", {"a": 1}),
    ]
    assert [(r.key.sort, r.fields) for r in await everything(store, "u")] == [("elsewhere", {"b": 2})]


@pytest.mark.parametrize("place", [0, 57, 99])
async def test_one_failed_condition_of_a_hundred_and_nothing_is_written(store: Store, place: int) -> None:
    await store.write(Put(Key("t", f"{place:03}"), {"n": 7}), Put(Key("t", "100"), {}))
    many: list[Write] = [
        Put(Key("t", f"{number:03}"), {"n": number}, when=(Absent(),)) for number in range(100)
    ]
    with pytest.raises(ConditionError) as caught:
        await store.write(*many)
    assert (caught.value.index, caught.value.current) == (place, {"n": 7})
    assert [record.key.sort for record in await everything(store, "t")] == [f"{place:03}", "100"]


async def test_the_first_failed_condition_is_named(store: Store) -> None:
    await store.write(Put(KEY, {"n": 1}), Put(OTHER, {"n": 2}))
    with pytest.raises(ConditionError) as caught:
        await store.write(
            Put(Key("t", "x"), {}), Delete(OTHER, when=(Absent(),)), Put(KEY, {}, when=(Absent(),))
        )
    assert (caught.value.index, caught.value.current) == (1, {"n": 2})


async def test_a_hundred_writes_fit_into_one_transaction(store: Store) -> None:
    await store.write(*(Put(Key("t", f"{number:03}"), {"n": number}) for number in range(100)))
    assert [record.fields["n"] for record in await everything(store, "t", limit=7)] == list(range(100))


async def test_no_write_and_101_writes_are_refused(store: Store) -> None:
    with pytest.raises(InputError):
        await store.write()
    with pytest.raises(InputError):
        await store.write(*(Put(Key("t", str(number)), {}) for number in range(101)))
    assert await store.query("t") == Page(())


async def test_a_key_in_two_writes_is_refused(store: Store) -> None:
    with pytest.raises(InputError):
        await store.write(Put(KEY, {}), Check(KEY, when=(Absent(),)))
    assert await store.get(KEY) is None


async def test_a_record_up_to_the_limit_fits_and_one_byte_more_does_not(store: Store) -> None:
    room = MAX_RECORD - len(KEY.partition) - len(KEY.sort) - len('{"x":""}')
    await store.write(Put(KEY, {"x": "é" * (room // 2)}))
    with pytest.raises(TooLargeError):
        await store.write(Put(OTHER, {}), Put(KEY, {"x": "y" * (room + 1)}))
    assert await store.get(OTHER) is None
    assert len((await fields_of(store) or {})["x"]) == room // 2


async def test_an_update_may_not_grow_a_record_over_the_limit(store: Store) -> None:
    half = "x" * (MAX_RECORD // 2)
    await store.write(Put(KEY, {"a": half}))
    with pytest.raises(TooLargeError):
        await store.write(Put(OTHER, {}), Update(KEY, {"b": half}))
    assert await fields_of(store) == {"a": half}
    assert await store.get(OTHER) is None
    await store.write(Update(KEY, {"a": half[:-1]}))


BAD_KEYS = [
    ("", "s"),
    ("p", ""),
    ("p" * 2049, "s"),
    ("p", "s" * 1025),
    ("p", "é" * 513),
    ("\ud800", "s"),
    ("p", "\udfff"),
]


@pytest.mark.parametrize("partition_and_sort", BAD_KEYS, ids=range(len(BAD_KEYS)))
async def test_a_key_that_not_all_stores_can_hold_is_refused(
    store: Store, partition_and_sort: tuple[str, str]
) -> None:
    key = Key(*partition_and_sort)
    for write in (Put(key, {}), Update(key), Delete(key), Check(key, (Absent(),))):
        with pytest.raises(InputError):
            await store.write(write)
    with pytest.raises(InputError):
        await store.get(key)
    with pytest.raises(InputError):
        await store.add(key, {"n": 1})


async def test_the_longest_keys_fit(store: Store) -> None:
    key = Key("p" * 2048, "s" * 1024)
    await store.write(Put(key, {"a": 1}))
    assert await fields_of(store, key) == {"a": 1}
    assert [record.key for record in await everything(store, key.partition, "s" * 1024)] == [key]


@pytest.mark.parametrize("value", ["\ud800", object(), 1j, {("a", "b"): 1}])
async def test_fields_that_are_not_json_are_refused(store: Store, value: Any) -> None:
    with pytest.raises(InputError):
        await store.write(Put(KEY, {"x": value}))
    with pytest.raises(InputError):
        await store.write(Update(KEY, {"x": value}))
    assert await store.get(KEY) is None


@pytest.mark.parametrize("expires_at", [-1, float("nan"), float("inf"), 1_750_000_000_000, 10**40])
async def test_an_expiry_that_is_not_in_seconds_is_refused(store: Store, expires_at: float) -> None:
    for write in (Put(KEY, {}, expires_at=expires_at), Update(KEY, expires_at=expires_at)):
        with pytest.raises(InputError):
            await store.write(write)
    with pytest.raises(InputError):
        await store.add(KEY, {"n": 1}, expires_at=expires_at)


async def test_a_failed_write_leaves_the_store_usable(store: Store) -> None:
    await store.write(Put(KEY, {"a": 1}))
    for bad in (Put(KEY, {}, when=(Absent(),)), Update(KEY, add={"n": "x"}), Put(KEY, {"x": object()})):  # type: ignore[dict-item]
        with pytest.raises((ConditionError, InputError)):
            await store.write(bad)
    await store.write(Put(KEY, {"a": 2}))
    assert await fields_of(store) == {"a": 2}


# --- expiry


async def test_a_record_is_gone_at_its_time_and_not_before(store: Store, clock: ManualClock) -> None:
    await store.write(Put(KEY, {"a": 1}, expires_at=clock.now() + 10), Put(OTHER, {"b": 1}))
    clock.advance(9.5)
    assert await fields_of(store) == {"a": 1}
    clock.advance(0.5)
    assert await store.get(KEY) is None
    assert [record.key for record in await everything(store, "tenant")] == [OTHER]


async def test_expired_records_take_no_room_on_a_page(store: Store, clock: ManualClock) -> None:
    for number in range(60):
        expires_at = clock.now() + 10 if number % 3 else 0.0
        await store.write(Put(Key("t", f"{number:02}"), {}, expires_at=expires_at))
    clock.advance(10)
    expected = [f"{number:02}" for number in range(0, 60, 3)]
    assert [record.key.sort for record in await everything(store, "t", limit=7)] == expected
    assert [record.key.sort for record in await everything(store, "t", limit=7, reverse=True)] == expected[
        ::-1
    ]


async def test_what_comes_after_an_expired_record_begins_anew(store: Store, clock: ManualClock) -> None:
    await store.write(Put(KEY, {"old": 1, "n": 5}, expires_at=clock.now() + 10))
    clock.advance(10)
    assert await store.add(KEY, {"n": 1}) == {"n": 1}
    clock.advance(10_000)
    assert await fields_of(store) == {"n": 1}


async def test_an_update_keeps_sets_or_takes_away_the_expiry(store: Store, clock: ManualClock) -> None:
    keys = [Key("t", name) for name in ("kept", "later", "never", "counted", "counted-later")]
    for key in keys:
        await store.write(Put(key, {"n": 1}, expires_at=clock.now() + 10))
    await store.write(
        Update(keys[0], {"x": 1}),
        Update(keys[1], expires_at=clock.now() + 20),
        Update(keys[2], expires_at=0.0),
    )
    await store.add(keys[3], {"n": 1})
    await store.add(keys[4], {"n": 1}, expires_at=clock.now() + 20)
    clock.advance(10)
    assert [record.key.sort for record in await everything(store, "t")] == ["counted-later", "later", "never"]
    clock.advance(10)
    assert [record.key.sort for record in await everything(store, "t")] == ["never"]


async def test_a_put_takes_the_expiry_away(store: Store, clock: ManualClock) -> None:
    await store.write(Put(KEY, {"n": 1}, expires_at=clock.now() + 10))
    await store.write(Put(KEY, {"n": 2}))
    clock.advance(10)
    await store.write(*(Put(Key("t", str(number)), {}) for number in range(50)))
    assert await fields_of(store) == {"n": 2}


# --- queries


async def test_a_query_sees_one_partition_and_one_prefix(store: Store) -> None:
    for key in (
        Key("p", "a"),
        Key("p", "a#1"),
        Key("p", "a#2"),
        Key("p", "a$"),
        Key("p", "b"),
        Key("q", "a#3"),
    ):
        await store.write(Put(key, {"at": key.sort}))
    assert [record.key.sort for record in await everything(store, "p", "a#")] == ["a#1", "a#2"]
    assert [record.key.sort for record in await everything(store, "p", "a")] == ["a", "a#1", "a#2", "a$"]
    assert [record.key.sort for record in await everything(store, "p")] == ["a", "a#1", "a#2", "a$", "b"]
    assert await store.query("p", "c") == Page(())
    assert await store.query("none") == Page(())


async def test_pages_go_on_from_any_key_there_or_not(store: Store) -> None:
    await store.write(*(Put(Key("p", name), {}) for name in ("x1", "x3", "x5", "y")))
    cases = {
        ("x3", False): ["x5"],
        ("x2", False): ["x3", "x5"],
        ("a", False): ["x1", "x3", "x5"],
        ("z", False): [],
        ("x3", True): ["x1"],
        ("x4", True): ["x3", "x1"],
        ("z", True): ["x5", "x3", "x1"],
        ("a", True): [],
    }
    for (after, reverse), expected in cases.items():
        page = await store.query("p", "x", after=after, reverse=reverse)
        assert [record.key.sort for record in page.records] == expected, (after, reverse)


async def test_a_page_ends_early_after_a_megabyte_and_the_next_goes_on(store: Store) -> None:
    big = "x" * (300 * 1024)
    await store.write(*(Put(Key("p", str(number)), {"x": big}) for number in range(9)))
    page = await store.query("p", limit=9)
    assert page.after
    assert len(page.records) * len(big) < MAX_PAGE + 2 * len(big)
    for reverse in (False, True):
        sorts = [record.key.sort for record in await everything(store, "p", limit=9, reverse=reverse)]
        assert sorts == sorted("012345678", reverse=reverse)


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_has_limits(store: Store, limit: int) -> None:
    with pytest.raises(InputError):
        await store.query("p", limit=limit)


@pytest.mark.parametrize(
    "query", [("\ud800", "", ""), ("p", "\udc00", ""), ("p", "", "\udfff"), ("", "", "")]
)
async def test_a_query_takes_only_what_can_be_a_key(store: Store, query: tuple[str, str, str]) -> None:
    with pytest.raises(InputError):
        await store.query(query[0], query[1], after=query[2])


# Few characters, at the edges of UTF-8's lengths, of the surrogates and of Unicode, so that prefixes meet.
EDGES = "\x00 #a\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010fffe\U0010ffff"
SORTS = st.text(st.sampled_from(EDGES), min_size=1, max_size=4)


@given(
    sorts=st.sets(SORTS, max_size=30),
    prefix=st.text(st.sampled_from(EDGES), max_size=2),
    after=st.just("") | SORTS,
    limit=st.integers(1, 5),
    reverse=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_queries_agree_with_a_sorted_dict(
    opened: Open, sorts: set[str], prefix: str, after: str, limit: int, reverse: bool
) -> None:
    async def check() -> None:
        async with opened() as (store, _):
            ordered = sorted(sorts, key=str.encode, reverse=reverse)
            for place in range(0, len(ordered), 100):
                await store.write(
                    *(Put(Key("p", sort), {"at": sort}) for sort in ordered[place : place + 100])
                )
            await store.write(Put(Key("p\x00", "a"), {}), Put(Key("o", "a"), {}))
            records = await everything(store, "p", prefix, limit=limit, reverse=reverse)
            assert [record.key.sort for record in records] == [
                sort for sort in ordered if sort.startswith(prefix)
            ]
            assert all(record.fields == {"at": record.key.sort} for record in records)
            page = await store.query("p", prefix, after=after, limit=1000, reverse=reverse)
            left = [
                s
                for s in ordered
                if not after or (s.encode() < after.encode() if reverse else s.encode() > after.encode())
            ]
            assert [record.key.sort for record in page.records] == [
                sort for sort in left if sort.startswith(prefix)
            ]

    asyncio.run(check())


# --- many at once


async def test_of_50_conditional_writes_at_once_exactly_one_wins(store: Store) -> None:
    seen: list[Fields | None] = []

    async def attempt(number: int) -> int | None:
        try:
            await store.write(Put(KEY, {"winner": number}, when=(Absent(),)))
        except ConditionError as lost:
            seen.append(lost.current)
            return None
        return number

    winners = [number for number in await asyncio.gather(*map(attempt, range(50))) if number is not None]
    assert len(winners) == 1
    assert await fields_of(store) == {"winner": winners[0]}
    assert seen == [{"winner": winners[0]}] * 49


async def test_200_adds_at_once_sum_up_and_each_sees_its_own_sum(store: Store) -> None:
    sums = await asyncio.gather(*(store.add(KEY, {"n": 1}) for _ in range(200)))
    assert sorted(fields["n"] for fields in sums) == list(range(1, 201))
    assert await fields_of(store) == {"n": 200}


async def test_writers_that_compare_and_swap_lose_no_update(store: Store) -> None:
    await store.write(Put(KEY, {"n": 0}))

    async def increment() -> None:
        while True:
            record = await store.get(KEY)
            assert record is not None
            try:
                await store.write(Put(KEY, {"n": record.fields["n"] + 1}, when=(Version(record.version),)))
            except ConditionError:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(20)))
    assert await fields_of(store) == {"n": 20}


async def test_a_failure_among_many_at_once_touches_nobody_else(store: Store) -> None:
    async def one(number: int) -> str:
        try:
            if number % 3 == 0:
                await store.write(Put(Key("t", f"{number:02}"), {}, when=(Version(9),)))
            elif number % 3 == 1:
                await store.write(Update(KEY, {"text": "x"}), Update(Key("t", f"{number:02}"), add={"n": 1}))
            else:
                await store.write(Update(KEY, add={"text": 1}))
        except StoreError as error:
            return type(error).__name__
        return "done"

    await store.write(Put(KEY, {"text": "x"}))
    assert await asyncio.gather(*map(one, range(60))) == ["ConditionError", "done", "StoreError"] * 20
    assert [record.key.sort for record in await everything(store, "t")] == [
        f"{n:02}" for n in range(1, 60, 3)
    ]


async def test_a_read_sees_every_write_that_was_answered_before(store: Store) -> None:
    async def write_and_read(number: int) -> None:
        key = Key("t", f"{number:02}")
        for version in range(10):
            await store.write(Put(key, {"n": version}))
            assert await fields_of(store, key) == {"n": version}
            assert [record.fields for record in (await store.query("t", key.sort)).records] == [
                {"n": version}
            ]

    await asyncio.gather(*map(write_and_read, range(10)))


async def test_a_closed_store_refuses_every_verb(opened: Open) -> None:
    async with opened() as (store, _):
        await store.write(Put(KEY, {}))
        await store.close()
        for call in (store.get(KEY), store.query("t"), store.write(Put(KEY, {})), store.add(KEY, {"n": 1})):
            with pytest.raises(StoreError):
                await call


async def test_close_finishes_what_was_asked_for(opened: Open) -> None:
    async with opened() as (store, _):
        waiting = [asyncio.ensure_future(store.add(KEY, {"n": 1})) for _ in range(30)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await store.close()
        assert sorted([fields["n"] for fields in await asyncio.gather(*waiting)]) == list(range(1, 31))
        await store.close()


async def test_a_scan_shows_every_record_once_whatever_its_partition(
    store: Store, clock: ManualClock
) -> None:
    whole = cast("WholeStore", store if not isinstance(store, CountingStore) else MemoryStore(clock))
    store = whole  # a wrapper is no whole store
    assert await all_of(whole) == []
    wanted = {Key(f"tenant{n % 7}/place", f"sort{n:03d}"): {"n": n, "text": "é" * n} for n in range(60)}
    for key, fields in wanted.items():
        await store.write(Put(key, fields))
    await store.write(Put(Key("short", "life"), {"n": -1}, expires_at=clock.now() + 5))
    big = {Key("big", f"{n}"): {"text": "x" * 300_000} for n in range(5)}
    for key, fields in big.items():
        await store.write(Put(key, fields))
    clock.advance(10)
    found = await all_of(whole)
    assert len(found) == len({record.key for record in found})
    shown = {record.key: record.fields for record in found}
    expired = shown.pop(Key("short", "life"), {"n": -1})  # a store may have removed it
    assert expired == {"n": -1}
    assert shown == wanted | big
    await whole.scrub()
    await store.write(*(Delete(key) for key in wanted))
    assert {record.key for record in await all_of(whole)} <= {*big, Key("short", "life")}


async def all_of(store: WholeStore) -> list[Record]:
    found: list[Record] = []
    after = None
    while True:
        page = await store.scan(after=after)
        found += page.records
        after = page.after
        if after is None:
            return found
