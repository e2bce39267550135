"""The crash points once more, on DynamoDB behind a proxy that throttles, cuts and stalls some calls.

    python -m tests.durability.in_cloud [--scenario NAME] [--rate 0.05] [--in-turn]

Each boundary, each hit: killed there, tried again as long as the errors are declared ones. Nothing is lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from agent_core.errors import AgentError
from tests.aws.emulator import running
from tests.durability.crash_points import STYLES, Row, body_of, stderr, table, told, too_late
from tests.durability.evidence import Evidence, Problem, gather
from tests.durability.process import At, Ended, StuckError, live, scene, warm_up, work
from tests.durability.scenarios import SCENARIOS, Scenario
from tests.durability.stores import Cloud, cloud
from tests.durability.world import LEASE_SECONDS, World

TRIES = 12
"""How often a sender sends again what a declared error came back for."""

FAULTS = 10
"""Model calls that faults may cost: a step whose write failed is done again by whoever goes on."""


async def insist(world: World, scenario: Scenario, style: str) -> None:
    """What `work` does, again until no declared error comes of it."""
    for left in reversed(range(TRIES)):
        try:
            await work(world, scenario, sweep_first=style == "sweep")
            return
        except* (AgentError, StuckError):
            if not left:
                raise
        world.jump(LEASE_SECONDS + 1)


def normal_life(scenario: Scenario, calm: Cloud) -> tuple[Evidence, list[At]]:
    """What a life without a crash or a fault leaves, and the boundaries it passes."""
    warm_up(scenario)
    with scene(scenario) as world, calm.table_of(world):
        ended = live(world, body_of(world, scenario, "redeliver"))
        if ended != Ended(0, 0):
            raise SystemExit(f"{scenario.name} fails without a crash: {ended}\n{stderr(world)}")
        [passed] = world.read("passed")
        return asyncio.run(gather(world, scenario)), [At(*one) for one in passed["points"]]


def crash(scenario: Scenario, normal: Evidence, at: At, style: str, rough: Cloud) -> list[Problem]:
    """What is wrong after a life that was killed there."""
    with scene(scenario) as world, rough.table_of(world):
        first = live(world, lambda: asyncio.run(insist(world, scenario, style)), at)
        missed = first == Ended(0, 0)
        if not missed and first.killed_by != signal.SIGKILL:
            return [("error", f"not killed: {first}\n{stderr(world)}")]
        world.jump(LEASE_SECONDS + 1)
        ended = live(world, lambda: asyncio.run(insist(world, scenario, style)))
        if ended != Ended(0, 0):
            return [("lost", f"what came after the crash failed: {ended}\n{stderr(world)}")]
        rough.calm(world)
        found = asyncio.run(gather(world, scenario)).compared_with(normal, crashes=FAULTS)
        return [*found, *([("missed", "")] if missed else [])]


def prove(scenario: Scenario, calm: Cloud, rough: Cloud, styles: Sequence[str], every_style: bool) -> Row:
    """The scenario's line of the table."""
    normal, passed = normal_life(scenario, calm)
    row = Row(scenario.name, points=len({at.point for at in passed}))
    for place, at in enumerate(passed):
        for style in styles if every_style else [styles[place % len(styles)]]:
            row.kills += 1
            row.add(f"{at}, then {style}", crash(scenario, normal, at, style, rough))
    return row


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    parser.add_argument("--rate", type=float, default=0.05, help="how many of the calls fail, from 0 to 1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--in-turn", action="store_true", help="one style for each crash, not all of them")
    options = parser.parse_args()
    rows = []
    with (
        running() as emulator,
        cloud(emulator, 0, 0) as calm,
        cloud(emulator, options.rate, options.seed) as rough,
    ):
        for name in options.scenario or SCENARIOS:
            scenario = SCENARIOS[name]
            styles = [style for style in STYLES[:2] if not too_late(style, scenario)]
            rows.append(prove(scenario, calm, rough, styles, not options.in_turn))
    print(table(rows))
    return told(rows)


if __name__ == "__main__":
    sys.exit(main())
