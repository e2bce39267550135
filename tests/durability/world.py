"""What outlives a process: a folder with the store's file, a clock that can be moved, and logs of what was done."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_core.clock import SystemClock, sortable_id

LEASE_SECONDS = 30.0
LONGEST_POLL = 2.0


class World:
    """A folder. Processes come and go in it; what they logged was on the disk before they went on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "sampan.db"
        self.queue = folder / "queue.db"

    def log(self, name: str, **entry: Any) -> None:
        """Add a line to a log: one write to a file opened for appending, so that processes do not mix their lines."""
        line = json.dumps(entry).encode() + b"\n"
        file = os.open(self.folder / f"{name}.jsonl", os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The lines of a log."""
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def jump(self, seconds: float, *, passes: bool = True) -> None:
        """Move the clock of all processes, those that run too; the wall clock alone where no time `passes`."""
        clock = WorldClock(self)
        ahead, passed = clock.ahead + seconds, clock.passed + (seconds if passes else 0.0)
        (self.folder / "clock.new").write_text(f"{ahead} {passed}")
        os.replace(self.folder / "clock.new", self.folder / "clock")


class WorldClock(SystemClock):
    """The machine's clock, moved by as much as the world says."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._path = str(world.folder / "clock")
        self._stamp = (0, 0)
        self._ahead = self._passed = 0.0
        self._counted = 0

    @property
    def ahead(self) -> float:
        """Seconds before the machine's own clock."""
        self._look()
        return self._ahead

    @property
    def passed(self) -> float:
        """Seconds that passed in this world alone."""
        self._look()
        return self._passed

    def _look(self) -> None:
        try:
            stamp = os.stat(self._path)
        except FileNotFoundError:
            return
        if (stamp.st_ino, stamp.st_mtime_ns) != self._stamp:  # each jump replaces the file
            self._stamp = (stamp.st_ino, stamp.st_mtime_ns)
            self._ahead, self._passed = map(float, Path(self._path).read_text().split())

    def monotonic(self) -> float:
        """Seconds that never run backwards, in this world."""
        return super().monotonic() + self.passed

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC, as far as this world knows."""
        return super().now() + self.ahead

    async def sleep(self, seconds: float) -> None:
        """Pauses between looks at the store pass at once, by moving the clock; all else takes its time."""
        if seconds > LONGEST_POLL:
            await super().sleep(seconds)
        else:
            await super().sleep(0.001)
            self._world.jump(seconds)

    def new_id(self) -> str:
        """26 characters that sort by time of making, in this world, and don't repeat."""
        self._counted += 1
        noise = os.getpid() << 40 | self._counted
        return sortable_id(int(self.now() * 1000), noise)


@contextlib.contextmanager
def new_world() -> Iterator[World]:
    """A world of its own, in memory where the system has a disk there: a killed process loses nothing of it."""
    home = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="sampan-world-", dir=home))
    try:
        yield World(folder)
    finally:
        shutil.rmtree(folder)
