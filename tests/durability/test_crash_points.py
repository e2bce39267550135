"""Every boundary of the engine, every time it is passed: killed there, nothing is lost and nothing is done twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = ("plain",)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_crash_at_any_boundary_loses_nothing_and_doubles_nothing(scenario: str) -> None:
    command = [sys.executable, "-m", "tests.durability.crash_points", "--scenario", scenario]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
