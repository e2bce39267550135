"""One of the processes that work at the same time in `disorder.py`: two queues' worker, sweeper, and callers' server.

    python -m tests.durability.crowd FOLDER MODEL NUMBER MESSAGES SESSIONS SEED

Ends in order at SIGTERM.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent_core import Agent, Tool, Turn, tool
from agent_core.app import App, build_app
from agent_core.clock import SystemClock
from agent_core.engine.runs import Inbound, Run
from agent_core.errors import RunningError, StoreError
from agent_core.messages import Message, Principal
from agent_core.queues.base import Received, Rules
from agent_core.queues.consumer import consume
from agent_core.queues.sqlite import SqliteQueue
from agent_core.settings import Settings
from agent_core.store.sqlite import SqliteStore
from tests.durability.history import Effect, Sent, Way
from tests.durability.world import World

WORKERS = 4
LEASE_SECONDS = 10.0
FIFO = Rules(name="in-order", fifo=True, visibility_seconds=10, max_receives=200)
STANDARD = Rules(name="shuffled", visibility_seconds=10, max_receives=200)
LANES = 8
"""Messages at once, of each way."""

INFLIGHT = 3 * LANES
DELIVERIES = 5
"""How often a message is delivered at the most."""

ME = Principal()
WAYS: tuple[Way, ...] = ("fifo", "standard", "http")
TOOLS = ("ok", "ok", "ok", "pay", "send")
"""The last words of messages: two in five lead to a tool."""


@dataclass(frozen=True)
class Case:
    """How much of it, and the seed that decides all that is left to chance."""

    messages: int
    sessions: int
    kills: int
    seed: int
    seconds: float

    def sent(self) -> list[Sent]:
        """All messages, those of a session in the order in which they are sent."""
        chance = random.Random(self.seed)
        each = self.messages // self.sessions
        return [
            Sent(f"s{session} says {place} {chance.choice(TOOLS)}", f"s{session}", WAYS[session % len(WAYS)])
            for session in range(self.sessions)
            for place in range(each)
        ]


def effects_of(world: World) -> sqlite3.Connection:
    """The backend of the tools."""
    connection = sqlite3.connect(world.folder / "effects.db", timeout=30, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("CREATE TABLE IF NOT EXISTS effects (tool, words, key, repeat)")
    connection.execute("CREATE INDEX IF NOT EXISTS by_key ON effects (key)")
    return connection


def effects_in(world: World) -> list[Effect]:
    """What the tools did."""
    connection = effects_of(world)
    rows = connection.execute("SELECT tool, words, key, repeat FROM effects").fetchall()
    connection.close()
    return [Effect(*row[:3], repeat=bool(row[3])) for row in rows]


def tools_of(world: World) -> list[Tool]:
    """A tool whose backend knows a key again, and one that must run once and can be asked whether it did."""
    backend = effects_of(world)

    def known(key: str) -> bool:
        return backend.execute("SELECT 1 FROM effects WHERE key = ?", (key,)).fetchone() is not None

    @tool(effects="repeatable")
    async def pay(order: str, turn: Turn) -> str:
        """Pay an order."""
        backend.execute("BEGIN IMMEDIATE")
        backend.execute(
            "INSERT INTO effects VALUES ('pay', ?, ?, ?)",
            (order, turn.idempotency_key, known(turn.idempotency_key)),
        )
        backend.execute("COMMIT")
        return "paid"

    async def sent(key: str) -> str | None:
        return "sent" if known(key) else None

    @tool(effects="once", lookup=sent)
    async def send(order: str, turn: Turn) -> str:
        """Send a parcel."""
        backend.execute("INSERT INTO effects VALUES ('send', ?, ?, 0)", (order, turn.idempotency_key))
        return "sent"

    return [pay, send]


def make_app(world: World, model: str) -> App:
    """The application, as each process has it."""
    clock = SystemClock()
    settings = Settings.from_env(
        {},
        data=str(world.folder),
        lease_seconds=LEASE_SECONDS,
        sweep_seconds=2.0,
        model_endpoint=model,
        model_name="wobbly",
        model_first_byte_seconds=2.0,
        model_chunk_seconds=2.0,
    )
    agent = Agent(name="assistant", model="openai:wobbly", tools=tools_of(world), untrusted="allow")
    return build_app(settings, agents=[agent], store=SqliteStore(world.database, clock), clock=clock)


def queue(world: World, rules: Rules) -> SqliteQueue:
    """One of the two queues, as one process sees it."""
    return SqliteQueue(world.queue, SystemClock(), rules)


class AgainQueue:
    """A queue that gives each message out one to five times, though it was done: as SQS may."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue
        self._held: dict[str, Received] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def receive(self, *args: Any, **options: Any) -> tuple[Received, ...]:
        records = await self._queue.receive(*args, **options)
        self._held |= {record.receipt: record for record in records}
        return records

    async def delete(self, receipts: Sequence[str]) -> tuple[str, ...]:
        done = [self._held.pop(receipt) for receipt in receipts]
        again = [record.receipt for record in done if record.receive_count < deliveries(record.id)]
        gone = [record.receipt for record in done if record.receipt not in again]
        refused = await self._queue.extend(again, 0) if again else ()
        return (*refused, *(await self._queue.delete(gone) if gone else ()))


def deliveries(name: str) -> int:
    """One to five, the same in every process."""
    return 1 + random.Random(name).randrange(DELIVERIES)


def calls_of(sent: Sequence[Sent], number: int, seed: int) -> list[Sent]:
    """What callers send to this process: each message to one to five processes, or twice to the same; shuffled."""
    mine = [
        one
        for one in sent
        if one.way == "http"
        for copy in range(deliveries(one.words))
        if (sum(one.words.encode()) + copy) % WORKERS == number
    ]
    random.Random(seed + number).shuffle(mine)
    return mine


async def insist(app: App, sent: Sent) -> Run:
    """Send a message until it is answered, as a caller does who gets no answer or a failure that passes."""
    inbound = Inbound(
        messages=(Message.of("user", sent.words),),
        key=sent.words,
        fingerprint=sent.words,
        session_id=sent.session,
        stream=len(sent.words) % 2 == 0,
    )
    while True:
        try:
            run = await app.engine.answer(inbound)
        except (RunningError, StoreError):
            await app.clock.sleep(0.2)
            continue
        if run.status == "succeeded" or not (run.failure and run.failure.retryable):
            return run
        await app.clock.sleep(0.2)


async def call(world: World, app: App, number: int, calls: Sequence[Sent]) -> None:
    """All that callers send here, some at a time."""
    lanes = asyncio.Semaphore(LANES)

    async def one(sent: Sent) -> None:
        async with lanes:
            run = await insist(app, sent)
            world.log("told", words=sent.words, text=run.reply.text if run.reply else run.status)

    await asyncio.gather(*map(one, calls))
    world.log("senders", number=number)


async def work(world: World, model: str, number: int, calls: Sequence[Sent]) -> None:
    """All at once, until SIGTERM."""
    app = make_app(world, model)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    queues = [AgainQueue(queue(world, rules)) for rules in (FIFO, STANDARD)]
    async with asyncio.TaskGroup() as tasks:
        sweeping = tasks.create_task(app.look_after())
        calling = tasks.create_task(call(world, app, number, calls))
        for one in queues:
            handle = partial(app.desk.handle, queue=one.rules.name)
            tasks.create_task(consume(one, handle, stop, clock=app.clock, concurrency=LANES, wait_seconds=1))
        await stop.wait()
        sweeping.cancel()
        calling.cancel()
    await app.close()
    for one in queues:
        await one.close()


def main() -> None:
    folder, model, number, messages, sessions, seed = sys.argv[1:]
    sent = Case(int(messages), int(sessions), 0, int(seed), 0).sent()
    calls = calls_of(sent, int(number), int(seed))
    asyncio.run(work(World(Path(folder)), model, int(number), calls))


if __name__ == "__main__":
    main()
