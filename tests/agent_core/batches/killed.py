"""Submits a batch and is killed at a point. Arguments: the provider's port, its name, a folder, the point."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from agent_core.engine import points
from tests.agent_core.batches.providers import World


def main(port: str, name: str, folder: str, place: str) -> None:
    """Live until the point."""
    world = World(int(port), name, Path(folder), store="sqlite")

    def kill(passed: str) -> None:
        if passed == place:
            os.kill(os.getpid(), signal.SIGKILL)

    points.watch(kill)
    asyncio.run(world.submitted("one", "two"))


if __name__ == "__main__":
    main(*sys.argv[1:])
