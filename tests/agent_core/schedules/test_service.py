"""Schedules: each planned time is one run, whoever sweeps and whoever dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core import Agent, App, Limits, Message, Principal, Schedule
from agent_core.engine import keys, points
from agent_core.engine.runs import Inbound, Run
from agent_core.errors import ConfigError, StoreBusyError
from agent_core.schedules.records import stamp
from agent_core.schedules.service import LATE_SECONDS
from agent_core.store.base import Key, Put
from agent_core.store.memory import MemoryStore
from agent_core.testing import Fault, FaultyStore, ManualClock, ScriptedModel, test_app

ME = Principal()
START = datetime(2026, 11, 23, 8, 59, 30, tzinfo=UTC).timestamp()  # a Monday
MINUTELY = Schedule("often", "rate(1 minute)", message="Look.")
MORNING = Schedule("report", "cron(0 10 ? * MON-FRI *)", message="Report.", zone="Europe/Berlin")


def at(day: int, hour: int, minute: int = 0) -> float:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC).timestamp()


class World:
    """One store and one clock, and the processes (apps) that live on them."""

    def __init__(self, start: float = START) -> None:
        self.clock = ManualClock(start)
        self.store = MemoryStore(self.clock)

    async def start(
        self, *schedules: Schedule, store: Any = None, sweep_seconds: float = 60.0, **fields: Any
    ) -> App:
        """A process of code with these schedules, begun as a server begins."""
        model = ScriptedModel([lambda prompt: f"Did: {prompt.messages[-1].text}"] * 10_000)
        fields = {"limits": Limits(seconds=1e6)} | fields  # a run of a dead process waits for the next sweep
        agent = Agent(name="assistant", model=model, schedules=schedules, **fields)
        app = test_app(agent, store=store or self.store, clock=self.clock, sweep_seconds=sweep_seconds)
        await app.schedules.ensure()
        return app

    def go_to(self, moment: float) -> None:
        self.clock.advance(moment - self.clock.now())

    async def due(self) -> list[str]:
        page = await self.store.query(keys.DUE)
        return [record.key.sort for record in page.records]


async def swept(app: App) -> None:
    await app.engine.sweep()
    await app.engine.drain()


async def runs(app: App) -> list[Run]:
    return sorted(await app.engine.runs(ME, limit=200), key=lambda run: run.metadata["planned"])


async def ticks(app: App) -> list[str]:
    return [run.metadata["planned"] for run in await runs(app)]


async def test_a_schedule_is_run_at_its_time_in_its_zone_and_not_before() -> None:
    world = World()
    app = await world.start(MORNING)
    await swept(app)
    assert await runs(app) == []
    world.go_to(at(23, 9))  # ten o'clock in Berlin
    await swept(app)
    await swept(app)
    [run] = await runs(app)
    assert (run.status, run.channel, run.agent) == ("succeeded", "schedule", "assistant")
    assert run.metadata == {"schedule": "report", "planned": "20261123T090000Z"}
    assert run.reply is not None
    assert run.reply.text == "Did: Report."
    [known] = await app.schedules.list()
    assert (known.at, known.last_at, known.last_run) == (at(24, 9), at(23, 9), run.id)


async def test_the_weekend_is_left_out() -> None:
    world = World(at(27, 8))  # a Friday
    app = await world.start(MORNING)
    for _ in range(24 * 4):
        world.clock.advance(3600)
        await swept(app)
    assert await ticks(app) == ["20261127T090000Z", "20261130T090000Z"]


async def test_each_tick_has_a_session_of_its_own() -> None:
    world = World()
    app = await world.start(MINUTELY)
    for _ in range(2):
        world.clock.advance(60)
        await swept(app)
    assert [run.session_id for run in await runs(app)] == [
        "assistant.often.20261123T090000Z",
        "assistant.often.20261123T090100Z",
    ]


async def test_or_all_ticks_go_to_one_session() -> None:
    world = World()
    app = await world.start(Schedule("often", "rate(1 minute)", message="Look.", session="watch"))
    for _ in range(2):
        world.clock.advance(60)
        await swept(app)
    page = await app.engine.session(ME, "watch")
    assert [message.text for message in page.messages] == ["Look.", "Did: Look."] * 2


async def test_after_a_pause_the_latest_tick_alone_runs() -> None:
    world = World()
    await world.start(MORNING)
    world.go_to(at(27, 20))  # nothing ran for days
    app = await world.start(MORNING)
    await swept(app)
    assert await ticks(app) == ["20261127T090000Z"]
    [known] = await app.schedules.list()
    assert known.at == at(30, 9)


async def test_ticks_that_are_only_a_little_late_all_run() -> None:
    world = World()
    app = await world.start(MINUTELY)
    world.clock.advance(119)  # two ticks went by
    await swept(app)
    assert await ticks(app) == ["20261123T090000Z", "20261123T090100Z"]


async def test_a_pause_of_years_is_passed_over_at_once() -> None:
    world = World()
    rare = Schedule("rare", "cron(* 0 1 1 ? *)", message="A year.")  # each minute of an hour of the year
    await world.start(MINUTELY, rare)
    world.clock.advance(3 * 366 * 86_400)
    app = await world.start(MINUTELY, rare)
    await swept(app)
    found = Counter(run.metadata["schedule"] for run in await runs(app))
    assert found == {"often": 2, "rare": 1}  # of the minutes, two are not late
    assert "20290101T005900Z" in await ticks(app)


async def test_several_processes_make_one_run_of_each_tick() -> None:
    world = World()
    apps = [await world.start(MINUTELY) for _ in range(4)]
    for _ in range(5):
        world.clock.advance(60)
        await asyncio.gather(*(swept(app) for app in apps))
    assert Counter(await ticks(apps[0])) == {stamp(START + 30 + 60 * n): 1 for n in range(5)}
    assert len(await world.due()) == 1


async def test_a_schedule_that_the_code_lost_is_dropped() -> None:
    world = World()
    await world.start(MINUTELY, MORNING)
    app = await world.start(MORNING)
    assert [known.name for known in await app.schedules.list()] == ["report"]
    assert len(await world.due()) == 1
    world.clock.advance(90)
    await swept(app)
    assert await ticks_of(app, "often") == []


async def test_a_changed_time_replaces_the_planned_one() -> None:
    world = World()
    await world.start(MINUTELY)
    app = await world.start(Schedule("often", "rate(1 hour)", message="Look."))
    world.clock.advance(90)
    await swept(app)
    assert await ticks(app) == ["20261123T090000Z"]
    [known] = await app.schedules.list()
    assert (known.when, known.at) == ("rate(1 hour)", at(23, 10))


async def test_changed_words_keep_the_planned_time() -> None:
    world = World()
    await world.start(MINUTELY)
    world.clock.advance(40)
    app = await world.start(Schedule("often", "rate(1 minute)", message="Look again."))
    await swept(app)
    assert [run.reply.text for run in await runs(app) if run.reply] == ["Did: Look again."]


async def test_a_process_of_older_code_leaves_the_tick_to_the_newer_one() -> None:
    world = World()
    old = await world.start(MINUTELY)
    new = await world.start(Schedule("often", "rate(1 minute)", message="Look again."))
    world.clock.advance(60)
    await swept(old)
    assert await runs(old) == []
    await swept(new)
    assert [run.reply.text for run in await runs(new) if run.reply] == ["Did: Look again."]


async def test_a_last_time_is_the_last() -> None:
    world = World()
    app = await world.start(Schedule("once", "cron(0 9 23 11 ? 2026)", message="Now."))
    world.clock.advance(60)
    await swept(app)
    assert await ticks(app) == ["20261123T090000Z"]
    assert (await world.due(), app.schedules.next_at()) == ([], None)
    await app.schedules.ensure()
    [known] = await app.schedules.list()
    assert (known.at, known.due) == (0.0, "")


async def test_a_session_that_refuses_gets_its_tick_later() -> None:
    world = World()
    schedule = Schedule("often", "rate(1 minute)", message="Look.", session="s")
    app = await world.start(schedule, busy="reject")
    await app.engine.submit(
        Inbound(messages=(Message.of("user", "Hi"),), session_id="s", key="k"), work=False
    )
    world.clock.advance(30)
    # Somebody who died a moment ago still holds the session.
    lease = {"v": 1, "owner": "x", "lease_until": world.clock.now() + 20, "fence": 1, "arrivals": 1}
    await world.store.write(Put(Key(keys.session(ME, "s"), keys.STATE), lease))
    await swept(app)
    assert await ticks_of(app, "often") == []
    world.clock.advance(31)
    await swept(app)
    await swept(app)
    assert (await ticks_of(app, "often"))[0] == "20261123T090000Z"


async def ticks_of(app: App, name: str) -> list[str]:
    found = [run for run in await app.engine.runs(ME, limit=200) if run.metadata.get("schedule") == name]
    return sorted(run.metadata["planned"] for run in found)


@pytest.mark.parametrize("after", [False, True])
async def test_a_store_that_fails_costs_no_tick(after: bool) -> None:
    """At each write of a tick in turn: the write does not happen, or its answer is lost."""
    for call in range(1, 4):
        world = World()
        store = FaultyStore(world.store)
        app = await world.start(MINUTELY, store=store)
        world.clock.advance(60)
        store.plan(Fault(call, StoreBusyError("locked"), "write", after))
        try:
            await swept(app)
        except StoreBusyError:
            pass
        world.clock.advance(31)
        await swept(app)
        await swept(app)
        assert Counter(await ticks(app))["20261123T090000Z"] == 1


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule("a", "rate(soon)", message="x"), "agent assistant, schedule a: .*soon"),
        (Schedule("a", "rate(1 hour)", message="x", zone="Mars/Base"), "Mars/Base"),
    ],
)
def test_what_is_no_time_is_told_when_the_app_is_built(schedule: Schedule, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        test_app(Agent(name="assistant", model=ScriptedModel([]), schedules=[schedule]))


@pytest.mark.parametrize(
    ("name", "message"), [("", "x"), ("a.b", "x"), ("a b", "x"), ("a" * 65, "x"), ("a", "")]
)
def test_what_is_no_schedule_is_told_where_it_is_written(name: str, message: str) -> None:
    with pytest.raises(ConfigError):
        Schedule(name, "rate(1 hour)", message=message)


def test_two_schedules_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two schedules are called 'often'"):
        Agent(name="assistant", schedules=[MINUTELY, MINUTELY])


async def test_a_server_is_on_time_however_seldom_it_sweeps() -> None:
    """The loop that looks after things sleeps to the next tick, and no longer."""
    world = World()
    app = await world.start(MORNING, sweep_seconds=7 * 86_400.0)
    looking = asyncio.create_task(app.look_after())
    for day in (23, 24, 25):
        await _settled()
        world.go_to(at(day, 9) - 1)
        await _settled()
        assert len(await runs(app)) == day - 23
        world.go_to(at(day, 9) + 1)
        await _settled()
        assert len(await runs(app)) == day - 22
    looking.cancel()
    await asyncio.wait({looking})


async def _settled() -> None:
    """Everybody has gone as far as the clock lets them."""
    for _ in range(200):
        await asyncio.sleep(0)


# -- whatever happens


class Died(BaseException):
    """A process ends here, with nothing further done."""


@contextmanager
def dying_at(hit: int) -> Iterator[None]:
    """Whoever passes the so-manyth boundary from here on, in this task, dies there; 0 is never."""
    task, passed = asyncio.current_task(), 0

    def hook(name: str) -> None:
        nonlocal passed
        if asyncio.current_task() is task:
            passed += 1
            if passed == hit:
                raise Died(name)

    points.watch(hook)
    try:
        yield
    finally:
        points.watch(None)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 400)),
        st.tuples(st.just("sweep"), st.integers(0, 2)),
        st.tuples(st.just("all"), st.just(0)),
        st.tuples(st.just("die"), st.tuples(st.integers(0, 2), st.integers(1, 8))),
        st.tuples(st.just("restart"), st.integers(0, 2)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(actions=ACTIONS)
def test_exactly_one_run_of_each_tick(actions: list[tuple[str, Any]]) -> None:
    """Three processes on one store, which sweep, sweep together, die between any two steps, and start again."""
    asyncio.run(_history(actions))


async def _history(actions: list[tuple[str, Any]]) -> None:
    world = World()
    apps = [await world.start(MINUTELY) for _ in range(3)]
    expected: set[str] = set()
    for action, value in [*actions, ("wait", 61), ("sweep", 0)]:
        if action == "wait":
            world.clock.advance(value)
        elif action == "restart":
            apps[value] = await world.start(MINUTELY)
        elif action == "all":
            await asyncio.gather(*(swept(app) for app in apps))
        elif action == "sweep":
            await swept(apps[value])
            expected |= _owed(world.clock.now())
        else:
            who, hit = value
            try:
                with dying_at(hit):
                    await apps[who].engine.sweep()
            except Died:
                _forget(apps[who])
                apps[who] = await world.start(MINUTELY)
            await apps[who].engine.drain()
    for _ in range(3):  # leases of the dead run out, and their runs are seen through
        world.clock.advance(31)
        await swept(apps[0])
    found = Counter(await ticks(apps[0]))
    assert set(found.values()) <= {1}
    assert expected <= set(found)
    assert {run.status for run in await runs(apps[0])} == {"succeeded"}
    assert len([sort for sort in await world.due() if sort.endswith("/schedule")]) == 1


def _owed(now: float) -> set[str]:
    """The ticks that a sweep which came to its end has seen run: those that are not late."""
    first = max(START, now - LATE_SECONDS)
    return {stamp(60.0 * n) for n in range(int(first // 60) + 1, int(now // 60) + 1)}


def _forget(app: App) -> None:
    """The work of a process that died."""
    for task in app.engine._tasks:
        task.cancel()
