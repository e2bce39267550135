"""Has something go wrong at every boundary, for a while: the clock jumps, the disk is full, the file is locked.

    python -m tests.durability.faults [--scenario NAME] [--fault NAME] [--at "before wake #1"]

What comes of it must be declared errors; once it is over, all is answered as if it had not been.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent_core.engine import points
from agent_core.errors import AgentError
from tests.durability.crash_points import Row, normal_life, stderr, told
from tests.durability.evidence import Evidence, Problem, gather
from tests.durability.process import At, Ended, StuckError, live, scene, work
from tests.durability.scenarios import SCENARIOS, Scenario
from tests.durability.stores import open_store
from tests.durability.world import LEASE_SECONDS, World, WorldClock

HOUR = 3600.0
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class ClockJump:
    """The clock is an hour ahead, or behind, from one moment to the next; and stays so."""

    def __init__(self, world: World, seconds: float) -> None:
        self._world = world
        self._seconds = seconds

    def begin(self) -> None:
        self._world.jump(self._seconds, passes=False)

    def end(self) -> None:
        if self._seconds < 0:  # who waits for times that are in the future again must wait
            self._world.jump(-self._seconds, passes=False)


class DiskFull:
    """No file may grow beyond what the store's log has reached."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = self._world.database.with_name("sampan.db-wal")
        size = max(log.stat().st_size if log.exists() else 0, 16 * 1024)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def end(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, UNLIMITED)


class Locked:
    """Another process holds SQLite's write lock for longer than a write waits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._other: sqlite3.Connection | None = None

    def begin(self) -> None:
        self._other = sqlite3.connect(self._world.database, isolation_level=None)
        self._other.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        if self._other is not None:
            self._other.execute("ROLLBACK")
            self._other.close()


FAULTS: dict[str, Callable[[World], ClockJump | DiskFull | Locked]] = {
    "an hour ahead": lambda world: ClockJump(world, HOUR),
    "an hour back": lambda world: ClockJump(world, -HOUR),
    "disk full": DiskFull,
    "file locked": Locked,
}
NAMES = ("plain", "three tools", "parallel", "continuation", "compaction", "inbox", "push")
"""Without approval: an hour is more than a person has to answer."""


@dataclass
class Told(Row):
    """A line of the table: how often the fault was there, and in how many cases somebody was told of it."""

    fault: str = ""
    declared: int = 0


def suffer(world: World, scenario: Scenario, fault: ClockJump | DiskFull | Locked) -> None:
    """Work while the fault may come; then, when it is over and leases have run out, once more."""

    async def both() -> None:
        try:
            await work(world, scenario, store=open_store(world, WorldClock(world), busy_seconds=0.05))
        except (AgentError, StuckError) as error:
            world.log("declared", error=type(error).__name__)
        finally:
            # A boundary that chance brings only now must not begin what nobody would end.
            points.watch(lambda name: None)
            fault.end()
        world.jump(LEASE_SECONDS + 1)
        await work(world, scenario)

    asyncio.run(both())


def trouble(
    scenario: Scenario, normal: Evidence, at: At, fault_of: Callable[[World], ClockJump | DiskFull | Locked]
) -> tuple[bool, list[Problem]]:
    """Whether an error was declared, and what is wrong afterwards."""
    with scene(scenario) as world:
        fault = fault_of(world)
        ended = live(world, lambda: suffer(world, scenario, fault), at, fault.begin)
        if ended != Ended(0, 0):
            return False, [("lost", f"{ended}\n{stderr(world)}")]
        found = asyncio.run(gather(world, scenario)).compared_with(normal, crashes=1)
        return bool(world.read("declared")), found


def prove(scenario: Scenario, name: str, only: str = "") -> Told:
    """The line of the table for a scenario and a fault, at every boundary or at this one."""
    normal, passed = normal_life(scenario)
    if only:
        passed = [at for at in passed if str(at) == only]
        if not passed:
            raise SystemExit(f"{scenario.name} does not pass {only!r}")
    row = Told(scenario.name, points=len({at.point for at in passed}), fault=name)
    for at in passed:
        declared, found = trouble(scenario, normal, at, FAULTS[name])
        row.declared += declared
        row.kills += 1
        row.add(f"{name} at {at}", found)
    return row


def table(rows: Sequence[Told]) -> str:
    """For people."""
    titles = ("points", "faults", "declared", "paid again", "lost", "double", "other")
    lines = [f"{'scenario':14}{'fault':>16}" + "".join(f"{title:>12}" for title in titles)]
    for row in rows:
        counts = (
            row.points,
            row.kills,
            row.declared,
            row.paid_again,
            row.lost,
            row.double,
            row.others,
        )
        lines.append(f"{row.scenario:14}{row.fault:>16}" + "".join(f"{count:12}" for count in counts))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", choices=NAMES, action="append")
    parser.add_argument("--fault", choices=FAULTS, action="append")
    parser.add_argument("--at", default="", help="one boundary, not all of them")
    options = parser.parse_args()
    rows = [
        prove(SCENARIOS[name], fault, options.at)
        for fault in options.fault or FAULTS
        for name in options.scenario or NAMES
    ]
    print(table(rows))
    return told(rows)


if __name__ == "__main__":
    sys.exit(main())
