"""A text while it streams, stored now and then, so that a client can go on reading it from another process."""

from __future__ import annotations

import logging

from agent_core.clock import Clock
from agent_core.engine.journal import Journal
from agent_core.errors import LeaseLostError, StoreError

log = logging.getLogger("sampan.engine")

SECONDS = 1.0
"""How often a streaming text is stored; one that is over sooner costs no write of its own."""

PIECE = 64_000
"""Characters that are stored at once: more may gather while the store is down."""


class Pieces:
    """Gathers the pieces of one step's text and stores them together, once a second."""

    def __init__(self, journal: Journal, clock: Clock, step: int, fence: int) -> None:
        self._journal = journal
        self._clock = clock
        self._step = step
        self._fence = fence
        self._unsaved = ""
        self._saved = 0
        self._tried_at = clock.monotonic()
        self.length = 0

    def add(self, text: str) -> int:
        """Take a piece; returns how many characters there are now."""
        self._unsaved += text
        self.length += len(text)
        return self.length

    async def save_now_and_then(self) -> None:
        """Store what has come since the last time, if that was a while ago.

        It is for readers in other processes; where it fails, they get it with the next piece. The model, which costs
        something, goes on. Raises LeaseLostError.
        """
        now = self._clock.monotonic()
        if now - self._tried_at < SECONDS:
            return
        self._tried_at = now
        text = self._unsaved[:PIECE]
        try:
            await self._journal.save_piece(self._step, self._fence, self._saved, text)
        except LeaseLostError:
            raise
        except StoreError as error:
            log.warning("step=<%d> | a piece of its text is not stored yet: %s", self._step, error)
            return
        self._unsaved = self._unsaved[len(text) :]
        self._saved += len(text)
