"""A process under test: it works in a world until nothing is left to do there, or until it is killed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from agent_core.app import App, build_app
from agent_core.engine import points
from agent_core.engine.runs import Inbound, Run
from agent_core.errors import ConflictError, RunningError
from agent_core.messages import Principal
from agent_core.queues.consumer import process
from agent_core.queues.sqlite import SqliteQueue
from agent_core.settings import Settings
from agent_core.store.base import Store
from agent_core.testing import ScriptedWire
from tests.durability.cast import Postbox, agent_of, verdict
from tests.durability.scenarios import QUEUE, Scenario
from tests.durability.stores import open_store
from tests.durability.world import LEASE_SECONDS, World, WorldClock, new_world

ME = Principal()
PAST = 1.0
"""A deadline that is always over."""

PATIENCE = 5.0
"""Seconds that a sender waits for a run that was handed over: whether its wake-up was lost, it can't know."""


@dataclass(frozen=True)
class At:
    """A boundary by its name, and which time it is passed, from 1."""

    point: str
    hit: int

    def __str__(self) -> str:
        return f"{self.point} #{self.hit}"


class Watch:
    """Notes the boundaries that a process passes, and does something at one of them."""

    def __init__(self, world: World, at: At | None, act: Callable[[], None]) -> None:
        self._world = world
        self._at = at
        self._act = act
        self._hits: Counter[str] = Counter()
        self.passed: list[At] = []

    def __call__(self, name: str) -> None:
        self._hits[name] += 1
        here = At(name, self._hits[name])
        self.passed.append(here)
        if here == self._at:
            self._act()


def kill_me() -> None:
    """End at once: no handler, no finally, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def open_app(world: World, scenario: Scenario, store: Store | None = None) -> App:
    """The application on the world's store and clock."""
    clock = WorldClock(world)
    app = build_app(
        Settings.from_env({}, data=str(world.folder), lease_seconds=LEASE_SECONDS),
        agents=[agent_of(world, scenario.plan, **scenario.agent)],
        store=store or open_store(world, WorldClock(world)),
        wire=ScriptedWire(),
        clock=clock,
    )
    app.engine._kit.deliverers["postbox"] = Postbox(world)
    if scenario.one_step:

        async def wake(principal: Principal, session_id: str) -> None:
            await app.engine.resume(principal, session_id, stop_at=PAST)

        app.engine._wake = wake
    return app


async def work(
    world: World, scenario: Scenario, *, sweep_first: bool = False, store: Store | None = None
) -> None:
    """Deliver all messages, answer what a person is asked, sweep once: after that, all must be done."""
    app = open_app(world, scenario, store)
    try:
        if sweep_first:
            await app.engine.sweep()
            await app.engine.drain()
        if scenario.way == "queue":
            await work_on_queue(world, app)
        elif scenario.way == "in turn":
            for key in scenario.says:
                await deliver(world, scenario, app, key)
        else:
            if scenario.way == "behind each other":
                for key in scenario.says:
                    await app.engine.submit(scenario.inbound(key))
            await asyncio.gather(*(deliver(world, scenario, app, key) for key in scenario.says))
        await app.engine.sweep()
        await app.engine.drain()
    except StuckError:
        for task in app.engine._tasks:
            task.cancel()  # it waits for what nobody does: as a process that is stopped
        raise
    finally:
        await app.close()


def open_queue(world: World) -> SqliteQueue:
    """The world's queue, into which others put messages."""
    return SqliteQueue(world.queue, WorldClock(world), QUEUE, busy_seconds=2.0)


async def fill_queue(world: World, scenario: Scenario) -> None:
    """What a producer does, before all else."""
    queue = open_queue(world)
    await queue.send(*map(scenario.entry, scenario.says))
    await queue.close()


class WatchedQueue:
    """A queue with a boundary before and after each thing that it does."""

    def __init__(self, queue: SqliteQueue) -> None:
        self._queue = queue
        self.rules = queue.rules

    def __getattr__(self, verb: str) -> Any:
        async def ask(*args: Any, **kwargs: Any) -> Any:
            points.point(f"before {verb}")
            answer = await getattr(self._queue, verb)(*args, **kwargs)
            points.point(f"after {verb}")
            return answer

        return ask


async def work_on_queue(world: World, app: App) -> None:
    """Receive and handle until nothing comes."""
    queue: Any = WatchedQueue(open_queue(world))
    while records := await queue.receive():
        await process(records, app.desk.handle, queue=queue, clock=app.clock, delete=True)
    await queue.close()


async def deliver(world: World, scenario: Scenario, app: App, key: str) -> None:
    """Send a message as its sender does, see its run through, and note what the sender was told."""
    stop_at = PAST if scenario.one_step else 0.0
    try:
        async with asyncio.timeout(PATIENCE if scenario.one_step else None):
            run = await insist(app, scenario.inbound(key), stop_at)
    except TimeoutError:
        raise StuckError(f"nobody goes on with {key}") from None
    while not run.done:
        run = await settle(world, app, run)
    world.log("told", key=key, run=run.id, status=run.status, text=run.reply.text if run.reply else "")


async def insist(app: App, inbound: Inbound, stop_at: float) -> Run:
    """Send it, and once more if its run is under way here: then it has ended when all the work here has."""
    try:
        return await app.engine.answer(inbound, stop_at=stop_at)
    except RunningError:
        await app.engine.drain()
        return await app.engine.answer(inbound, stop_at=stop_at)


class StuckError(Exception):
    """Nobody works on a run, and nobody is asked: where a worker just died, its lease must run out first."""


async def settle(world: World, app: App, run: Run) -> Run:
    """Answer what the run asks, as a person does."""
    for question in run.questions:
        if question.status == "asked":
            world.log("asked", reason=question.reason)
            answer = app.engine.approve if verdict(world, run, question) else app.engine.deny
            try:
                await answer(ME, run.id, question.hash)
            except ConflictError:
                world.log("refused", hash=question.hash)  # another person was first
    await app.engine.drain()
    after = await app.engine.run(ME, run.id)
    if after == run:
        raise StuckError(f"run {run.id} is stuck: {run.status}, {run.questions}")
    return after


async def too_early(world: World, scenario: Scenario) -> None:
    """Deliver all messages again while the dead worker's lease still holds, and wait for nothing that takes longer."""
    app = open_app(world, scenario)
    try:
        if scenario.way == "queue":
            await work_on_queue(world, app)
        else:
            for key in scenario.says:
                await app.engine.submit(scenario.inbound(key))
            await app.engine.drain()
    finally:
        await app.close()


@contextlib.contextmanager
def scene(scenario: Scenario) -> Iterator[World]:
    """A world in which the scenario can begin."""
    with new_world() as world:
        if scenario.way == "queue":
            asyncio.run(fill_queue(world, scenario))
        yield world


def warm_up(scenario: Scenario) -> None:
    """Do all of it here once, so that processes forked from this one find the modules loaded."""
    with scene(scenario) as world:
        asyncio.run(work(world, scenario))
    gc.collect()
    gc.freeze()
    if threading.active_count() > 1:
        raise AssertionError(f"a fork beside threads is not safe: {threading.enumerate()}")


@dataclass(frozen=True)
class Ended:
    """How a process ended: by a signal, or by itself with a code (0: all went well)."""

    killed_by: int
    code: int


def fork(
    world: World, body: Callable[[], object], at: At | None = None, act: Callable[[], None] = kill_me
) -> int:
    """Begin a process that does this in the world. To be called where no other thread runs."""
    child = os.fork()
    if child == 0:
        _be_child(world, body, at, act)
    return child


def wait(child: int) -> Ended:
    """Wait for the end of a process."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Ended(os.WTERMSIG(status), 0)
    return Ended(0, os.WEXITSTATUS(status))


def live(
    world: World, body: Callable[[], object], at: At | None = None, act: Callable[[], None] = kill_me
) -> Ended:
    """The whole life of a process that does this in the world."""
    return wait(fork(world, body, at, act))


def _be_child(world: World, body: Callable[[], object], at: At | None, act: Callable[[], None]) -> NoReturn:
    """The life of a forked process; it never returns to its parent's code."""
    code = 1
    try:
        gc.disable()  # a process lives for some milliseconds
        errors = os.open(world.folder / "stderr.txt", os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        os.dup2(errors, 2)
        logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
        watch = Watch(world, at, act)
        points.watch(watch)
        signal.alarm(60)  # whatever hangs ends
        body()
        world.log("passed", points=[(one.point, one.hit) for one in watch.passed])
        code = 0
    except BaseException:  # noqa: BLE001 - the outermost boundary of a process: its parent is told by the code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
