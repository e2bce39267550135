"""Many messages, each delivered one to five times, out of order, to four processes on one store, over a failing model.

    python -m tests.durability.disorder [--messages 2000] [--sessions 100] [--kills 2] [--seed 1]

A third of the sessions get their messages through a FIFO queue, a third through a standard one, a third by callers who
send each again and again, to several processes at once. Some processes are killed meanwhile and started anew; a reader
looks on. Then the history that the database wrote down is checked. Ends with 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from agent_core.clock import SystemClock
from agent_core.errors import NotFoundError, StoreError
from agent_core.messages import Principal, to_record
from agent_core.queues.base import Counts, Entry
from agent_core.store.base import Key
from agent_core.store.sqlite import SqliteStore
from tests.durability.crowd import (
    FIFO,
    INFLIGHT,
    LEASE_SECONDS,
    STANDARD,
    WAYS,
    WORKERS,
    Case,
    effects_in,
    make_app,
    queue,
)
from tests.durability.history import History, Sent, problems
from tests.durability.recorder import Recording, entry_of, record
from tests.durability.world import World, new_world

ROOT = Path(__file__).resolve().parents[2]
ME = Principal()


class Crowd:
    """The processes of a case: the model's server and the workers."""

    def __init__(self, world: World, case: Case, model: str) -> None:
        self._world = world
        self._case = case
        self._model = model
        self.workers: list[asyncio.subprocess.Process] = []

    async def start(self, number: int) -> asyncio.subprocess.Process:
        """A worker, the first of this number or the next."""
        case = self._case
        arguments = [
            str(self._world.folder),
            self._model,
            *map(str, (number, case.messages, case.sessions, case.seed)),
        ]
        path = self._world.folder / f"worker-{number}.txt"
        with path.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.durability.crowd",
                *arguments,
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    async def kill(self, number: int) -> None:
        """End a worker at once, and start another one in its place."""
        worker = self.workers[number]
        worker.kill()
        await worker.wait()
        self.workers[number] = await self.start(number)

    async def stop(self) -> list[int]:
        """Have all workers end in order; their exit codes."""
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        return [await worker.wait() for worker in self.workers]


@asynccontextmanager
async def model_server(seed: int) -> AsyncIterator[str]:
    """The model's address, while it is there."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.durability.wobbly", str(seed), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdin
    assert server.stdout
    try:
        yield (await server.stdout.readline()).decode().strip()
    finally:
        server.stdin.close()
        await server.wait()


async def produce(world: World, sent: Sequence[Sent], seed: int) -> None:
    """Put the messages of both queues into them, FIFO ones in order and some of them again, the others shuffled."""
    chance = random.Random(seed)
    fifo, standard = queue(world, FIFO), queue(world, STANDARD)
    ordered = sorted((one for one in sent if one.way == "fifo"), key=lambda one: int(one.words.split()[2]))
    shuffled = [one for one in sent if one.way == "standard"]
    chance.shuffle(shuffled)
    for start in range(0, len(ordered), 10):
        entries = [_entry(one, dedupe=True) for one in ordered[start : start + 10]]
        await fifo.send(*entries)
        again = [entry for entry in entries for _ in range(chance.randrange(3))][:10]
        chance.shuffle(again)
        if again:
            await fifo.send(*again)
    for start in range(0, len(shuffled), 10):
        await standard.send(*(_entry(one) for one in shuffled[start : start + 10]))
    await fifo.close()
    await standard.close()


def _entry(sent: Sent, *, dedupe: bool = False) -> Entry:
    body = json.dumps({"message": sent.words, "session_id": sent.session})
    if not dedupe:
        return Entry(body=body)
    return Entry(body=body, group=sent.session, dedupe=sent.words.replace(" ", "-"))


async def look_on(world: World, model: str, sessions: int, seed: int, history: History) -> None:
    """Read sessions, one after the other, for ever."""
    chance = random.Random(seed)
    app = make_app(world, model)
    try:
        while True:
            session = f"s{chance.randrange(sessions)}"
            try:
                page = await app.engine.session(ME, session, limit=1000)
            except (NotFoundError, StoreError):
                pass  # nothing accepted there yet, or the file is busy
            else:
                history.reads.append((session, [entry_of(to_record(message)) for message in page.messages]))
            await app.clock.sleep(0.02)
    finally:
        await app.close()


async def see_through(
    world: World, crowd: Crowd, recording: Recording, case: Case, messages: int
) -> tuple[int, list[str]]:
    """Kill workers now and then until all is answered; how many were killed, and what was left in the end."""
    clock = SystemClock()
    until = clock.monotonic() + case.seconds
    kills = 0
    queues = queue(world, FIFO), queue(world, STANDARD)
    while True:
        done = recording.answered()
        if kills < case.kills and done >= messages * (kills + 1) // (case.kills + 1):
            await crowd.kill(kills % WORKERS)
            kills += 1
        print(f"{done} of {messages} answered, {kills} killed", file=sys.stderr, flush=True)
        left = recording.left() + [
            f"the queue has {c}" for one in queues if (c := await one.counts()) != Counts()
        ]
        senders = {entry["number"] for entry in world.read("senders")}
        if len(senders) < WORKERS:
            left.append(f"only the senders of {senders} have come to their end")
        if (done == messages and not left) or clock.monotonic() > until:
            break
        await clock.sleep(0.3)
    for one in queues:
        await one.close()
    return kills, left


async def live(case: Case) -> tuple[History, Counter[str], float]:
    """The whole case: what happened, the model's calls by fault, and the seconds that it took."""
    history = History(case.sent(), LEASE_SECONDS, inflight=INFLIGHT)
    with new_world() as world:
        store = SqliteStore(world.database, SystemClock())
        await store.get(Key("made", "now"))
        await store.close()
        record(world.database)
        recording = Recording(world.database)
        began = time.monotonic()
        async with model_server(case.seed) as model:
            crowd = Crowd(world, case, model)
            crowd.workers = [await crowd.start(number) for number in range(WORKERS)]
            helpers = [
                asyncio.ensure_future(produce(world, history.sent, case.seed)),
                asyncio.ensure_future(look_on(world, model, case.sessions, case.seed, history)),
            ]
            try:
                history.kills, history.left = await see_through(
                    world, crowd, recording, case, len(history.sent)
                )
            finally:
                for helper in helpers:
                    helper.cancel()
                ended = await asyncio.gather(*helpers, return_exceptions=True)
                codes = await crowd.stop()
            for error in ended:
                if isinstance(error, Exception):
                    raise error
            async with httpx.AsyncClient(trust_env=False) as client:
                counts = (await client.get(f"{model}/counts")).json()
        seconds = time.monotonic() - began
        if any(codes):
            history.left.append(f"workers ended with {codes}: {_last_words(world)}")
        _gather(world, recording, history)
        history.answered = counts["answered"]
        recording.close()
        return history, Counter(counts["failed"]), seconds


def _gather(world: World, recording: Recording, history: History) -> None:
    history.arrivals = recording.arrivals()
    history.holds = recording.holds()
    history.transcripts = recording.transcripts()
    history.runs = recording.runs()
    history.bills = recording.bills()
    history.effects = effects_in(world)
    history.told = [(entry["words"], entry["text"]) for entry in world.read("told")]


def _last_words(world: World) -> str:
    return "\n".join(path.read_text()[-2000:] for path in sorted(world.folder.glob("worker-*.txt")))


def report(case: Case, history: History, failed: Counter[str], seconds: float) -> str:
    """For people."""
    calls = failed.total()
    again = len(history.arrivals) - len(history.runs)
    unused = sum(history.answered.values()) - sum(bill.journaled for bill in history.bills.values())
    faults = ", ".join(f"{count} {name}" for name, count in sorted(failed.items()) if name != "none")
    rows: dict[str, Any] = {
        "messages sent": f"{len(history.sent)} in {case.sessions} sessions, by {', '.join(WAYS)}",
        "answers to callers": len(history.told),
        "accepted": f"{len(history.runs)} runs, {again} of them again after a failure that passes",
        "model calls": f"{calls}, of which {calls - failed['none']} failed ({faults})",
        "tool effects": sum(not effect.repeat for effect in history.effects),
        "leases taken": len({(hold.session, hold.fence) for hold in history.holds}),
        "processes killed": history.kills,
        "answers paid, used by nobody": unused,
        "reads checked": len(history.reads),
        "seconds": f"{seconds:.0f}",
    }
    return "\n".join(f"{name:30} {value}" for name, value in rows.items())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--kills", type=int, default=2, help="how many processes are killed meanwhile")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300, help="when to give up")
    given = parser.parse_args()
    case = Case(**vars(given))
    history, failed, seconds = asyncio.run(live(case))
    found = problems(history)
    print(report(case, history, failed, seconds))
    kinds = Counter(kind for kind, _ in found)
    print(f"{'lost':30} {kinds.pop('lost', 0)}\n{'double':30} {kinds.pop('double', 0)}")
    print(f"{'other':30} {dict(kinds) or 0}")
    for kind, words in found[:20]:
        print(f"- {kind}: {words}")
    return 1 if found else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
