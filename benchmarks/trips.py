"""How often each kind of turn goes to the store: with DynamoDB every round trip is a request over the network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent_core import Agent, Message, Tool, ToolCall, tool
from agent_core.app import App
from agent_core.engine.runs import Inbound
from agent_core.errors import ModelRefusedError
from agent_core.models.scripted import Line
from agent_core.store.memory import MemoryStore
from agent_core.testing import CountingStore, ManualClock, ScriptedModel, test_app
from benchmarks.machine import BenchmarkError
from benchmarks.table import Goal, Report


@tool
def weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


@tool(effects="once")
def pay(cents: int) -> str:
    """Pay."""
    return f"paid {cents}"


def _call(name: str, arguments: str, number: int = 1) -> ToolCall:
    return ToolCall(f"call-{number}", name, arguments)


OSLO, ROME = _call("weather", '{"city": "Oslo"}'), _call("weather", '{"city": "Rome"}', 2)


@dataclass(frozen=True)
class Kind:
    """A kind of turn: what the model says, how many round trips its steps promise."""

    name: str
    script: tuple[Line, ...]
    steps: int
    promised: int
    streamed: bool = False


KINDS = (
    Kind("one model call", ("Hello.",), 1, 3),
    Kind("one model call, streamed", ("Hello.",), 1, 3, streamed=True),
    Kind("model, tool, model", (OSLO, "Sunny."), 3, 5),
    Kind("model, two tools at once, model", ((OSLO, ROME), "Sunny."), 4, 6),
    Kind("model, tool, model, tool, model", (OSLO, ROME, "Sunny."), 5, 7),
    Kind('model, tool with effects="once", model', (_call("pay", '{"cents": 5}'), "Paid."), 3, 5),
    Kind("a model call that fails", (ModelRefusedError("no"),), 0, 3),
)


def run(*, quick: bool = False) -> Report:
    """The table; `quick` changes nothing, as this is counted and not measured."""
    return asyncio.run(_run())


async def _run() -> Report:
    rows: list[tuple[object, ...]] = []
    goals: list[Goal] = []
    for kind in KINDS:
        house = _House(*kind.script)
        trips = await house.counted(partial(house.turn, kind))
        rows.append((kind.name, kind.steps, trips, kind.promised))
        goals.append(Goal(kind.name, trips, kind.promised))
    for name, trips, promised in (await _later_turn(), await _replay()):
        rows.append((name, 1, trips, promised))
        goals.append(Goal(name, trips, promised))
    return Report(
        name="trips",
        title="Round trips to the store",
        columns=("turn", "steps", "round trips", "promised"),
        rows=rows,
        goals=[_worst(goals)],
        notes=[
            "Counted by `CountingStore` around the store, at the engine. Three for a turn with one model call (accept "
            "with the lease, one query, one commit), one for each further step; a step is a model call or a tool call."
        ],
    )


def _worst(goals: list[Goal]) -> Goal:
    most = max(goals, key=lambda goal: goal.measured - goal.limit)
    return Goal(
        "round trips above what is promised, in any kind of turn", max(0, most.measured - most.limit), 0
    )


class _House:
    """An app in memory whose store is counted."""

    def __init__(self, *script: Line) -> None:
        clock = ManualClock()
        self.store = CountingStore(MemoryStore(clock))
        self.model = ScriptedModel(script)
        tools: list[Tool] = [weather, pay]
        agent = Agent(name="assistant", model=self.model, tools=tools)
        self.app: App = test_app(agent, store=self.store, clock=clock)

    async def turn(self, kind: Kind) -> None:
        inbound = _said("Hello?")
        if kind.streamed:
            async for _ in self.app.engine.stream(inbound):
                pass
        else:
            await self.app.engine.answer(inbound)
        self.model.assert_used_up()

    async def counted(self, work: Callable[[], Awaitable[object]]) -> int:
        """Round trips of the work."""
        self.store.reset()
        await work()
        await self.app.engine.drain()
        return self.store.trips.total()


def _said(text: str, **fields: Any) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), **fields)


async def _later_turn() -> tuple[str, int, int]:
    """A message to a session that exists."""
    house = _House("Hello.", "Hello again.")
    await house.app.engine.answer(_said("Hello?", session_id="s"))
    trips = await house.counted(lambda: house.app.engine.answer(_said("Again?", session_id="s")))
    return "one model call, second message of a session", trips, 3


async def _replay() -> tuple[str, int, int]:
    """The same request once more: the stored answer, no model call."""
    house = _House("Hello.")
    inbound = _said("Hello?", key="k", fingerprint="f")
    await house.app.engine.answer(inbound)
    trips = await house.counted(lambda: house.app.engine.answer(inbound))
    if house.model.left:
        raise BenchmarkError("a replayed request called the model")
    return "an idempotency key seen before (no model call)", trips, 1
