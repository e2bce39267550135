"""Runs one of the proofs as a command. They fork, so each has a process of its own, in which no other thread runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def prove(name: str, *arguments: str) -> str:
    """What the proof has to say; raises AssertionError where a promise was broken."""
    command = [sys.executable, "-m", f"tests.durability.{name}", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        try:
            said, _ = run.communicate()
        except BaseException:  # the test is over: so is what it started
            run.kill()
            raise
    assert run.returncode == 0, said
    return said
