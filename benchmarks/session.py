"""Whether an old session costs more per turn than a young one: bytes read, round trips, CPU, over SQLite."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from agent_core import Agent, Message, Settings, build_app
from agent_core.app import App
from agent_core.clock import SystemClock
from agent_core.engine.runs import Inbound
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import CountingStore, ScriptedModel
from benchmarks.table import Goal, Report

GOAL_PERCENT = 10.0

# All messages of all sessions are of one length, so that only the age of a session differs.
QUESTION = "Please tell me more about the ship that left the harbour yesterday evening, number {:06d}."
ANSWER = "The ship is on its way, and all is well on board; the captain sends you kind regards. " * 2


@dataclass(frozen=True)
class Size:
    """Turns of the old session, and how many turns are measured at each age."""

    old: int
    measured: int


FULL = Size(old=10_000, measured=200)
QUICK = Size(old=60, measured=4)

WINDOWS = ((10, 10), (40, 30))
"""Messages the model is given at most (`Agent.history`), and turns of the young session it is compared with."""


@dataclass
class Cost:
    """What each measured turn took."""

    cpu_ms: list[float] = field(default_factory=list)
    bytes_read: list[int] = field(default_factory=list)
    trips: list[int] = field(default_factory=list)

    def medians(self) -> tuple[float, float, float]:
        """Round trips, bytes read, CPU in ms."""
        return median(self.trips), median(self.bytes_read), median(self.cpu_ms)


def run(*, quick: bool = False) -> Report:
    """The table; with `quick` an "old" session of a few turns."""
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as folder:
        return asyncio.run(_run(size, Path(folder)))


async def _run(size: Size, folder: Path) -> Report:
    house = _House(folder)
    began = time.monotonic()
    for _ in range(size.old):
        await house.turn("old", WINDOWS[0][0])
    print(f"made a session of {size.old} turns in {time.monotonic() - began:.0f} s", flush=True)
    rows: list[tuple[object, ...]] = []
    goals: list[Goal] = []
    for history, age in WINDOWS:
        young, old = Cost(), Cost()
        for number in range(size.measured):
            name = f"young-{history}-{number}"
            for _ in range(age):
                await house.turn(name, history)
            # By turns, and each first as often as the other, so that what else the machine does meets both.
            pair = [(name, young), ("old", old)]
            for session, cost in pair if number % 2 else reversed(pair):
                await house.measured(session, history, cost)
        for turns, cost in ((age, young), (size.old, old)):
            rows.append((f"{turns:,}", history, *cost.medians()))
        goals += _goals(history, age, size.old, young, old)
    await house.app.close()
    return Report(
        name="session",
        title="The age of a session",
        columns=("turns so far", "window", "round trips", "bytes read", "CPU ms"),
        rows=rows,
        goals=goals,
        notes=[
            f"Per turn, medians of {size.measured} turns at each age, taken by turns; engine and SQLite in one "
            "process with a scripted model, no HTTP. `window` is `Agent.history`, the messages the model is given at "
            "most. What a turn reads is bounded by it, so a session grows dearer until its window is full and no "
            "longer: two ages can only be compared where both are past that point. A session of 10 turns (20 messages) "
            f"fills a window of {WINDOWS[0][0]}; the default window of {WINDOWS[1][0]} takes 20 turns to fill, so "
            f"there the young one has {WINDOWS[1][1]}.",
        ],
    )


def _goals(history: int, age: int, old_age: int, young: Cost, old: Cost) -> list[Goal]:
    words = f"{old_age:,} turns above {age}, window {history}"
    names = ("round trips", "bytes read", "CPU")
    return [
        Goal(f"{name}: {words}", (after / before - 1) * 100, GOAL_PERCENT, "%")
        for name, before, after in zip(names, young.medians(), old.medians(), strict=True)
    ]


class _House:
    """An app for each window, over one SQLite file and one scripted model."""

    def __init__(self, folder: Path) -> None:
        clock = SystemClock()
        self.store = CountingStore(SqliteStore(folder / "bench.db", clock))
        self.model = ScriptedModel()
        agents = [
            Agent(name=f"window-{history}", model=self.model, history=history) for history, _ in WINDOWS
        ]
        self.app: App = build_app(Settings(data=str(folder)), agents=agents, store=self.store, clock=clock)
        self._turns = 0

    async def turn(self, session: str, history: int) -> None:
        """One message and its answer."""
        self._turns += 1
        self.model.prompts.clear()
        self.model.add(ANSWER)
        message = Message.of("user", QUESTION.format(self._turns))
        run = await self.app.engine.answer(
            Inbound(messages=(message,), session_id=session, agent=f"window-{history}")
        )
        assert run.status == "succeeded", run.failure

    async def measured(self, session: str, history: int, cost: Cost) -> None:
        """One turn, and what it took, in all threads."""
        await self.app.engine.drain()
        self.store.reset()
        before = time.process_time()
        await self.turn(session, history)
        cost.cpu_ms.append((time.process_time() - before) * 1000)
        cost.trips.append(self.store.trips.total())
        cost.bytes_read.append(self.store.bytes_read.total())
