"""The only source of time, chance and ids, so that a test can hold all three still."""

from __future__ import annotations

import asyncio
import os
import random
import time
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


class SystemClock:
    """The machine's own clock."""

    def __init__(self) -> None:
        self._last = (0, 0)

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def random(self) -> float:
        """A number in [0, 1), for jitter."""
        return random.random()

    def new_id(self) -> str:
        """26 characters that sort by time of making and don't repeat."""
        milliseconds = time.time_ns() // 1_000_000
        last, noise = self._last
        if milliseconds <= last:  # same millisecond, or a clock set back: go on counting, so that order holds
            # By steps of chance: another thread, or a child forked just now, may count from the same number.
            milliseconds, noise = last, noise + 1 + int.from_bytes(os.urandom(5))
        else:
            # os.urandom, not random: it stays different in processes restored from one snapshot.
            noise = int.from_bytes(os.urandom(9))  # 8 bits short of full, so that counting can't overflow
        self._last = (milliseconds, noise)
        return sortable_id(milliseconds, noise)

    async def sleep(self, seconds: float) -> None:
        """Wait without blocking others."""
        await asyncio.sleep(seconds)
