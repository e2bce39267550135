"""`sampan batch` as a person at a shell has it: killed in the middle, and the same command again.

    python -m tests.durability.stopped_batch [--lines 10000] [--concurrency 8] [--lease 30]

Prints all that the shell shows, then what the results and the model's own count of its calls say. Ends with 1 where a
line was lost, answered twice or out of its place, or where more was paid twice than was in hand when it was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AGENTS = ROOT / "tests" / "projects" / "counting" / "agents"
FILE, RESULTS = "questions.jsonl", "questions.results.jsonl"


@dataclass(frozen=True)
class Shell:
    """A folder with a file of questions, in which the command is given."""

    folder: Path
    lines: int
    concurrency: int
    lease_seconds: float

    def calls(self) -> list[str]:
        """What the model was asked, one entry for each call that it answered."""
        path = self.folder / "calls.log"
        return path.read_text().splitlines() if path.exists() else []

    def batch(self, *, die_at: int = 0) -> int:
        """Give the command and show what it says; its exit code. It is killed as it makes its model call `die_at`."""
        options = ["--concurrency", str(self.concurrency)]
        print(f"$ sampan batch {FILE} {' '.join(options)}", flush=True)
        environment = {
            **os.environ,
            "CALLS": str(self.folder / "calls.log"),
            "DIE_AT": str(die_at),
            "SAMPAN_LEASE_SECONDS": str(self.lease_seconds),
            "SAMPAN_DATA": str(self.folder / "data"),
            "SAMPAN_AGENTS": str(AGENTS),
        }
        command = [sys.executable, "-m", "agent_core.cli", "batch", FILE, *options]
        done = subprocess.run(
            command, cwd=self.folder, env=environment, stderr=subprocess.STDOUT, check=False
        )
        if done.returncode < 0:
            print(f"({signal.Signals(-done.returncode).name})", flush=True)
        return done.returncode


def checked(shell: Shell, before: int) -> list[str]:
    """What is wrong in the end; `before` is how many calls were answered when the command was killed."""
    found = [json.loads(line) for line in (shell.folder / RESULTS).read_text().splitlines()]
    expected = [(place + 1, f"q{place}", "succeeded", f"WORD {place}") for place in range(shell.lines)]
    given = [(one["line"], one["id"], one["status"], (one["reply"] or {}).get("text")) for one in found]
    calls = Counter(shell.calls())
    again = calls.total() - len(calls)
    print(f"lines {shell.lines:,}, results {len(given):,}, in order and right: {given == expected}")
    print(f"runs {len({one['run_id'] for one in found}):,}, questions that the model answered {len(calls):,}")
    print(f"model calls {calls.total():,}: {before:,} before the kill, {again} of all were paid twice")
    wrong = []
    if given != expected:
        wrong.append("the results are not the lines' answers in order")
    if len({one["run_id"] for one in found}) != shell.lines:
        wrong.append("two lines share a run")
    if set(calls) != {f"word {place}" for place in range(shell.lines)}:
        wrong.append("the model was not asked what the lines say")
    if again > shell.concurrency:
        wrong.append(f"{again} calls were paid twice; {shell.concurrency} were in hand")
    if not 0 < before < shell.lines:
        wrong.append(f"it was not stopped in the middle: {before} calls before the kill")
    return wrong


def prove(shell: Shell) -> list[str]:
    """The whole story; what is wrong."""
    questions = (json.dumps({"id": f"q{place}", "message": f"word {place}"}) for place in range(shell.lines))
    (shell.folder / FILE).write_text("\n".join(questions) + "\n")
    if (code := shell.batch(die_at=shell.lines * 2 // 5)) != -signal.SIGKILL:
        return [f"it was not killed in the middle: it ended with {code}"]
    before = len(shell.calls())
    if (shell.folder / RESULTS).exists():
        return ["there are results, though it was killed"]
    if (code := shell.batch()) != 0:
        return [f"the second time it ended with {code}"]
    return checked(shell, before)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--lease", type=float, default=30.0, help="seconds of a session's lease")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        wrong = prove(Shell(Path(folder), given.lines, given.concurrency, given.lease))
    for words in wrong:
        print("-", words)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
