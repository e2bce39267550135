"""Doubles for tests: real implementations of the ports that do as they are told. Nothing here patches anything."""

from __future__ import annotations

import asyncio
import heapq
import random
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from agent_core.agent import Agent, Responder
from agent_core.app import App, build_app
from agent_core.clock import Clock, sortable_id
from agent_core.engine.replay import Recording, describe, replay
from agent_core.messages import from_json
from agent_core.models.scripted import ScriptedModel
from agent_core.settings import Settings
from agent_core.store.base import Condition, Fields, Key, Page, Record, Store, Write
from agent_core.wire.scripted import ScriptedWire

__all__ = [
    "CountingStore",
    "Fault",
    "FaultyStore",
    "ManualClock",
    "ScriptedModel",
    "ScriptedWire",
    "assert_replays",
    "test_app",
]


def test_app(
    *agents: Agent | Responder, store: Store | None = None, clock: Clock | None = None, **settings: object
) -> App:
    """An app for tests: everything in memory, no network, a clock that stands still unless it is moved."""
    return build_app(
        Settings.from_env({}, store="memory", **settings),
        agents=agents,
        store=store,
        wire=ScriptedWire(),
        clock=clock or ManualClock(),
    )


test_app.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test by its name


def assert_replays(path: str | Path, target: Agent | App) -> None:
    """Run a recording of `sampan replay --save` again: no model and no tool is called.

    Raises AssertionError where the agent of today would send its model, or its tools, something else than was recorded;
    it says at which step and what. Not for use where an event loop runs: the test is a plain function.
    """
    recording = from_json(Recording, Path(path).read_bytes())
    if isinstance(target, Agent):
        # Any model will do, since none is called: so the test needs no key and no weights.
        compaction = replace(target.compaction, model=None) if target.compaction else None
        target = test_app(replace(target, model=ScriptedModel([]), compaction=compaction))
    bound = target.engine.agents.get(recording.run.agent)
    assert bound is not None, f"{path} is of the agent {recording.run.agent!r}, which is not here"
    _, found = asyncio.run(replay(recording, bound, target.blobs))
    assert not found, f"{path}: the agent behaves otherwise\n" + "\n".join(describe(one) for one in found)


Verb = Literal["get", "query", "write", "add"]


class _Sleeper(NamedTuple):
    due: float
    order: int
    future: asyncio.Future[None]


class ManualClock:
    """A clock that moves only when it is told to; its chance and its ids are the same in each test.

    Whoever sleeps wakes when `advance` has brought the clock to that time. With `jump`, a sleeper is not kept waiting:
    the clock goes to its time at once, which suits code that only pauses between tries, and real servers.

    A test never hangs on it: whoever sleeps for `patience` real seconds in which nobody moved the clock gets an
    AssertionError, with the stack of where it slept, and so does each later sleep until the clock is moved.
    """

    def __init__(
        self, start: float = 1_750_000_000.0, *, jump: bool = False, seed: int = 0, patience: float = 60.0
    ) -> None:
        self._start = start
        self._now = start
        self._jump = jump
        self._random = random.Random(seed)
        self._ids = 0
        self._sleepers: list[_Sleeper] = []
        self._patience = patience
        self._moves = 0
        self._forgotten = False
        self.slept: list[float] = []
        """Seconds of each sleep that was asked for, in order."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._now - self._start

    @property
    def timeline(self) -> str:
        """Manual clocks that began at the same time show the same time, or are meant to."""
        return f"manual/{self._start}"

    def random(self) -> float:
        """A number in [0, 1), the same ones for the same seed."""
        return self._random.random()

    def new_id(self) -> str:
        """26 characters: the time, then a count."""
        self._ids += 1
        return sortable_id(int(self._now * 1000), self._ids)

    async def sleep(self, seconds: float) -> None:
        """Wait for `advance`, or jump."""
        self.slept.append(seconds)
        if seconds <= 0 or self._jump:
            self._now += max(seconds, 0.0)
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        stack = traceback.StackSummary.extract(traceback.walk_stack(None), lookup_lines=False)
        stack.reverse()
        if self._forgotten:  # code that tries again must not try for ever
            raise _forgotten(seconds, stack)
        heapq.heappush(self._sleepers, _Sleeper(self._now + seconds, len(self.slept), future))
        moves = self._moves

        def look() -> None:
            nonlocal moves
            if future.done():
                return
            if moves == self._moves:
                self._forgotten = True
                future.set_exception(_forgotten(seconds, stack))
            else:
                moves = self._moves
                guards.append(loop.call_later(self._patience, look))

        guards = [loop.call_later(self._patience, look)]
        try:
            await future
        finally:
            guards[-1].cancel()

    def advance(self, seconds: float) -> None:
        """Move on and wake whose time has come; they run when the caller next awaits. To be called on their loop."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += seconds
        self._moves += 1
        self._forgotten = False
        while self._sleepers and self._sleepers[0].due <= self._now:
            future = heapq.heappop(self._sleepers).future
            if not future.done():
                future.set_result(None)

    @property
    def sleeping(self) -> int:
        """How many wait for their time."""
        return sum(not sleeper.future.done() for sleeper in self._sleepers)


def _forgotten(seconds: float, stack: traceback.StackSummary) -> AssertionError:
    where = "".join(stack.format()[-12:])
    return AssertionError(
        f"a sleep of {seconds:g} s on a ManualClock that nobody moves; it began at\n{where}"
    )


class CountingStore:
    """A store that counts the round trips and the bytes read through it, by verb."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.trips: Counter[Verb] = Counter()
        self.bytes_read: Counter[Verb] = Counter()

    def reset(self) -> None:
        """Count from 0 again."""
        self.trips.clear()
        self.bytes_read.clear()

    async def get(self, key: Key) -> Record | None:
        """As the store beneath."""
        self.trips["get"] += 1
        record = await self._store.get(key)
        self.bytes_read["get"] += _size(record) if record else 0
        return record

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        """As the store beneath."""
        self.trips["query"] += 1
        page = await self._store.query(partition, prefix, after=after, limit=limit, reverse=reverse)
        self.bytes_read["query"] += sum(_size(record) for record in page.records)
        return page

    async def write(self, *writes: Write) -> None:
        """As the store beneath."""
        self.trips["write"] += 1
        await self._store.write(*writes)

    async def add(
        self,
        key: Key,
        numbers: Mapping[str, int],
        *,
        expires_at: float | None = None,
        when: tuple[Condition, ...] = (),
    ) -> Fields:
        """As the store beneath."""
        self.trips["add"] += 1
        fields = await self._store.add(key, numbers, expires_at=expires_at, when=when)
        self.bytes_read["add"] += len(msgspec.json.encode(fields))
        return fields

    async def close(self) -> None:
        """Close the store beneath."""
        await self._store.close()


class Fault(msgspec.Struct, frozen=True):
    """What goes wrong at the `call`-th call (from 1) of `verb`, or of any verb where that is "".

    The error comes instead of the work; with `after`, the work is done and only its answer is lost.
    """

    call: int
    error: BaseException
    verb: Verb | Literal[""] = ""
    after: bool = False


class FaultyStore:
    """A store that fails as its script says, and else does what the store beneath does."""

    def __init__(self, store: Store, script: Iterable[Fault] = ()) -> None:
        self._store = store
        self._faults = list(script)
        self.calls: Counter[str] = Counter()
        """Calls so far, by verb and, under "", of all."""

    def plan(self, *script: Fault) -> None:
        """Further faults; their calls count from now."""
        for fault in script:
            self._faults.append(msgspec.structs.replace(fault, call=fault.call + self.calls[fault.verb]))

    def check_used_up(self) -> None:
        """Raise AssertionError where a fault of the script never came."""
        assert not self._faults, f"faults that never came: {self._faults}"

    async def get(self, key: Key) -> Record | None:
        """As the store beneath, or the fault."""
        lost = self._begin("get")
        record = await self._store.get(key)
        _end(lost)
        return record

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        """As the store beneath, or the fault."""
        lost = self._begin("query")
        page = await self._store.query(partition, prefix, after=after, limit=limit, reverse=reverse)
        _end(lost)
        return page

    async def write(self, *writes: Write) -> None:
        """As the store beneath, or the fault."""
        lost = self._begin("write")
        await self._store.write(*writes)
        _end(lost)

    async def add(
        self,
        key: Key,
        numbers: Mapping[str, int],
        *,
        expires_at: float | None = None,
        when: tuple[Condition, ...] = (),
    ) -> Fields:
        """As the store beneath, or the fault."""
        lost = self._begin("add")
        fields = await self._store.add(key, numbers, expires_at=expires_at, when=when)
        _end(lost)
        return fields

    async def close(self) -> None:
        """Close the store beneath."""
        await self._store.close()

    def _begin(self, verb: Verb) -> Fault | None:
        self.calls[""] += 1
        self.calls[verb] += 1
        for fault in self._faults:
            if fault.verb in ("", verb) and fault.call == self.calls[fault.verb]:
                self._faults.remove(fault)
                if fault.after:
                    return fault
                raise fault.error
        return None


def _end(lost: Fault | None) -> None:
    if lost is not None:
        raise lost.error


def _size(record: Record) -> int:
    return len(record.key.partition) + len(record.key.sort) + len(msgspec.json.encode(record.fields))
