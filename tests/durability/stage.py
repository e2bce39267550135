"""For tests in one process: a store that outlives the applications on it, and workers that die in the middle."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from agent_core import Agent, Tool, Turn, tool
from agent_core.app import App
from agent_core.engine.points import watch
from agent_core.engine.runs import Inbound, Run
from agent_core.messages import Message, Principal, Reply, ToolCall, Usage
from agent_core.store.base import Store
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, ScriptedModel, test_app

ME = Principal()


def said(text: str = "Go", **fields: object) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), fingerprint=text, **fields)


def calls(*names: str) -> Reply:
    """A reply that calls these tools, all with the same arguments."""
    made = tuple(ToolCall(f"c{place}", name, '{"cents": 5}') for place, name in enumerate(names))
    return Reply(
        message=Message(role="assistant", tool_calls=made), finish="tool_calls", usage=Usage(10, 0, 5)
    )


class Bank:
    """Tools that count how often they did something, by idempotency key."""

    def __init__(self) -> None:
        self.paid: Counter[str] = Counter()

    def pay(self, effects: str, *, name: str = "pay", approval: bool = False) -> Tool:
        async def pay(cents: int, turn: Turn) -> str:
            """Pay."""
            self.paid[turn.idempotency_key] += 1
            return f"paid {cents}"

        pay.__name__ = name
        return tool(effects=effects, approval=approval)(pay)


class Mortal:
    """A store as a process sees it; once that is dead, nothing it asks for is done."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dead = False

    def __getattr__(self, verb: str) -> object:
        getattr(self._store, verb)  # what the store can't, it can't

        async def ask(*args: object, **kwargs: object) -> object:
            if self.dead:
                await asyncio.Event().wait()
            return await getattr(self._store, verb)(*args, **kwargs)

        return ask


class Stage:
    """One store and one clock; `app` is the process of the moment."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)

    def start(self, *script: object, **agent: object) -> App:
        """A new process, with what the model will say in it."""
        self.model = ScriptedModel(script)
        self._mortal = Mortal(self.store)
        self.app = test_app(
            Agent(name="assistant", model=self.model, **{"untrusted": "allow", **agent}),
            store=self._mortal,
            clock=self.clock,
        )
        return self.app

    async def dies_at(self, point: str, *inbound: Inbound, hit: int = 1) -> None:
        """Have the process work on these messages, or sweep, kill it at this point, and let its lease run out."""
        reached = asyncio.Event()
        hits = Counter[str]()

        def kill(name: str) -> None:
            hits[name] += 1
            if name == point and hits[name] == hit:
                self._mortal.dead = True
                reached.set()
                raise asyncio.CancelledError  # whatever was to come does not

        async def work() -> None:
            for message in inbound:
                await self.app.engine.submit(message)
            if not inbound:
                await self.app.engine.sweep()

        watch(kill)
        working = asyncio.create_task(work())
        try:
            await asyncio.wait_for(reached.wait(), 5)
        finally:
            watch(None)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(working, *tasks, return_exceptions=True)
        self.clock.advance(31)

    async def swept(self) -> None:
        """Sweep once and let the work end."""
        await self.app.engine.sweep()
        await self.app.engine.drain()

    async def run(self, run_id: str) -> Run:
        return await self.app.engine.run(ME, run_id)

    async def words(self, session: str = "s") -> Sequence[str]:
        """What a reader of the session sees."""
        page = await self.app.engine.session(ME, session, limit=1000)
        return [message.text for message in page.messages if message.text and not message.hidden]
