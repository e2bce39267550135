"""`python -m benchmarks.soak --minutes N`: the server under steady load, its memory watched. `make soak`.

Ends with 1 where memory, threads or open files grew, a request failed, or a turn was paid for other than once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.machine import BenchmarkError, open_files, require_linux, resident_mib, threads
from benchmarks.servers import load, mock_model, sampan
from benchmarks.table import Goal

CONCURRENCY = 16
SESSIONS = 800
"""Requests of a slice, each to a session of its own; the next slice goes on with the same sessions."""

BODIES: Mapping[str, str] = {
    "whole": '{"message": "Hello, how are you?", "stream": false, "session_id": "soak-{i}"}',
    "streamed": '{"message": "Hello, how are you?", "stream": true, "session_id": "soak-{i}"}',
}
GROWTH_PERCENT = 10.0
"""How much memory may grow from the end of the first third to the last third of the time."""


@dataclass(frozen=True)
class Sample:
    """The server after a slice of load, and what that slice took."""

    minutes: float
    turns: int
    mode: str
    resident: float
    threads: int
    files: int
    p50_ms: float
    cpu_ms: float

    def line(self) -> str:
        """For a person who watches."""
        return (
            f"{self.minutes:6.1f} min {self.turns:8} turns {self.resident:7.1f} MiB {self.threads:3} threads "
            f"{self.files:4} files  {self.mode:8} p50 {self.p50_ms:6.1f} ms  CPU {self.cpu_ms:.2f} ms/turn"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where the server lasts, 1 where it does not, 2 where it could not be tried."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (5)")
    given = parser.parse_args(arguments)
    try:
        require_linux()
        samples, calls = soak(given.minutes * 60)
    except BenchmarkError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    goals = verdict(samples, calls)
    print("\n| goal | at most | measured | |\n|---|--:|--:|---|")
    for goal in goals:
        print(goal.line())
    return 0 if all(goal.met for goal in goals) else 1


def soak(seconds: float, *, sessions: int = SESSIONS) -> tuple[list[Sample], int]:
    """Load the server, slice by slice, whole and streamed; the samples, and how many calls its model got."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="sampan-soak-") as name:
        folder = Path(name)
        with (
            mock_model(folder / "mock.log", latency_ms=20, seconds=int(seconds) + 600) as mock,
            sampan("Sampan", folder / "sampan", mock) as server,
        ):
            server = replace(server, bodies=BODIES)
            began = time.monotonic()
            while time.monotonic() - began < seconds or len(samples) < 6:
                mode = "streamed" if len(samples) % 2 else "whole"
                found = load(server, mode, concurrency=CONCURRENCY, requests=sessions)
                samples.append(
                    Sample(
                        minutes=(time.monotonic() - began) / 60,
                        turns=sessions * (len(samples) + 1),
                        mode=mode,
                        resident=resident_mib(server.pid),
                        threads=threads(server.pid),
                        files=open_files(server.pid),
                        p50_ms=found["p50_ms"],
                        cpu_ms=found["cpu_ms_per_req"],
                    )
                )
                print(samples[-1].line(), flush=True)
            return samples, int(mock.ask("_stats")["model_calls"])


def verdict(samples: Sequence[Sample], model_calls: int) -> list[Goal]:
    """What must hold: the first third of the time is for warming up, the last is compared with the one between."""
    third = len(samples) // 3
    before, after = samples[third : 2 * third], samples[-third:]
    resident = median(s.resident for s in after) / median(s.resident for s in before) - 1
    return [
        Goal("growth of memory", resident * 100, GROWTH_PERCENT, "%"),
        Goal("more threads", max(s.threads for s in after) - max(s.threads for s in before), 2),
        Goal("more open files", max(s.files for s in after) - max(s.files for s in before), 2 * CONCURRENCY),
        Goal("model calls that were not exactly one per turn", abs(model_calls - samples[-1].turns), 0),
    ]


if __name__ == "__main__":
    sys.exit(main())
