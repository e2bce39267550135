"""What belongs to a run expires together, in the right order; what is still to be done does not expire."""

from __future__ import annotations

from typing import Any

from agent_core import Agent, tool
from agent_core.app import App, build_app
from agent_core.engine import keys
from agent_core.engine.accept import lease_of, take
from agent_core.engine.runs import Delivery, Inbound
from agent_core.engine.worker import Worker
from agent_core.errors import ModelBusyError, WireError
from agent_core.messages import Message, Principal, ToolCall
from agent_core.models.scripted import ScriptedModel
from agent_core.settings import Settings
from agent_core.store.base import Delete, Key
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock

DAY = 86_400.0
ME = Principal()


class House:
    """An app whose runs are kept for a day, with a tool that counts."""

    def __init__(self, *script: Any) -> None:
        self.clock = ManualClock()
        self.paid: list[int] = []

        @tool(effects="once")
        def pay(cents: int) -> str:
            """Pay."""
            self.paid.append(cents)
            return "paid"

        agent = Agent(name="shop", model=ScriptedModel(script), tools=[pay], untrusted="allow")
        self.app: App = build_app(
            Settings(auth="off", run_days=1), agents=[agent], store=MemoryStore(self.clock), clock=self.clock
        )
        self.engine = self.app.engine

    def said(self, **more: Any) -> Inbound:
        given = {"session_id": "s", "key": "k", "fingerprint": "f", **more}
        return Inbound(messages=(Message.of("user", "Hi"),), **given)

    async def sweeps(self, times: int = 4) -> None:
        for _ in range(times):
            self.clock.advance(61)
            await self.engine.sweep()
            await self.engine.drain()


async def test_an_open_run_does_not_expire() -> None:
    house = House("Hello.")
    run = await house.engine.submit(house.said(), work=False)
    house.clock.advance(30 * DAY)
    await house.sweeps()
    assert (await house.engine.run(ME, run.id)).status == "succeeded"


async def test_a_key_holds_for_its_days_from_the_end_of_its_run_and_then_begins_anew() -> None:
    call = ToolCall("1", "pay", '{"cents": 5}')
    house = House(call, "First.", call, "Second.")
    await house.engine.answer(house.said())
    house.clock.advance(DAY - 60)
    assert (await house.engine.answer(house.said())).replayed
    house.clock.advance(120)
    await house.engine.submit(house.said(), work=False)  # a worker that reads the journal
    await house.sweeps()
    run = await house.engine.run(ME, keys.run_id(ME, "k"))
    assert run.reply is not None
    assert run.reply.text == "Second."
    assert house.paid == [5, 5]


async def test_a_retry_at_the_end_of_its_days_finds_its_journal() -> None:
    house = House(ToolCall("1", "pay", '{"cents": 5}'), ModelBusyError("503"), "Done.")
    await house.engine.answer(house.said())
    house.clock.advance(DAY - 60)
    await house.engine.submit(house.said(), work=False)
    house.clock.advance(2 * DAY)
    await house.sweeps()
    run = await house.engine.run(ME, keys.run_id(ME, "k"))
    assert (run.status, house.paid) == ("succeeded", [5])


async def test_a_run_that_was_given_up_waits_with_its_journal_to_be_brought_back() -> None:
    house = House(ToolCall("1", "pay", '{"cents": 5}'), ModelBusyError("503"), "Done.")
    await house.engine.answer(house.said())
    await house.engine.submit(house.said(), work=False)
    kit = house.engine._kit
    lease = lease_of(kit, ME, "s")
    assert await take(kit, lease)
    run_id = keys.run_id(ME, "k")
    await Worker(kit, ME, "s", lease, {}, 0.0).give_up(run_id, 6)
    house.clock.advance(400 * DAY)
    await house.engine.redrive(ME, run_id)
    await house.engine.drain()
    assert (await house.engine.run(ME, run_id)).status == "succeeded"
    assert house.paid == [5]


async def test_a_run_is_there_as_long_as_its_reply_is_to_be_pushed() -> None:
    class Mute:
        def __init__(self) -> None:
            self.failing, self.told = True, 0

        async def deliver(self, run: Any, delivery: Any, push_id: str) -> None:
            if self.failing:
                raise WireError("nobody answers")
            self.told += 1

    house, mute = House("Hello."), Mute()
    house.engine._kit.deliverers["mute"] = mute
    await house.engine.answer(house.said(delivery=Delivery("mute", "here")))
    for _ in range(12):
        house.clock.advance(1.2 * DAY)
        await house.engine.sweep()
        await house.engine.drain()
        if await house.engine.dead(ME):
            break
    assert [letter.kind for letter in await house.engine.dead(ME)] == ["push"]
    house.clock.advance(30 * DAY)
    mute.failing = False
    await house.engine.redrive(ME, keys.run_id(ME, "k"))
    assert mute.told == 1
    house.clock.advance(2 * DAY)
    assert await house.app.store.get(Key(keys.run(ME.tenant, keys.run_id(ME, "k")), keys.RUN)) is None


async def test_a_message_whose_run_is_gone_is_answered_all_the_same() -> None:
    house = House("Hello.", "And hello again.")
    run = await house.engine.submit(house.said(), work=False)
    await house.app.store.write(Delete(Key(keys.run(ME.tenant, run.id), keys.RUN)))
    await house.sweeps()
    assert (await house.engine.run(ME, run.id)).status == "succeeded"
    assert (await house.engine.answer(house.said(key="l"))).status == "succeeded"
