"""A text while it streams, stored now and then, so that a client can go on reading it from another process."""

from __future__ import annotations

from agent_core.clock import Clock
from agent_core.engine.journal import Journal

SECONDS = 1.0
"""How often a streaming text is stored; one that is over sooner costs no write of its own."""


class Pieces:
    """Gathers the pieces of one step's text and stores them together, once a second."""

    def __init__(self, journal: Journal, clock: Clock, step: int, fence: int) -> None:
        self._journal = journal
        self._clock = clock
        self._step = step
        self._fence = fence
        self._unsaved: list[str] = []
        self._saved = 0
        self._saved_at = clock.monotonic()
        self.length = 0

    def add(self, text: str) -> int:
        """Take a piece; returns how many characters there are now."""
        self._unsaved.append(text)
        self.length += len(text)
        return self.length

    async def save_now_and_then(self) -> None:
        """Store what has come since the last time, if that was a while ago."""
        now = self._clock.monotonic()
        if now - self._saved_at < SECONDS:
            return
        text, at = "".join(self._unsaved), self._saved
        self._unsaved.clear()
        self._saved, self._saved_at = self.length, now
        await self._journal.save_piece(self._step, self._fence, at, text)
