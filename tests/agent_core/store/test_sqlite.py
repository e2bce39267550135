"""What the SQLite store does beyond the contract: one process, its threads, its file."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_core.errors import ConditionError, StoreBusyError, StoreError
from agent_core.store.base import Absent, Key, Put, Update
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import ManualClock

KEY = Key("tenant", "record")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, ManualClock())
    yield store
    await store.close()


@pytest.fixture
def other_file(path: Path) -> bytes:
    """What stands where the store is to be, and is somebody else's."""
    path.parent.mkdir()
    path.write_bytes(b"precious notes, not a database\n" * 100)
    return path.read_bytes()


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def damage(path: Path) -> None:
    """Overwrite all pages but the first, which holds the schema."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


def look(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What another program sees in the file."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


# --- the file


async def test_nothing_is_opened_before_the_first_use(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    threads = threading.active_count()
    await store.close()
    assert not path.parent.exists()
    assert threading.active_count() == threads


async def test_a_read_may_be_the_first_use(store: SqliteStore) -> None:
    assert await store.get(KEY) is None


async def test_the_file_is_plain_json_in_wal_mode_with_a_schema_version(
    store: SqliteStore, path: Path
) -> None:
    await store.write(Put(KEY, {"a": "ü"}, expires_at=5e9))
    assert look(path, "SELECT * FROM records") == [("tenant", "record", '{"a":"ü"}'.encode(), 1, 5e9)]
    assert look(path, "PRAGMA journal_mode") == [("wal",)]
    assert look(path, "PRAGMA user_version") == [(1,)]


async def test_records_outlive_the_store(path: Path) -> None:
    first = SqliteStore(path, ManualClock())
    await first.write(Put(KEY, {"a": 1}))
    await first.close()
    assert [file.name for file in path.parent.iterdir()] == ["store.db"], "a closed store leaves one file"
    second = SqliteStore(path, ManualClock())
    record = await second.get(KEY)
    await second.close()
    assert record is not None
    assert record.fields == {"a": 1}


async def test_a_file_of_a_newer_sampan_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    look(path, "PRAGMA user_version = 2")
    store = SqliteStore(path, ManualClock())
    for _ in range(2):
        with pytest.raises(StoreError, match="newer Sampan"):
            await store.get(KEY)
        with pytest.raises(StoreError, match="newer Sampan"):
            await store.write(Put(KEY, {}))
    await store.close()
    assert look(path, "PRAGMA user_version") == [(2,)]
    assert look(path, "SELECT * FROM sqlite_schema") == []


async def test_what_is_no_sqlite_file_is_a_declared_error_and_left_alone(
    path: Path, other_file: bytes
) -> None:
    store = SqliteStore(path, ManualClock())
    with pytest.raises(StoreError, match="no SQLite file"):
        await store.write(Put(KEY, {}))
    with pytest.raises(StoreError, match="no SQLite file"):
        await store.get(KEY)
    await store.close()
    assert content_of(path) == other_file


async def test_a_place_where_no_file_can_be_is_a_declared_error_until_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    store = SqliteStore(tmp_path / "taken" / "store.db", ManualClock())
    with pytest.raises(StoreError):
        await store.write(Put(KEY, {}))
    (tmp_path / "taken").unlink()
    await store.write(Put(KEY, {"a": 1}))
    assert await store.get(KEY) is not None
    await store.close()


async def test_a_folder_in_the_place_of_the_file_is_a_declared_error(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, ManualClock())
    with pytest.raises(StoreError, match="can't be opened"):
        await store.write(Put(KEY, {}))
    await store.close()


async def test_a_damaged_file_is_a_declared_error_not_an_answer(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    for number in range(200):
        await store.write(Put(Key("t", f"{number:03}"), {"x": "y" * 2000}))
    await store.close()
    damage(path)
    store = SqliteStore(path, ManualClock())
    with pytest.raises(StoreError, match="damaged"):
        await store.query("t", limit=1000)
    with pytest.raises(StoreError, match="damaged"):
        await store.write(Put(Key("t", "100"), {}))
    await store.close()


async def test_a_damaged_record_is_a_declared_error(store: SqliteStore, path: Path) -> None:
    await store.write(Put(KEY, {"a": 1}))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("UPDATE records SET fields = ?", (b'{"a":',))
    connection.close()
    with pytest.raises(StoreError, match="damaged"):
        await store.get(KEY)
    with pytest.raises(StoreError, match="damaged"):
        await store.add(KEY, {"n": 1})


async def test_a_file_that_was_removed_is_made_anew_and_nothing_is_written_into_the_void(
    store: SqliteStore, path: Path
) -> None:
    await store.write(Put(KEY, {"a": 1}))
    assert await store.get(KEY) is not None
    shutil.rmtree(path.parent)
    await store.write(Put(Key("t", "new"), {"b": 2}))
    assert await store.get(KEY) is None
    assert look(path, "SELECT sort FROM records") == [("new",)]


# --- full disks, as far as one process can have one


async def test_a_full_file_is_a_declared_error_and_loses_nothing(store: SqliteStore, path: Path) -> None:
    await store.write(Put(KEY, {"a": 1}))
    assert store._database._writer is not None
    store._database._writer.execute("PRAGMA max_page_count = 20")
    with pytest.raises(StoreError, match="the disk is full"):
        await store.write(Put(Key("t", "small"), {}), Put(Key("t", "big"), {"x": "y" * 200_000}))
    record = await store.get(KEY)
    assert record is not None
    assert record.fields == {"a": 1}
    assert await store.get(Key("t", "small")) is None
    await store.write(Put(Key("t", "big"), {"x": "y" * 200_000}))  # there is room again
    assert await store.get(Key("t", "big")) is not None


async def test_one_write_that_does_not_fit_spares_the_others_of_its_batch(store: SqliteStore) -> None:
    await store.write(Put(KEY, {"a": 1}))
    with store._database._writing:  # so that all of these wait together
        writes = [asyncio.ensure_future(store.write(Put(Key("t", f"{n:02}"), {"n": n}))) for n in range(20)]
        writes.insert(7, asyncio.ensure_future(store.write(Put(Key("t", "big"), {"x": "y" * 300_000}))))
        await asyncio.sleep(0)
        assert store._database._writer is not None
        store._database._writer.execute("PRAGMA max_page_count = 30")
    results = await asyncio.gather(*writes, return_exceptions=True)
    # The connection is made anew after the fault, without the limit, and then the culprit fits as well.
    assert results == [None] * 21
    assert len((await store.query("t")).records) == 21


# --- threads, loops, batches


async def test_waiting_writes_share_a_commit(store: SqliteStore) -> None:
    await store.write(Put(KEY, {}))
    commits: list[str] = []
    assert store._database._writer is not None
    store._database._writer.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    with store._database._writing:
        writes = [asyncio.ensure_future(store.add(KEY, {"n": 1})) for _ in range(100)]
        await asyncio.sleep(0)
    sums = [fields["n"] for fields in await asyncio.gather(*writes)]
    assert sums == list(range(1, 101))
    assert len(commits) <= 2  # one for the batch that the first write began alone


async def test_a_lost_condition_sees_the_winner_of_its_own_batch(store: SqliteStore) -> None:
    await store.write(Put(Key("t", "x"), {}))
    with store._database._writing:
        writes = [asyncio.ensure_future(store.write(Put(KEY, {"n": n}, when=(Absent(),)))) for n in range(3)]
        await asyncio.sleep(0)
    first, *others = await asyncio.gather(*writes, return_exceptions=True)
    assert first is None
    assert [other.current for other in others if isinstance(other, ConditionError)] == [{"n": 0}] * 2


async def test_a_fault_in_the_code_of_one_write_spares_the_others_of_its_batch(store: SqliteStore) -> None:
    await store.write(Put(KEY, {}))
    with store._database._writing:
        good = [asyncio.ensure_future(store.add(KEY, {"n": 1})) for _ in range(3)]
        bad = asyncio.ensure_future(store._database.write(lambda connection: [][0]))
        good += [asyncio.ensure_future(store.add(KEY, {"n": 1})) for _ in range(3)]
        await asyncio.sleep(0)
    with pytest.raises(IndexError):
        await bad
    assert [fields["n"] for fields in await asyncio.gather(*good)] == [1, 2, 3, 4, 5, 6]


async def test_a_write_cancelled_before_its_turn_is_not_done(store: SqliteStore) -> None:
    await store.write(Put(Key("t", "x"), {}))
    with store._database._writing:
        first = asyncio.ensure_future(store.add(KEY, {"n": 1}))
        await asyncio.sleep(0)
        while not store._database._commits._waiting.empty():  # noqa: ASYNC110 - another thread takes it, there is no event
            await asyncio.sleep(0)
        second = asyncio.ensure_future(store.add(KEY, {"n": 10}))
        third = asyncio.ensure_future(store.add(KEY, {"n": 100}))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
    assert await first == {"n": 1}
    assert await third == {"n": 101}
    assert second.cancelled()


def test_a_store_outlives_the_event_loop_it_was_used_on(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    for number in range(1, 4):
        assert asyncio.run(store.add(KEY, {"n": 1})) == {"n": number}

    async def leave_without_waiting() -> None:
        asyncio.ensure_future(store.add(KEY, {"n": 1}))  # noqa: RUF006 - asyncio.run cancels it
        await asyncio.sleep(0)

    asyncio.run(leave_without_waiting())

    async def rest() -> int:
        fields = await store.add(KEY, {"n": 1})
        await store.close()
        return int(fields["n"])

    assert asyncio.run(rest()) in (4, 5)  # the one nobody waited for was done, or not


def test_many_threads_with_their_own_loops_may_share_a_store(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    failures: list[BaseException] = []

    async def work() -> None:
        for _ in range(25):
            await store.add(KEY, {"n": 1})
            assert await store.get(KEY) is not None

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

    async def end() -> int:
        record = await store.get(KEY)
        await store.close()
        assert record is not None
        return int(record.fields["n"])

    assert asyncio.run(end()) == 200


async def test_a_store_that_nobody_closed_does_not_keep_its_thread_from_ending(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    await store.write(Put(KEY, {}))
    thread = store._database._commits._thread
    assert thread is not None
    assert thread.daemon
    await store.close()
    assert not thread.is_alive()


# --- locks of other programs


async def test_a_lock_held_too_long_is_a_busy_error_and_then_all_is_well(path: Path) -> None:
    store = SqliteStore(path, ManualClock(), busy_seconds=0.05)
    await store.write(Put(KEY, {"n": 0}))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    results = await asyncio.gather(*(store.add(KEY, {"n": 1}) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreBusyError] * 3
    record = await store.get(KEY)  # readers wait for no writer
    assert record is not None
    assert record.fields == {"n": 0}
    other.execute("ROLLBACK")
    other.close()
    assert await store.add(KEY, {"n": 1}) == {"n": 1}
    await store.close()


async def test_a_file_that_another_program_keeps_to_itself_is_a_busy_error_for_reads_too(path: Path) -> None:
    store = SqliteStore(path, ManualClock(), busy_seconds=0.05)
    await store.write(Put(KEY, {"n": 0}))
    await store.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("UPDATE records SET version = 2")
    store = SqliteStore(path, ManualClock(), busy_seconds=0.05)
    with pytest.raises(StoreBusyError):
        await store.get(KEY)
    other.close()
    assert await store.get(KEY) is not None
    await store.close()


async def test_a_write_waits_for_a_lock_that_is_given_back(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    await store.write(Put(KEY, {"n": 0}))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE records SET fields = ?", (b'{"n":41}',))
    write = asyncio.ensure_future(store.add(KEY, {"n": 1}))
    await asyncio.sleep(0)
    other.execute("COMMIT")
    other.close()
    assert await write == {"n": 42}
    await store.close()


async def test_a_read_waits_for_an_exclusive_lock_without_holding_up_the_loop(path: Path) -> None:
    store = SqliteStore(path, ManualClock())
    await store.write(Put(KEY, {"n": 0}))
    assert await store.get(KEY) is not None
    await store.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("UPDATE records SET version = 2")
    store = SqliteStore(path, ManualClock())
    read = asyncio.ensure_future(store.get(KEY))
    turns = 0
    while turns < 100:
        await asyncio.sleep(0)
        turns += 1
    assert not read.done()
    other.close()
    record = await read
    assert record is not None
    assert record.version == 2
    await store.close()


# --- work that must not grow


async def test_a_page_costs_the_same_wherever_it_begins(store: SqliteStore) -> None:
    for start in range(0, 10_000, 100):
        await store.write(*(Put(Key("t", f"m#{start + n:08}"), {"n": 1}) for n in range(100)))
    await store.get(KEY)
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    assert store._database._reader is not None
    store._database._reader.set_progress_handler(step, 1)  # called for each instruction of SQLite's machine
    costs = set()
    for after in ("", "m#00000010", "m#00005000", "m#00009900"):
        for reverse in (False, True):
            steps = 0
            page = await store.query(
                "t", "m#", after=after or ("m#99" if reverse else ""), limit=10, reverse=reverse
            )
            assert len(page.records) == 10
            costs.add(steps // 10)
    assert max(costs) <= min(costs) + 2, costs


async def test_expired_records_leave_the_file_a_few_at_a_time(path: Path) -> None:
    clock = ManualClock()
    store = SqliteStore(path, clock)
    for start in range(0, 400, 100):
        await store.write(
            *(Put(Key("t", str(start + n)), {}, expires_at=clock.now() + 10) for n in range(100))
        )
    await store.write(Put(KEY, {}))
    clock.advance(100)
    left = []
    for _ in range(6):
        await store.write(Update(KEY, add={"n": 1}))
        left.append(look(path, "SELECT count(*) FROM records")[0][0])
    assert left == [301, 201, 101, 1, 1, 1]
    await store.close()
