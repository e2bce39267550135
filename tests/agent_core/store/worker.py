"""A process of its own that uses a store: `worker.py <task> <file> <numbers ...>`. The tests start and kill it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import threading
from pathlib import Path

from agent_core.clock import SystemClock
from agent_core.errors import ConditionError, StoreError
from agent_core.store.base import Absent, Key, Put, Update
from agent_core.store.sqlite import SqliteStore

COUNTER = Key("counters", "n")


def say(*words: object) -> None:
    print(*words, flush=True)


async def claim(store: SqliteStore, keys: int, adds: int) -> None:
    """Claim keys that others claim as well, count up with them, and say what was won."""

    async def one(number: int) -> str:
        try:
            await store.write(Put(Key("claims", f"{number:04}"), {"by": os.getpid()}, when=(Absent(),)))
        except ConditionError:
            return ""
        return str(number)

    won = await asyncio.gather(
        *(one(number) for number in range(keys)), *(count(store, adds) for _ in range(4))
    )
    await store.close()
    say(*(number for number in won if number))


async def count(store: SqliteStore, adds: int) -> None:
    for _ in range(adds):
        await store.add(COUNTER, {"n": 1})


async def stream(store: SqliteStore, first: int, tasks: int) -> None:
    """Write transactions of three records without end, and say the number of each that was answered."""

    async def one(task: int) -> None:
        number = first + task
        while True:
            await store.write(
                Put(Key("left", f"{number:08}"), {"text": "x" * (number * 37 % 5000)}, when=(Absent(),)),
                Put(Key("right", f"{number:08}"), {"text": "y" * (number * 53 % 900)}, when=(Absent(),)),
                Update(COUNTER, add={"n": 1}),
            )
            say(number)
            number += tasks

    await asyncio.gather(*(one(task) for task in range(tasks)))


async def full(store: SqliteStore, limit: int) -> None:
    """Write until the system refuses to let the file grow, then again when it allows it."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    answered = 0
    try:
        while True:
            await store.write(
                Put(Key("left", f"{answered:08}"), {"text": "x" * 3000}), Update(COUNTER, add={"n": 1})
            )
            answered += 1
    except StoreError as error:
        say(answered, type(error).__name__)
    assert await store.get(Key("left", "00000000")) is not None, "reads go on"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.write(Put(Key("left", f"{answered:08}"), {"text": "again"}), Update(COUNTER, add={"n": 1}))
    await store.close()


async def unwritable(store: SqliteStore) -> None:
    """Try as a user who may only read the folder."""
    await asyncio.to_thread(int)  # loads what Python's own folders may not show to that user
    if os.getuid() == 0:
        os.setuid(65534)
    for call in (store.write(Put(COUNTER, {})), store.get(COUNTER)):
        try:
            await call
        except StoreError as error:
            say(type(error).__name__, error)
    await store.close()


def fork(store: SqliteStore, adds: int) -> None:
    """Fork while a thread writes, then write on both sides; the parent closes first."""

    async def counted() -> None:
        await count(store, adds)
        assert await store.get(COUNTER) is not None

    async def last() -> None:
        await counted()
        await store.close()

    asyncio.run(counted())
    thread = threading.Thread(target=asyncio.run, args=(counted(),))
    thread.start()
    child = os.fork()
    if child:
        thread.join()
        asyncio.run(last())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    else:
        asyncio.run(counted())
        asyncio.run(last())
        os._exit(0)


def main() -> None:
    task, path, *numbers = sys.argv[1:]
    store = SqliteStore(Path(path), SystemClock(), busy_seconds=60.0)
    if task == "fork":
        fork(store, *map(int, numbers))
    else:
        asyncio.run(
            {"claim": claim, "stream": stream, "full": full, "unwritable": unwritable}[task](
                store, *map(int, numbers)
            )
        )


if __name__ == "__main__":
    main()
