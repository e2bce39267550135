"""Replies that are pushed: in order in each conversation, by one process at a time, to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent_core import Agent
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Inbound, Run
from agent_core.errors import ChannelError, ChannelRefusedError
from agent_core.messages import Message, Principal
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, ScriptedModel, test_app

ME = Principal()

Deliver = Callable[[str], Awaitable[None]]


class Letters:
    """A channel: what it is to do with a reply's text, and all that it was given."""

    def __init__(self, deliver: Deliver | None = None) -> None:
        self.told: list[str] = []
        self._deliver = deliver

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        text = run.reply.text if run.reply else ""
        self.told.append(text)
        if self._deliver:
            await self._deliver(text)


class World:
    """One store that outlives the processes (apps) that work on it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)

    def app(self, letters: Letters | None, *script: str, clock: ManualClock | None = None) -> App:
        agent = Agent(name="assistant", model=ScriptedModel(script), untrusted="allow")
        app = test_app(agent, store=self.store, clock=clock or self.clock)
        if letters is not None:
            app.engine._kit.deliverers["letter"] = letters
        return app

    async def sweep(self, app: App, minutes: int = 1) -> None:
        for _ in range(minutes):
            self.clock.advance(60)
            await app.engine.sweep()
            await app.engine.drain()

    async def lines(self, session: str = "s") -> int:
        return len((await self.store.query(keys.outbox(ME, session))).records)


def chat(text: str, session: str = "s") -> Inbound:
    message = Message.of("user", text)
    return Inbound(messages=(message,), session_id=session, delivery=Delivery("letter", session))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def test_each_is_pushed_as_soon_as_it_is_committed_and_in_order() -> None:
    world, gate = World(), asyncio.Event()

    async def slow(text: str) -> None:
        if text == "One.":
            await gate.wait()

    letters = Letters(slow)
    app = world.app(letters, "One.", "Two.", "Three.")
    for number in (1, 2):
        await app.engine.submit(chat(str(number)), work=False)
    last = await app.engine.submit(chat("3"), work=False)
    await app.engine.resume(ME, "s")
    async with asyncio.timeout(10):
        # The next model calls do not wait for the first push, nor does the session's lease.
        while not (await app.engine.run(ME, last.id)).done:  # noqa: ASYNC110 - events wait on the clock
            await asyncio.sleep(0)
    assert letters.told == ["One."]
    assert not (await app.engine.session(ME, "s")).session.busy
    gate.set()
    await app.engine.drain()
    assert letters.told == ["One.", "Two.", "Three."]
    assert await world.lines() == 0


async def test_one_that_fails_holds_up_those_behind_it_and_no_other_conversation() -> None:
    world, busy = World(), [True]

    async def fails(text: str) -> None:
        if text == "One." and busy[0]:
            raise ChannelError("busy")

    letters = Letters(fails)
    app = world.app(letters, "One.", "Two.", "Other.")
    await app.engine.answer(chat("1"))
    await app.engine.answer(chat("2"))
    await app.engine.answer(chat("3", "other"))
    await app.engine.drain()
    assert letters.told == ["One.", "Other."]
    busy[0] = False
    await world.sweep(app)
    assert letters.told == ["One.", "Other.", "One.", "Two."]
    await world.sweep(app, 10)
    assert len(letters.told) == 4


async def test_behind_a_dead_letter_the_next_goes_at_once() -> None:
    world, broken = World(), [True]

    async def refuses(text: str) -> None:
        if text == "One.":
            raise ChannelError("busy") if broken[0] else ChannelRefusedError("no such chat")

    letters = Letters(refuses)
    app = world.app(letters, "One.", "Two.")
    first = await app.engine.answer(chat("1"))
    await app.engine.answer(chat("2"))
    await app.engine.drain()
    broken[0] = False
    await world.sweep(app)
    assert letters.told == ["One.", "One.", "Two."]
    assert [letter.run_id for letter in await app.engine.dead(ME)] == [first.id]


async def test_a_slow_push_is_not_begun_again_by_the_sweepers_of_others() -> None:
    world, gate = World(), asyncio.Event()

    async def slow(_: str) -> None:
        await gate.wait()

    letters = Letters(slow)
    app, others = world.app(letters, "One."), [world.app(letters) for _ in range(4)]
    await app.engine.answer(chat("1"))
    await until(lambda: letters.told == ["One."])
    for _ in range(9):
        world.clock.advance(12)
        await asyncio.sleep(0)
        await asyncio.gather(*(other.engine.sweep() for other in others))
    assert letters.told == ["One."]
    gate.set()
    await app.engine.drain()
    await world.sweep(others[0], 5)
    assert letters.told == ["One."]


async def test_a_sweeper_whose_clock_is_ahead_does_not_push_as_well() -> None:
    world, gate = World(), asyncio.Event()
    ahead = ManualClock(world.clock.now() + 300)

    async def slow(_: str) -> None:
        await gate.wait()

    letters = Letters(slow)
    app, other = world.app(letters, "One."), world.app(letters, clock=ahead)
    await app.engine.answer(chat("1"))
    await until(lambda: letters.told == ["One."])
    for _ in range(6):
        world.clock.advance(15)
        await asyncio.sleep(0)
        ahead.advance(15)
        await other.engine.sweep()
    gate.set()
    await app.engine.drain()
    assert letters.told == ["One."]


async def test_one_whose_process_died_is_pushed_by_another_and_counted() -> None:
    world, tries = World(), Letters()

    class Dies:
        async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
            tries.told.append(push_id)
            raise asyncio.CancelledError

    for minute in range(3 * 24 * 60):
        app = world.app(None, *(["One."] if not minute else []))
        app.engine._kit.deliverers["letter"] = Dies()
        if not minute:
            await app.engine.answer(chat("1"))
        if minute and not (await world.store.query(keys.DUE)).records:
            break
        world.clock.advance(700)
        try:
            await app.engine.sweep()
        except asyncio.CancelledError:
            pass
    assert 1 < len(tries.told) <= 11
    assert len(await app.engine.dead(ME)) == 1


async def test_a_bug_in_a_deliverer_follows_the_schedule_and_ends() -> None:
    world = World()

    async def broken(_: str) -> None:
        raise ValueError("no such emoji")

    letters = Letters(broken)
    app = world.app(letters, "One.")
    await app.engine.answer(chat("1"))
    await app.engine.drain()
    for _ in range(12):
        world.clock.advance(110_000)
        await app.engine.sweep()
    assert len(letters.told) == 10
    assert [letter.kind for letter in await app.engine.dead(ME)] == ["push"]
    assert await world.lines() == 0


async def test_a_process_without_the_channel_leaves_pushes_alone() -> None:
    world, letters = World(), Letters()
    old, new = world.app(None, "One.", "Two."), world.app(letters)
    await old.engine.answer(chat("1"))
    await old.engine.answer(chat("2"))
    await world.sweep(old, 3)
    assert await old.engine.dead(ME) == []
    await world.sweep(new)
    assert letters.told == ["One.", "Two."]


async def test_where_the_channel_never_comes_back_there_is_a_dead_letter() -> None:
    world = World()
    app = world.app(None, "One.")
    await app.engine.answer(chat("1"))
    world.clock.advance(4 * 86_400)
    await app.engine.sweep()
    assert [letter.kind for letter in await app.engine.dead(ME)] == ["push"]


async def test_a_redriven_push_goes_at_once_past_its_line() -> None:
    world, refused = World(), [True]

    async def refuses(text: str) -> None:
        if text == "One." and refused[0]:
            raise ChannelRefusedError("no such chat")
        if text == "Two.":
            raise ChannelError("busy")

    letters = Letters(refuses)
    server, shell = world.app(letters, "One.", "Two."), world.app(None)
    first = await server.engine.answer(chat("1"))
    await server.engine.answer(chat("2"))
    await server.engine.drain()
    refused[0] = False
    await shell.engine.redrive(ME, first.id)
    assert await server.engine.dead(ME) == []
    world.clock.advance(1)
    await server.engine.sweep()
    assert letters.told == ["One.", "Two.", "One."]


async def test_erasing_a_session_removes_its_line() -> None:
    world = World()

    async def busy(_: str) -> None:
        raise ChannelError("busy")

    app = world.app(Letters(busy), "One.", "Two.")
    await app.engine.answer(chat("1"))
    await app.engine.answer(chat("2"))
    await app.engine.drain()
    assert await world.lines() == 2
    await app.engine.erase(ME, "s")
    assert await world.lines() == 0
    due = (await world.store.query(keys.DUE)).records
    assert [record.fields["kind"] for record in due] == ["audit"]
