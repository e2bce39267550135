"""The sweep: no entry holds up another, wake-ups are noted, a backlog is taken up by turns and so much at once."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from agent_core import Agent
from agent_core.app import App
from agent_core.engine import keys, sweeper
from agent_core.engine.places import AT_ONCE, Places
from agent_core.engine.runs import Delivery, Due, Inbound, Run
from agent_core.engine.sweeper import LONGEST_PAUSE, Sweeper
from agent_core.errors import StoreBusyError, WireError
from agent_core.messages import Chunk, Message, Principal, Prompt, from_record
from agent_core.store.base import Fields, Key, Page, Put, Record, Store
from agent_core.store.memory import MemoryStore
from agent_core.store.shards import shard_of
from agent_core.testing import ManualClock, ScriptedModel, test_app

ME = Principal()


def said(text: str = "Hi", **fields: Any) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), **fields)


def echo(prompt: Prompt) -> str:
    return f"answer to {prompt.messages[-1].text}"


class World:
    """One store, and the processes (apps) that sweep it."""

    def __init__(self, store: Store | None = None) -> None:
        self.clock = ManualClock()
        self.store = store or MemoryStore(self.clock)

    def start(self, answers: int = 100, **settings: Any) -> App:
        agent = Agent(name="assistant", model=ScriptedModel([echo] * answers))
        return test_app(agent, store=self.store, clock=self.clock, **settings)

    async def due(self) -> list[Record]:
        return list((await self.store.query(keys.DUE, limit=1000)).records)


async def left_lying(app: App, session: str = "s", **fields: Any) -> Run:
    return await app.engine.submit(said(session, session_id=session, **fields), work=False)


# One that can't be read


def newer(fields: Fields) -> Fields:
    return {**fields, "v": 99}


def damaged(fields: Fields) -> Fields:
    return {"v": 1, "run_id": [fields.get("run_id")]}


@pytest.mark.parametrize("spoilt", [newer, damaged])
@pytest.mark.parametrize("what", ["entry", "message", "head", "run"])
async def test_a_record_that_cannot_be_read_holds_up_nobody_else(
    what: str, spoilt: Any, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    app = world.start()
    bad = await left_lying(app, "bad")
    partition = keys.session(ME, "bad")
    [pending] = (await world.store.query(partition, keys.PENDING)).records
    places = {
        "entry": (await world.due())[0].key,
        "message": pending.key,
        "head": Key(partition, keys.STATE),
        "run": Key(keys.run(ME.tenant, bad.id), keys.RUN),
    }
    record = await world.store.get(places[what])
    assert record is not None
    await world.store.write(Put(record.key, spoilt(record.fields)))
    world.clock.advance(1)
    good = await left_lying(app, "good")
    world.clock.advance(61)
    with caplog.at_level(logging.ERROR):
        await app.sweep()
    await app.engine.drain()
    assert (await app.engine.run(ME, good.id)).status == "succeeded"
    kept = await world.store.get(record.key)
    assert kept is not None
    if what != "head":  # a head's lease is counted up, whatever else stands in it
        assert kept.fields == spoilt(record.fields)
    if what == "entry":
        assert caplog.text.count(record.key.sort) == 1


class Throttled(MemoryStore):
    """A store with one partition that is asked too much."""

    hot = ""

    async def query(
        self, partition: str, prefix: str = "", *, after: str = "", limit: int = 100, reverse: bool = False
    ) -> Page:
        if partition == self.hot:
            raise StoreBusyError("throttled")
        return await super().query(partition, prefix, after=after, limit=limit, reverse=reverse)


async def test_one_throttled_partition_does_not_stop_the_others_and_all_of_them_are_told() -> None:
    store = Throttled(ManualClock())
    world = World(store)
    store._clock = world.clock
    app = world.start(shards=4)
    runs = [await left_lying(app, f"s{n}") for n in range(12)]
    world.clock.advance(61)
    store.hot = "due/2"
    await app.sweep()
    await app.engine.drain()
    held_up = {run.id for run in runs if shard_of(f"default/{run.id}", 4) == 2}
    for run in runs:
        expected = "queued" if run.id in held_up else "succeeded"
        assert (await app.engine.run(ME, run.id)).status == expected
    store.hot = ""
    world.clock.advance(61)
    await app.sweep()
    await app.engine.drain()
    assert {(await app.engine.run(ME, run.id)).status for run in runs} == {"succeeded"}
    alone = Throttled(world.clock)
    alone.hot = keys.DUE
    with pytest.raises(StoreBusyError):
        await World(alone).start().sweep()


# Silent receivers


class Silent:
    """Receivers that say nothing until they are let go; counts how many were asked at the same time."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.full = asyncio.Event()
        self.asked: list[str] = []
        self.now = self.most = 0

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        self.asked.append(delivery.address)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == sweeper.AT_ONCE:
            self.full.set()
        try:
            await self.release.wait()
        finally:
            self.now -= 1
        raise WireError("nothing came")


async def test_silent_receivers_hold_up_no_run_and_are_asked_some_at_once() -> None:
    world, silent = World(), Silent()
    app = world.start()
    app.engine._kit.deliverers["letter"] = silent
    people = [Principal(tenant=f"t{n % 8}", user="u") for n in range(40)]
    for n, who in enumerate(people):
        letter = Delivery("letter", f"address {n}")
        run = await left_lying(app, f"s{n}", principal=who, delivery=letter)
        await app.engine.resume(who, run.session_id)
    silent.release.set()
    await app.engine.drain()  # the first tries, which fail
    silent.release.clear()
    world.clock.advance(10)
    silent.asked.clear()
    silent.full.clear()
    silent.most = 0
    mine = await left_lying(app, "mine")
    world.clock.advance(61)
    sweeping = asyncio.create_task(app.sweep())
    await silent.full.wait()
    while not (await app.engine.run(ME, mine.id)).done:
        pass
    assert not sweeping.done()
    tenants = [people[int(address.split()[1])].tenant for address in silent.asked]
    assert {tenants.count(tenant) for tenant in tenants} == {2}  # 16 places, 8 tenants
    world.clock.advance(sweeper.OUTSIDE_SECONDS + 1)
    silent.release.set()
    await sweeping
    assert len(silent.asked) == silent.most == sweeper.AT_ONCE  # the rest is the next sweep's
    await app.close()


# A backlog


async def test_tenants_are_woken_by_turns_whoever_came_first() -> None:
    world = World()
    app = world.start()
    for n in range(50):
        await left_lying(app, f"s{n}", principal=Principal(tenant="big", user="u"))
    world.clock.advance(1)
    for n in range(3):
        await left_lying(app, f"s{n}", principal=Principal(tenant="small", user="u"))
    world.clock.advance(61)
    woken: list[str] = []

    async def wake(principal: Principal, session_id: str) -> None:
        woken.append(principal.tenant)

    assert (await Sweeper(app.engine._kit, wake).sweep()).resumed == 53
    assert woken[:10].count("small") == 3


async def test_what_was_woken_is_not_woken_by_other_processes_and_later_ever_more_rarely() -> None:
    world = World()
    woken: list[float] = []

    async def wake(principal: Principal, session_id: str) -> None:
        woken.append(world.clock.now())

    sweepers = [Sweeper(world.start().engine._kit, wake) for _ in range(6)]
    await left_lying(world.start())
    begun = world.clock.now()
    for _ in range(120):
        world.clock.advance(60)
        await asyncio.gather(*(one.sweep() for one in sweepers))
    times = [at - begun for at in woken]
    pauses = [int(later - earlier) for earlier, later in itertools.pairwise(times)]
    assert times[0] == 60
    assert pauses[:5] == [60, 120, 240, 480, 900]
    assert set(pauses[5:]) == {900}


async def test_whoever_took_a_session_up_and_died_does_not_make_it_wait_for_long() -> None:
    """The pauses are those of a backlog: once a worker was there, the next one is woken soon."""
    world = World()
    app = world.start()
    await left_lying(app)

    async def nobody(principal: Principal, session_id: str) -> None:
        pass

    one = Sweeper(app.engine._kit, nobody)
    for _ in range(20):
        world.clock.advance(61)
        await one.sweep()
    [record] = await world.due()
    assert from_record(Due, record.fields).wakes > 4
    head = Key(keys.session(ME, "s"), keys.STATE)
    stored = await world.store.get(head)
    assert stored is not None
    await world.store.write(Put(head, {**stored.fields, "fence": 7}))  # somebody had it, and is gone
    world.clock.advance(LONGEST_PAUSE + 1)
    assert (await one.sweep()).resumed == 1
    world.clock.advance(61)
    assert (await one.sweep()).resumed == 1


@pytest.mark.parametrize("skew", [-300.0, 300.0, 86_400.0])
async def test_a_clock_that_is_wrong_loses_no_wake_up(skew: float) -> None:
    """A process whose clock is wrong by so much has woken it; others wait no longer than the longest pause."""
    world, other = World(), ManualClock(ManualClock().now() + skew)
    run = await left_lying(world.start())
    wrong = test_app(
        Agent(name="assistant", model=ScriptedModel([])), store=world.store, clock=other, queue="memory"
    )
    other.advance(3600)
    await wrong.engine.sweep()
    app = world.start()
    waited = 0
    while not (await app.engine.run(ME, run.id)).done:
        world.clock.advance(61)
        waited += 61
        await app.engine.sweep()
        await app.engine.drain()
        assert waited < 3600 + 300 + LONGEST_PAUSE
    assert (await app.engine.run(ME, run.id)).status == "succeeded"


async def test_the_first_message_of_a_session_alone_wakes_it() -> None:
    world = World()
    app = world.start(queue="memory")
    for _ in range(30):
        await left_lying(app)
    world.clock.advance(61)
    assert app.queue is not None
    for _ in range(3):
        await app.engine.sweep()
    assert (await app.queue.counts()).visible == 1


async def test_a_process_without_a_queue_takes_up_so_many_sessions_at_once() -> None:
    world = World()
    app = world.start(answers=1000)
    at_work = most = 0
    let_go, full = asyncio.Event(), asyncio.Event()

    class Held(ScriptedModel):
        async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            if at_work == AT_ONCE:
                full.set()
            await let_go.wait()
            at_work -= 1
            yield Chunk(reply=await self.reply(prompt))

    app = test_app(Agent(name="assistant", model=Held([echo] * 300)), store=world.store, clock=world.clock)
    runs = [await left_lying(app, f"s{n}") for n in range(300)]
    world.clock.advance(61)
    assert (await app.engine.sweep()).resumed == 300
    await full.wait()
    assert len(app.engine._tasks) <= AT_ONCE + 1
    assert (await app.engine.sweep()).resumed == 0
    let_go.set()
    await app.engine.drain()
    assert most == AT_ONCE
    assert {(await app.engine.run(ME, run.id)).status for run in runs} == {"succeeded"}


async def test_a_session_that_cannot_be_taken_up_keeps_no_other_waiting() -> None:
    begun: list[str] = []
    tasks: list[asyncio.Task[None]] = []

    async def begin(principal: Principal, session_id: str) -> asyncio.Task[None] | None:
        if session_id == "s1":
            raise StoreBusyError("throttled")
        begun.append(session_id)
        return None

    places = Places(begin, lambda work: tasks.append(asyncio.ensure_future(work)), at_once=2)
    for n in range(4):
        await places.add(ME, f"s{n}")
        await places.add(ME, f"s{n}")
    await asyncio.gather(*tasks)
    assert (begun, len(tasks)) == (["s0", "s2", "s3"], 1)


def test_fields_of_older_versions_are_read() -> None:
    old: Mapping[str, Any] = {
        "v": 1,
        "kind": "run",
        "tenant": "t",
        "user": "u",
        "session_id": "s",
        "run_id": "r",
        "attempts": 3,
    }
    due = from_record(Due, dict(old))
    assert (due.wakes, due.again_at, due.attempts) == (0, 0.0, 3)
