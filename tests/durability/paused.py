"""Pauses a worker (SIGSTOP) at every boundary, lets its lease run out and another finish, and wakes it (SIGCONT).

    python -m tests.durability.paused [--scenario NAME]

It must write nothing: the store reads the same, byte by byte, before it woke and after it ended.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence

from agent_core.engine import keys
from tests.durability.crash_points import Row, body_of, normal_life, stderr, told
from tests.durability.evidence import Evidence, Problem, gather
from tests.durability.process import At, Ended, fork, live, scene, wait
from tests.durability.scenarios import SCENARIOS, Scenario
from tests.durability.world import LEASE_SECONDS, World

LEASE = ("owner", "holder", "fence", "takes", "lease_until", "lease_ends", "arrivals")

WITH_ONE_WORKER = [name for name in SCENARIOS if name not in ("batch of 10", "queue of 10", "inbox")]
"""Where several tasks work, one may be paused in the middle of SQLite's own lock, which is another matter."""


def stop_me() -> None:
    """Stand still, all threads, until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def records(world: World) -> dict[tuple[str, str], object]:
    """All that the store holds but who took a lease last: once awake, a process may look for work like any other."""
    with contextlib.closing(sqlite3.connect(world.database)) as connection:
        rows = connection.execute("SELECT partition, sort, fields, version FROM records").fetchall()
    found: dict[tuple[str, str], object] = {}
    for partition, sort, fields, version in rows:
        if sort == keys.STATE:
            head = json.loads(fields)
            found[partition, sort] = {field: head[field] for field in head if field not in LEASE}
        else:
            found[partition, sort] = (fields, version)
    return found


def pause(scenario: Scenario, normal: Evidence, at: At) -> list[Problem]:
    """What is wrong after a worker slept through its lease here."""
    with scene(scenario) as world:
        paused = fork(world, body_of(world, scenario, "redeliver"), at, stop_me)
        _, status = os.waitpid(paused, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return [("error", f"it did not stop at {at}\n{stderr(world)}")]
        try:
            world.jump(LEASE_SECONDS + 1)
            other = live(world, body_of(world, scenario, "redeliver"))
            before = records(world)
        finally:
            os.kill(paused, signal.SIGCONT)
            woken = wait(paused)
        if (other, woken) != (Ended(0, 0), Ended(0, 0)):
            return [("lost", f"the other {other}, the one that was paused {woken}\n{stderr(world)}")]
        after = records(world)
        written = sorted(key for key in before.keys() | after if before.get(key) != after.get(key))
        found = asyncio.run(gather(world, scenario)).compared_with(normal, crashes=1)
        return [*found, *([("double", f"after it woke it wrote {written}")] if written else [])]


def prove(scenario: Scenario) -> Row:
    """The scenario's line of the table."""
    normal, passed = normal_life(scenario)
    row = Row(scenario.name, points=len({at.point for at in passed}))
    for at in passed:
        row.add(f"paused {at}", pause(scenario, normal, at))
        row.kills += 1
    return row


def table(rows: Sequence[Row]) -> str:
    """For people."""
    titles = ("points", "pauses", "paid again", "lost", "double", "other")
    lines = [f"{'scenario':22}" + "".join(f"{title:>12}" for title in titles)]
    for row in rows:
        counts = (row.points, row.kills, row.paid_again, row.lost, row.double, row.others)
        lines.append(f"{row.scenario:22}" + "".join(f"{count:12}" for count in counts))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", choices=WITH_ONE_WORKER, action="append")
    options = parser.parse_args()
    rows = [prove(SCENARIOS[name]) for name in options.scenario or WITH_ONE_WORKER]
    print(table(rows))
    return told(rows)


if __name__ == "__main__":
    sys.exit(main())
