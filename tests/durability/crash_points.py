"""Kills a process at every boundary of the engine, restarts, redelivers, and compares with a life without a crash.

    python -m tests.durability.crash_points [--scenario NAME] [--twice PAIRS | --twice all] [--style NAME]

Prints the table of crash points; ends with 1 where a promise was broken, and tells which.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.durability.evidence import Evidence, Problem, gather
from tests.durability.process import At, Ended, live, scene, too_early, warm_up, work
from tests.durability.scenarios import SCENARIOS, Scenario
from tests.durability.world import LEASE_SECONDS, World

STYLES = ("redeliver", "sweep", "early", "back", "ahead")
"""What happens first after a crash: the message comes again; the sweeper comes; the message comes too early, or so
early that the clock was set back by an hour meanwhile; or nothing for an hour."""

HOUR = 3600.0
BACK = 120.0
"""Less than the five minutes for which a question stands: who comes back at once asks it before time is put right."""


def too_late(style: str, scenario: Scenario, at: At | None = None) -> bool:
    """Whether the hour that passes is more than a person has to agree.

    With the clock set back, only where nothing was asked before the crash: the question is from an hour ago then.
    """
    if scenario.name != "approval":
        return False
    return style == "ahead" or (style == "back" and at is not None and at.point == "before accept")


@dataclass
class Row:
    """A scenario's line in the table.

    `missed` counts crashes that did not come since a life with other timing did not pass their boundary so often.
    """

    scenario: str
    points: int = 0
    kills: int = 0
    pairs: int = 0
    lost: int = 0
    double: int = 0
    paid_again: int = 0
    missed: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, found: Sequence[Problem]) -> None:
        """Count what came of one case. That a call was paid again is no problem, as long as a crash explains it."""
        kinds = Counter(kind for kind, _ in found)
        self.paid_again += bool(kinds["paid again"])
        self.missed += bool(kinds["missed"])
        self.lost += bool(kinds["lost"])
        self.double += bool(kinds["double"])
        for kind, words in found:
            if kind not in ("paid again", "missed"):
                self.problems.append(f"{self.scenario}, {name}: {kind}: {words}")

    @property
    def others(self) -> int:
        """Problems that are neither: something was stuck, or left lying, or could not be tried."""
        return max(len(self.problems) - self.lost - self.double, 0)


def body_of(world: World, scenario: Scenario, style: str) -> Any:
    """What a process does: the same whether it is the first or comes after a crash."""
    return lambda: asyncio.run(work(world, scenario, sweep_first=style == "sweep"))


def normal_life(scenario: Scenario) -> tuple[Evidence, list[At]]:
    """What a life without a crash leaves, and the boundaries it passes."""
    warm_up(scenario)
    with scene(scenario) as world:
        ended = live(world, body_of(world, scenario, "redeliver"))
        if ended != Ended(0, 0):
            raise SystemExit(f"{scenario.name} fails without a crash:\n{stderr(world)}")
        [passed] = world.read("passed")
        evidence = asyncio.run(gather(world, scenario))
        if problems := evidence.compared_with(evidence, crashes=0):
            raise SystemExit(f"{scenario.name} breaks its promises without a crash: {problems}")
        return evidence, [At(*one) for one in passed["points"]]


def stderr(world: World) -> str:
    """The last error that a process of this world wrote down."""
    path = world.folder / "stderr.txt"
    text = path.read_text() if path.exists() else ""
    return text[text.rfind("Traceback") :][-6000:]


def crash(
    scenario: Scenario, normal: Evidence, kills: Sequence[At], style: str
) -> tuple[list[At], list[Any]]:
    """A life with these crashes: the boundaries of the last process, and what is wrong with what it left."""
    missed = False
    with scene(scenario) as world:
        for at in kills:
            ended = live(world, body_of(world, scenario, style), at)
            if ended == Ended(0, 0):
                missed = True  # in this life, timing was otherwise
                break
            if ended.killed_by != signal.SIGKILL:
                return [], [("error", f"not killed at {at}: {ended}\n{stderr(world)}")]
            world.jump(-BACK if style == "back" else 0.0, passes=False)
            if style in ("early", "back"):
                ended = live(world, lambda: asyncio.run(too_early(world, scenario)))
                if ended != Ended(0, 0):
                    return [], [("error", f"the early delivery failed: {ended}\n{stderr(world)}")]
            world.jump({"back": BACK, "ahead": HOUR}.get(style, 0.0), passes=False)
            world.jump(LEASE_SECONDS + 1)
        ended = live(world, body_of(world, scenario, style))
        if ended != Ended(0, 0):
            return [], [("lost", f"what came after the crash failed: {ended}\n{stderr(world)}")]
        after = asyncio.run(gather(world, scenario))
        passed = world.read("passed")[-1]["points"]
        found = after.compared_with(normal, crashes=len(kills))
        return [At(*one) for one in passed], [*found, *([("missed", "")] if missed else [])]


Lives = dict[tuple[At, str], list[At]]
"""The boundaries that were passed after each crash, by where it was and what came first then."""


def once(scenario: Scenario, styles: Sequence[str], every_style: bool) -> tuple[Row, Evidence, Lives]:
    """Every boundary, every hit, one crash."""
    normal, passed = normal_life(scenario)
    row = Row(scenario.name, points=len({at.point for at in passed}))
    lives: Lives = {}
    for place, at in enumerate(passed):
        for style in styles if every_style else [styles[place % len(styles)]]:
            if too_late(style, scenario, at):
                continue
            lives[at, style], found = crash(scenario, normal, [at], style)
            row.kills += 1
            row.add(f"{at}, then {style}", found)
    return row, normal, lives


def pairs(lives: Lives, wanted: int | None) -> Iterator[tuple[At, At, str]]:
    """Two crashes one after the other: all, or so many of them by chance (the same ones each time)."""
    every = [(first, second, style) for (first, style), passed in lives.items() for second in passed]
    if wanted is not None and wanted < len(every):
        every = random.Random(7).sample(every, wanted)
    yield from every


def prove(scenario: Scenario, styles: Sequence[str], twice: int | None, every_style: bool) -> Row:
    """The scenario's line of the table."""
    row, normal, lives = once(scenario, styles, every_style)
    for first, second, style in pairs(lives, twice):
        _, found = crash(scenario, normal, [first, second], style)
        row.pairs += 1
        row.add(f"{first} and {second}, then {style}", found)
    return row


def always(scenario: Scenario) -> Row:
    """Replay always: each process does one step and is killed once that is stored; nothing is paid or done again."""
    stepwise = replace(scenario, name=f"{scenario.name}, always", one_step=True)
    normal, passed = normal_life(stepwise)
    row = Row(stepwise.name, points=1)
    boundary = At("after release", 1)
    with scene(stepwise) as world:
        while (ended := live(world, body_of(world, stepwise, "redeliver"), boundary)) != Ended(0, 0):
            row.kills += 1
            if ended.killed_by != signal.SIGKILL or row.kills > len(passed):
                row.add("each boundary", [("lost", f"after {row.kills} lives: {ended}\n{stderr(world)}")])
                return row
        after = asyncio.run(gather(world, stepwise))
        row.add("each boundary", after.compared_with(normal, crashes=0))
    return row


def table(rows: Sequence[Row]) -> str:
    """For people."""
    titles = ("points", "kills", "twice", "missed", "paid again", "lost", "double", "other")
    lines = [f"{'scenario':22}" + "".join(f"{title:>12}" for title in titles)]
    for row in rows:
        counts = (
            row.points,
            row.kills,
            row.pairs,
            row.missed,
            row.paid_again,
            row.lost,
            row.double,
            row.others,
        )
        lines.append(f"{row.scenario:22}" + "".join(f"{count:12}" for count in counts))
    return "\n".join(lines)


def shortened(problem: str) -> str:
    """A problem in one line: where it was, and the last words of its traceback."""
    lines = problem.strip().splitlines()
    return lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1][:300]}"


def told(rows: Sequence[Row], *, verbose: bool = False) -> int:
    """Tell the problems, and give the exit code."""
    problems = [problem for row in rows for problem in row.problems]
    problems += [
        f"{row.scenario}: {row.missed} of {row.kills + row.pairs} crashes were missed: too many to prove much"
        for row in rows
        if row.missed > (row.kills + row.pairs) / 10
    ]
    for problem in problems[:20]:
        print("-", problem.strip() if verbose else shortened(problem))
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    parser.add_argument("--style", choices=STYLES, action="append")
    parser.add_argument(
        "--in-turn", action="store_true", help="one style for each crash, in turn, not all of them"
    )
    parser.add_argument("--twice", default="0", help="how many pairs of crashes for each scenario, or `all`")
    parser.add_argument("--verbose", action="store_true", help="tell problems with their tracebacks")
    options = parser.parse_args()
    twice = None if options.twice == "all" else int(options.twice)
    rows = []
    for name in options.scenario or SCENARIOS:
        styles = [style for style in options.style or STYLES if not too_late(style, SCENARIOS[name])]
        rows.append(prove(SCENARIOS[name], styles, twice, not options.in_turn))
        if SCENARIOS[name].way == "at once":
            rows.append(always(SCENARIOS[name]))
    print(table(rows))
    return told(rows, verbose=options.verbose)


if __name__ == "__main__":
    sys.exit(main())
