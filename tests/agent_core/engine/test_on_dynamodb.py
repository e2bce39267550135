"""The engine on DynamoDB: the same answers, in as many calls, and a run outlives its worker there too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent_core import Agent, Turn, tool
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.runs import Inbound
from agent_core.errors import KeyReusedError
from agent_core.messages import Message, Principal, Reply, ToolCall, Usage
from agent_core.store.dynamodb import DynamoStore
from agent_core.testing import CountingStore, ManualClock, ScriptedModel, test_app
from agent_core.wire.base import Request, Response, Wire
from tests.aws.emulator import Emulator

ME = Principal()


class Counted:
    """A wire that counts its calls."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.calls = 0

    async def send(self, request: Request) -> Response:
        self.calls += 1
        return await self._wire.send(request)

    def stream(self, request: Request) -> Any:
        return self._wire.stream(request)

    async def close(self) -> None:
        await self._wire.close()


class World:
    """One table, and the processes (apps) that work on it, each with a store of its own."""

    def __init__(self, emulator: Emulator, table: str) -> None:
        self.clock = ManualClock()
        self._emulator = emulator
        self._table = table
        self.stores: list[DynamoStore] = []

    def start(self, *script: object, **agent: object) -> App:
        service = self._emulator.dynamodb(ManualClock(jump=True))  # a real server: no retry waits for us
        self.wire = service.client._wire = Counted(service.client._wire)
        self.stores.append(DynamoStore(service, self._table))
        self.counted = CountingStore(self.stores[-1])
        self.model = ScriptedModel(script)
        made = Agent(name="assistant", model=self.model, **agent)
        return test_app(made, store=self.counted, clock=self.clock)


@pytest.fixture
async def world(emulator: Emulator) -> AsyncIterator[World]:
    with emulator.table() as table:
        world = World(emulator, table)
        yield world
        for store in world.stores:
            await store.close()


def said(text: str, **fields: object) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), **fields)


def call(name: str, arguments: str = "{}") -> Reply:
    made = (ToolCall("c1", name, arguments),)
    return Reply(
        message=Message(role="assistant", tool_calls=made), finish="tool_calls", usage=Usage(10, 0, 5)
    )


@tool
def weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


async def test_a_turn_takes_three_calls_also_the_second_of_a_session(world: World) -> None:
    app = world.start("Hello Ada.", "Your name is Ada.")
    for text, answer in (("I am Ada.", "Hello Ada."), ("Who am I?", "Your name is Ada.")):
        world.wire.calls = 0
        world.clock.advance(1)
        run = await app.engine.answer(said(text, session_id="s"))
        assert (run.status, run.reply.text, world.wire.calls) == ("succeeded", answer, 3)
    assert [message.text for message in world.model.prompts[1].messages] == [
        "I am Ada.",
        "Hello Ada.",
        "Who am I?",
    ]
    page = await app.engine.session(ME, "s")
    assert [message.seq for message in page.messages] == [1, 2, 3, 4]


async def test_each_further_step_adds_one_call(world: World) -> None:
    app = world.start(call("weather", '{"city": "Oslo"}'), "It is sunny.", tools=[weather])
    run = await app.engine.answer(said("Weather in Oslo?"))
    assert (run.reply.text, run.steps) == ("It is sunny.", 3)
    assert world.wire.calls == world.counted.trips.total() == 5


async def test_the_same_key_replays_in_another_process_and_another_body_is_refused(world: World) -> None:
    first = await world.start("Once.").engine.answer(said("Hi", key="k", fingerprint="a"))
    other = world.start()
    again = await other.engine.answer(said("Hi", key="k", fingerprint="a"))
    assert (again.replayed, again.reply) == (True, first.reply)
    with pytest.raises(KeyReusedError):
        await other.engine.answer(said("Ho", key="k", fingerprint="b"))


async def test_a_dead_workers_run_is_finished_by_another_process_without_paying_twice(world: World) -> None:
    called, paid = asyncio.Event(), []

    @tool(effects="repeatable")
    async def pay(cents: int, turn: Turn) -> str:
        """Pay."""
        paid.append(turn.idempotency_key)
        called.set()
        if len(paid) == 1:
            await asyncio.Event().wait()
        return f"paid {cents}"

    dying = world.start(call("pay", '{"cents": 5}'), tools=[pay])
    await dying.engine.submit(said("Pay", key="k", session_id="s"))
    await called.wait()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    world.clock.advance(31)
    app = world.start("Done.", tools=[pay])
    swept = await app.engine.sweep()
    await app.engine.drain()
    run = await app.engine.run(ME, keys.run_id(ME, "k"))
    assert (swept.resumed, run.status, run.reply.text) == (1, "succeeded", "Done.")
    assert len(paid) == 2
    assert len(set(paid)) == 1
    world.model.assert_used_up()


async def test_many_sessions_at_once(world: World) -> None:
    app = world.start(*(f"{number}" for number in range(20)))
    runs = await asyncio.gather(
        *(app.engine.answer(said("Hi", session_id=f"s{number % 10}")) for number in range(20))
    )
    assert sorted(run.reply.text for run in runs) == sorted(str(number) for number in range(20))
    for number in range(10):
        page = await app.engine.session(ME, f"s{number}")
        assert [message.seq for message in page.messages] == [1, 2, 3, 4]
