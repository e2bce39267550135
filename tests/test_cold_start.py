"""What a cold start costs, above a bare interpreter on the same machine in the same minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROUNDS = 5
CPU_SECONDS = 0.350
RESIDENT_BYTES = 60 * 1024 * 1024

BUILD = """
from agent_core import Agent
from agent_core.api.asgi import build
from agent_core.app import build_app
from agent_core.settings import Settings
agent = Agent(name="a", instructions="b", model="openai:c")
app = build_app(Settings(data=".", model_api_key="k"), agents=[agent])
build(app.engine, app.settings, clock=app.clock)
"""
REPORT = """
import json, os, resource, time
cpu = time.process_time()
resident = 0
if os.path.exists("/proc/self/statm"):
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * resource.getpagesize()
print(json.dumps([cpu, resident]))
"""


class Cost(NamedTuple):
    cpu: float
    resident: int


def cost(code: str, folder: Path) -> Cost:
    # Compiled files must be written: without them each start compiles anew, which no deployment does.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code + REPORT]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return Cost(*json.loads(result.stdout))


@pytest.mark.measured
def test_building_the_app_is_cheap(tmp_path: Path) -> None:
    """Interleaved rounds, the best of each: load of the machine only ever adds."""
    cost(BUILD, tmp_path)  # compiles
    rounds = [(cost("", tmp_path), cost(BUILD, tmp_path)) for _ in range(ROUNDS)]
    bare = min(first.cpu for first, _ in rounds)
    built = min(second.cpu for _, second in rounds)
    assert built - bare <= CPU_SECONDS, f"{(built - bare) * 1000:.0f} ms of CPU"
    assert min(second.resident for _, second in rounds) <= RESIDENT_BYTES
