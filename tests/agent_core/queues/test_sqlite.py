"""What the SQLite queue does beyond the contract: many processes, crashes, clocks that go wrong."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from agent_core.clock import SystemClock
from agent_core.errors import StoreBusyError, StoreError
from agent_core.queues.base import Counts, Entry, Received, Rules
from agent_core.queues.consumer import consume
from agent_core.queues.sqlite import SqliteQueue
from agent_core.testing import ManualClock

WORKER = """
import asyncio, os, sys
from agent_core.clock import SystemClock
from agent_core.queues.base import Rules
from agent_core.queues.sqlite import SqliteQueue

async def main(path, fifo, log):
    queue = SqliteQueue(path, SystemClock(), Rules(fifo=fifo == "fifo"))
    done = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        records = await queue.receive(wait_seconds=1)
        if not records and await queue.counts() == type(await queue.counts())():
            break
        for record in records:
            os.write(done, f"{record.group or '-'} {record.body} {record.receive_count}\\n".encode())
        assert await queue.delete([record.receipt for record in records]) == ()
    await queue.close()

asyncio.run(main(*sys.argv[1:]))
"""

VICTIM = """
import asyncio, sys
from agent_core.clock import SystemClock
from agent_core.queues.base import Rules
from agent_core.queues.sqlite import SqliteQueue

async def main(path):
    queue = SqliteQueue(path, SystemClock(), Rules(visibility_seconds=2))
    print(len(await queue.receive()), flush=True)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def entries(count: int, groups: int = 0) -> list[Entry]:
    if not groups:
        return [Entry(body=str(number)) for number in range(count)]
    return [
        Entry(body=str(number), group=f"g{number % groups}", dedupe=str(number)) for number in range(count)
    ]


@pytest.mark.parametrize("kind", ["standard", "fifo"])
async def test_four_processes_do_each_message_once(tmp_path: Path, kind: str) -> None:
    path, log, total = tmp_path / "queues.db", tmp_path / "done", 2000
    queue = SqliteQueue(path, SystemClock(), Rules(fifo=kind == "fifo"))
    workers = [start(WORKER, str(path), kind, str(log)) for _ in range(4)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        sending = entries(total, groups=100 if kind == "fifo" else 0)
        half = total // 2
        for start_at in range(0, half, 10):
            await queue.send(*sending[start_at : start_at + 10])
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for start_at in range(half, total, 10):  # the rest while they work
            await queue.send(*sending[start_at : start_at + 10])
        for worker in workers:
            assert await asyncio.to_thread(worker.wait, 90) == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate(timeout=30)
    lines = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(body) for _, body, _ in lines) == list(range(total)), "none lost, none double"
    assert {count for _, _, count in lines} == {"1"}
    if kind == "fifo":
        by_group: dict[str, list[int]] = defaultdict(list)
        for group, body, _ in lines:
            by_group[group].append(int(body))
        assert len(by_group) == 100
        assert all(numbers == sorted(numbers) for numbers in by_group.values())
    assert await queue.counts() == Counts()
    await queue.close()


async def test_what_a_killed_process_held_comes_again(tmp_path: Path) -> None:
    clock, path = SystemClock(), tmp_path / "queues.db"
    queue = SqliteQueue(path, clock, Rules(visibility_seconds=2))
    sent = await queue.send(*entries(10))
    victim = start(VICTIM, str(path))
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "10\n"
        begin = clock.monotonic()
    finally:
        victim.kill()
        victim.communicate(timeout=30)
    assert await queue.receive() == ()
    again = []
    while len(again) < 10:
        again += await queue.receive(wait_seconds=10)
    assert clock.monotonic() - begin > 1.5
    assert {record.id for record in again} == {result.id for result in sent}
    assert {record.receive_count for record in again} == {2}
    assert await queue.delete([record.receipt for record in again]) == ()
    await queue.close()


async def test_a_message_from_another_process_ends_a_wait(tmp_path: Path) -> None:
    """Two queues on one file know of each other by the file alone, just as two processes do."""
    ours, theirs = (SqliteQueue(tmp_path / "queues.db", SystemClock()) for _ in range(2))
    waiting = asyncio.create_task(ours.receive(wait_seconds=20))
    await asyncio.sleep(0)
    await theirs.send(Entry(body="a"))
    [record] = await asyncio.wait_for(waiting, 10)
    assert record.body == "a"
    await ours.close()
    await theirs.close()


@pytest.mark.parametrize("fifo", [False, True])
async def test_a_clock_set_back_holds_nothing_up(tmp_path: Path, fifo: bool) -> None:
    path, rules = tmp_path / "queues.db", Rules(fifo=fifo, content_dedupe=fifo, delay_seconds=5)
    before = SqliteQueue(path, ManualClock(1_750_003_600.0), rules)
    await before.send(Entry(body="new", group="g"))
    await before.close()
    clock = ManualClock(1_750_000_000.0)
    after = SqliteQueue(path, clock, rules)
    assert await after.receive() == ()
    clock.advance(5)
    [record] = await after.receive()
    assert record.body == "new"
    await after.close()
    clock = ManualClock(clock.now() - 7200)
    again = SqliteQueue(path, clock, rules)
    assert await again.receive() == (), "it is in flight for its 30 s"
    [same] = await again.send(Entry(body="new", group="g"))
    assert fifo is (same.id == record.id), "and a duplicate is one still"
    clock.advance(31)
    assert "new" in [message.body for message in await again.receive()]
    await again.close()


async def test_a_receive_cancelled_too_late_hands_back_what_it_took(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "queues.db", SystemClock())
    for number in range(20):
        await queue.send(Entry(body=str(number)))
        receiving = asyncio.create_task(queue.receive())
        for _ in range(number):
            await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.wait([receiving])
        if receiving.cancelled():
            records = await queue.receive()
            assert len(records) == 1
        else:
            records = receiving.result()
        assert await queue.delete([record.receipt for record in records]) == ()
    assert await queue.counts() == Counts()
    await queue.close()


async def test_what_expired_is_swept_out_of_the_file(tmp_path: Path) -> None:
    clock = ManualClock()
    queue = SqliteQueue(tmp_path / "queues.db", clock, Rules(retention_seconds=60, fifo=True))
    sending = entries(250, groups=7)
    await asyncio.gather(*(queue.send(*sending[place : place + 10]) for place in range(0, 250, 10)))
    for record in await queue.receive():
        await queue.bury(record, "why")
    clock.advance(15 * 86_400)
    for number in range(4):
        await queue.send(Entry(body="x", group="g0", dedupe=f"x{number}"))
    await queue.close()
    with sqlite3.connect(tmp_path / "queues.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM messages").fetchone() == (4,)
        assert connection.execute("SELECT COUNT(*) FROM sent").fetchone() == (4,)
    connection.close()


async def test_a_long_backlog_costs_a_receive_nothing(tmp_path: Path) -> None:
    """Rows that a receive reads, by SQLite's own count of steps, are as many with 5,000 waiting as with 50."""
    steps = []
    for waiting in (50, 5000):
        path = tmp_path / f"{waiting}.db"
        queue = SqliteQueue(path, ManualClock(), Rules(fifo=True))
        sending = entries(waiting, groups=3)
        await asyncio.gather(*(queue.send(*sending[place : place + 10]) for place in range(0, waiting, 10)))
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        connection = queue._database._writer
        assert connection is not None
        connection.set_progress_handler(count, 10)
        records = await queue.receive()
        await queue.delete([record.receipt for record in records])
        connection.set_progress_handler(None, 0)
        steps.append(counted)
        await queue.close()
    assert steps[1] <= steps[0] * 1.1


async def test_what_was_sent_is_flushed_and_what_may_come_twice_need_not_be(tmp_path: Path) -> None:
    """A flush takes longer than all the rest; a power cut that undoes a receive only brings the message again."""
    queue = SqliteQueue(tmp_path / "queues.db", SystemClock())
    await queue.send(Entry(body="a"))
    connection = queue._database._writer
    assert connection is not None
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    [record] = await queue.receive()
    await queue.delete([record.receipt])
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
    statements.clear()
    await queue.send(Entry(body="b"))
    assert statements.index("PRAGMA synchronous = FULL") < statements.index("COMMIT")
    await queue.close()


async def test_the_loop_works_through_a_file(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "queues.db", SystemClock(), Rules(fifo=True))
    sending = entries(200, groups=9)
    await asyncio.gather(*(queue.send(*sending[place : place + 10]) for place in range(0, 100, 10)))
    stop, done = asyncio.Event(), []

    async def handle(record: Received) -> None:
        done.append(int(record.body))
        if len(done) == 200:
            stop.set()

    loop = asyncio.create_task(consume(queue, handle, stop, clock=SystemClock(), concurrency=20))
    await asyncio.gather(*(queue.send(*sending[place : place + 10]) for place in range(100, 200, 10)))
    await asyncio.wait_for(loop, 30)
    assert sorted(done) == list(range(200))
    assert await queue.counts() == Counts()
    await queue.close()


async def test_a_file_locked_for_too_long_is_a_declared_error(tmp_path: Path) -> None:
    path = tmp_path / "queues.db"
    queue = SqliteQueue(path, SystemClock(), busy_seconds=0.05)
    await queue.send(Entry(body="a"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        await queue.send(Entry(body="b"))
    with pytest.raises(StoreBusyError):
        await queue.receive()
    other.execute("ROLLBACK")
    other.close()
    assert [record.body for record in await queue.receive()] == ["a"]
    await queue.close()


async def test_a_full_disk_is_a_declared_error_and_loses_nothing(tmp_path: Path) -> None:
    queue = SqliteQueue(tmp_path / "queues.db", SystemClock())
    await queue.send(Entry(body="a"))
    connection = queue._database._writer
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="disk is full"):
        await queue.send(Entry(body="x" * 100_000))
    assert [record.body for record in await queue.receive()] == ["a"]
    await queue.close()


async def test_a_forked_child_works_on(tmp_path: Path) -> None:
    program = [sys.executable, "-c", FORK, str(tmp_path / "queues.db")]
    ended = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


FORK = """
import asyncio, os, sys
from agent_core.clock import SystemClock
from agent_core.queues.base import Entry
from agent_core.queues.sqlite import SqliteQueue

queue = SqliteQueue(sys.argv[1], SystemClock())
asyncio.run(queue.send(Entry(body="before")))
child = os.fork()
if child == 0:
    asyncio.run(queue.send(Entry(body="child")))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
asyncio.run(queue.send(Entry(body="after")))
assert sorted(record.body for record in asyncio.run(queue.receive())) == ["after", "before", "child"]
"""
