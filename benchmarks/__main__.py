"""`python -m benchmarks [start|turn|...]`: measure, and write the tables of README.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import batch, cold_start, dynamodb, idle, session, start, trips, turn, webhooks, worker
from benchmarks.machine import BenchmarkError, describe, require_linux
from benchmarks.table import README, write

ALL = {
    "cold_start": cold_start.run,
    "start": start.run,
    "turn": turn.run,
    "session": session.run,
    "trips": trips.run,
    "idle": idle.run,
    "batch": batch.run,
    "worker": worker.run,
    "webhooks": webhooks.run,
    "dynamodb": dynamodb.run,
}

PAGES = {"cold_start": cold_start.PAGE}
"""Where a table goes that has a page of its own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all goals were met, 1 when one was not, 2 when a benchmark could not be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(ALL)} (all)")
    parser.add_argument("--quick", action="store_true", help="small, without peers, README.md left as it is")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in ALL]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; there are: {', '.join(ALL)}")
    failed = broken = False
    for name in given.names or ALL:
        try:
            require_linux()
            machine = describe()  # before, so that the load average is not our own
            report = ALL[name](quick=given.quick)
        except BenchmarkError as error:
            print(f"benchmarks {name}: {error}", file=sys.stderr)
            broken = True
            continue
        report.machine = machine
        print(report.markdown(), flush=True)
        if not given.quick:
            write(report, PAGES.get(name, README))
            failed = failed or not all(goal.met for goal in report.goals)
    return 2 if broken else int(failed)


if __name__ == "__main__":
    sys.exit(main())
