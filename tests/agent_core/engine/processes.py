"""Processes that share a store, for state machines: each can be frozen at its next call to the store, and killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from agent_core import Agent
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.runs import Inbound
from agent_core.messages import Chunk, Message, Prompt, Reply, Usage
from agent_core.store.base import Fields, Key, Page, Record, Store, Write
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, test_app

TURNS = 30
"""How often the loop goes round until all that can be done without the machine's help is done."""


def said(text: str, **fields: Any) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), **fields)


def spoken(text: str, usage: Usage = Usage(input=1, output=1)) -> Reply:  # noqa: B008 - frozen
    return Reply(message=Message.of("assistant", text), usage=usage, model="gated:test")


@dataclass(eq=False)
class Call:
    """A model call that waits for its answer."""

    prompt: Prompt
    answer: asyncio.Future[Reply]

    @property
    def text(self) -> str:
        return self.prompt.messages[-1].text


class GatedModel:
    """Each call waits until the machine answers it."""

    name, tools, context_window = "gated:test", True, 100_000

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.count = 0

    async def reply(self, prompt: Prompt) -> Reply:
        call = Call(prompt, asyncio.get_running_loop().create_future())
        self.count += 1
        self.calls.append(call)
        try:
            return await call.answer
        finally:
            self.calls.remove(call)

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        yield Chunk(reply=await self.reply(prompt))

    async def close(self) -> None:
        pass


class FreezingStore:
    """One process's way to the store: while it is frozen, its calls do not arrive."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.awake = asyncio.Event()
        self.awake.set()
        self.calls_left: int | None = None
        """How many calls arrive before the process freezes; None for all."""

    def thaw(self) -> None:
        self.calls_left = None
        self.awake.set()

    async def _arrive(self) -> None:
        if self.calls_left == 0:
            self.awake.clear()
        elif self.calls_left is not None:
            self.calls_left -= 1
        await self.awake.wait()

    async def get(self, key: Key) -> Record | None:
        await self._arrive()
        return await self._store.get(key)

    async def query(self, partition: str, prefix: str = "", **how: Any) -> Page:
        await self._arrive()
        return await self._store.query(partition, prefix, **how)

    async def write(self, *writes: Write) -> None:
        await self._arrive()
        await self._store.write(*writes)

    async def add(self, key: Key, numbers: Mapping[str, int], *, expires_at: float | None = None) -> Fields:
        await self._arrive()
        return await self._store.add(key, numbers, expires_at=expires_at)

    async def close(self) -> None:
        pass


class WatchedStore(MemoryStore):
    """Notes whoever takes a session's lease while another one holds it."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self._time = clock
        self.broken: list[str] = []

    async def write(self, *writes: Write) -> None:
        heads = {write.key for write in writes if write.key.sort == keys.STATE}
        before = {key: await self.get(key) for key in heads}
        await super().write(*writes)
        for key, old in before.items():
            was, now = (old.fields if old else {}), (await self.get(key) or Record(key, {}, 0)).fields
            if not now.get("owner") or now.get("owner") == was.get("owner"):
                continue  # let go, or kept
            if was.get("lease_ends", 0.0) > self._time.monotonic() and was.get("owner"):
                self.broken.append(f"{key}: taken while {was} held")
            if now.get("fence", 0) != was.get("fence", 0) + 1:
                self.broken.append(f"{key}: the fence went from {was.get('fence')} to {now.get('fence')}")


class Process:
    """An app with a model and a way to the store of its own."""

    def __init__(
        self, store: Store, clock: ManualClock, agent: dict[str, Any], options: dict[str, Any]
    ) -> None:
        self.store = FreezingStore(store)
        self.model = GatedModel()
        self.app: App = test_app(
            Agent(name="assistant", model=self.model, **agent), store=self.store, clock=clock, **options
        )
        self.engine = self.app.engine
        # Machines crash workers more often than a run survives.
        object.__setattr__(self.engine._kit, "max_attempts", 1_000)

    @property
    def frozen(self) -> bool:
        return not self.store.awake.is_set()


class ProcessMachine(RuleBasedStateMachine):
    """A store, a clock, and the processes that work there."""

    processes = 2

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.store = WatchedStore(self.clock)
        self.alive = [self.start() for _ in range(self.processes)]

    def agent(self) -> dict[str, Any]:
        """What the agent is beside its model."""
        return {}

    def options(self) -> dict[str, Any]:
        return {}

    def start(self) -> Process:
        return Process(self.store, self.clock, self.agent(), self.options())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What the work gives; then all is done that waits for nothing."""
        return self.loop.run_until_complete(self._settled(work))

    async def _settled(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await asyncio.wait_for(work, 20)
        finally:
            for _ in range(TURNS):
                await asyncio.sleep(0)

    def read(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What the store has; nobody else goes on."""
        return self.loop.run_until_complete(work)

    async def _pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.run(self._pass(seconds))

    def settle(self) -> None:
        self.run(asyncio.sleep(0))

    @property
    def awake(self) -> list[Process]:
        return [process for process in self.alive if not process.frozen]

    def kill(self, process: Process) -> None:
        """None of its calls arrives any more; another process is started in its place."""
        process.store.awake.clear()
        self.alive[self.alive.index(process)] = self.start()

    def waiting(self, process: Process | None = None) -> list[Call]:
        """Model calls that wait for their answers, of living processes."""
        return [
            call
            for one in self.alive
            if process in (None, one)
            for call in one.model.calls
            if not call.answer.done()
        ]

    def say(self, call: Call, what: Reply | Exception) -> None:
        if isinstance(what, Exception):
            call.answer.set_exception(what)
        else:
            call.answer.set_result(what)
        self.settle()

    def teardown(self) -> None:
        self.read(self._stop())
        self.loop.close()

    async def _stop(self) -> None:
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def check(machine: type[RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    """Let hypothesis look for a way to break the machine."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def records(machine: ProcessMachine, partition: str, prefix: str = "") -> Sequence[Record]:
    """What the store has there, whatever process is frozen."""
    return machine.read(machine.store.query(partition, prefix, limit=1000)).records
