"""The only source of time, chance and ids, so that a test can hold all three still."""

from __future__ import annotations

import asyncio
import os
import random
import time
from functools import cache
from pathlib import Path
from typing import Protocol

# Crockford's base 32: no I, L, O, U, so that an id can be read aloud. https://www.crockford.com/base32.html
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)


class Clock(Protocol):
    """What the rest of Sampan knows of time."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean something."""

    @property
    def timeline(self) -> str:
        """Names what `monotonic` counts from: where two clocks say the same name, their seconds may be compared.

        Empty where nobody can tell.
        """

    def random(self) -> float:
        """A number in [0, 1), for jitter."""

    def new_id(self) -> str:
        """26 characters that sort by time of making and don't repeat."""

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking others."""


def sortable_id(milliseconds: int, noise: int) -> str:
    """48 bits of time and 80 bits of noise as 26 base-32 characters (the layout of a ULID)."""
    value = (milliseconds << 80) | noise
    # Two characters at a time: a turn makes half a dozen ids.
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])


class SystemNoise:
    """Randomness of the system, 9 bytes for each id, fetched for many ids at once.

    Asking for it lets another thread in, which may then hold us up: six times in a turn. What was fetched is not used
    in a fork, nor after a second, so that processes restored from one snapshot do not share it.
    """

    def __init__(self) -> None:
        self._fetched: list[bytes] = []
        self._pid = 0
        self._until = 0

    def take(self, milliseconds: int) -> bytes:
        """Nine bytes that nobody else gets; `milliseconds` is the time now."""
        if not 0 <= self._until - milliseconds <= 1000 or self._pid != os.getpid():
            self._fetched = []
            self._pid, self._until = os.getpid(), milliseconds + 1000
        try:
            return self._fetched.pop()  # in one step, whatever other threads do
        except IndexError:
            many = os.urandom(9 * 64)
            fetched = [many[start : start + 9] for start in range(0, len(many), 9)]
            mine = fetched.pop()
            self._fetched = fetched
            return mine


@cache
def _boot() -> str:
    """This boot of the machine, whose monotonic clock all its processes share; empty where the system does not say.

    Containers share it too, unless they have a clock of their own, which the namespace of time tells.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # no Linux
    try:
        return f"{boot}/{os.stat('/proc/self/ns/time').st_ino}"
    except OSError:
        return boot  # a kernel without such namespaces


class SystemClock:
    """The machine's own clock.

    `alone` says that what looks like the same machine may be another one, as copies of a snapshot do (AWS Lambda).
    """

    def __init__(self, *, alone: bool = False) -> None:
        self._last = (0, 0)
        self._noise = SystemNoise()
        self._alone = alone

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    @property
    def timeline(self) -> str:
        """The boot of this machine: its processes share one monotonic clock."""
        return "" if self._alone else _boot()

    def random(self) -> float:
        """A number in [0, 1), for jitter."""
        return random.random()

    def new_id(self) -> str:
        """26 characters that sort by time of making and don't repeat."""
        milliseconds = time.time_ns() // 1_000_000
        fresh = self._noise.take(milliseconds)
        last, noise = self._last
        if milliseconds <= last:  # same millisecond, or a clock set back: go on counting, so that order holds
            # By steps of chance: another thread, or a child forked just now, may count from the same number.
            milliseconds, noise = last, noise + 1 + int.from_bytes(fresh[:5])
        else:
            noise = int.from_bytes(fresh)  # 8 bits short of full, so that counting can't overflow
        self._last = (milliseconds, noise)
        return sortable_id(milliseconds, noise)

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking others."""
        await asyncio.sleep(seconds)
