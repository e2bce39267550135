"""What one request waits for and how long: shared by the adapters, so that their timeouts mean the same."""

from __future__ import annotations

from agent_core.errors import StalledError
from agent_core.wire.base import Timeouts

_WORDS = {
    "connect": "no connection within {seconds:g} s",
    "first_byte": "no answer began within {seconds:g} s",
    "between_chunks": "the answer paused for more than {seconds:g} s",
    "total": "the answer took more than {seconds:g} s in all",
}


TICK = 0.001
"""Seconds that a timer may fire early."""


class Waits:
    """The deadlines of one request on its loop's clock, and how far its answer has come.

    `received` counts the bytes that came, `ended` says that the peer closed its side, `answered` that the head of the
    answer is there. `began` is set when the first piece of the body is there; until then a wait counts against
    `first_byte`, after it against `between_chunks`.
    """

    __slots__ = ("_first", "_total", "answered", "began", "ended", "host", "received", "timeouts")

    def __init__(self, timeouts: Timeouts, host: str, now: float) -> None:
        self.timeouts = timeouts
        self.host = host
        self.received = 0
        self.ended = False
        self.answered = False
        self.began = False
        self._total = now + timeouts.total
        self._first = 0.0

    def connecting(self, now: float) -> float:
        """When a wait for the connection that starts now must end."""
        return min(now + self.timeouts.connect, self._total)

    def reading(self, now: float) -> float:
        """When a wait for bytes that starts now must end."""
        if self.began:
            return min(now + self.timeouts.between_chunks, self._total)
        if not self._first:
            self._first = now + self.timeouts.first_byte
        return min(self._first, self._total)

    def stalled(self, now: float, *, connecting: bool = False) -> StalledError:
        """The error of a wait that ended now without what it waited for."""
        if now >= self._total - TICK:
            name = "total"
        elif connecting:
            name = "connect"
        else:
            name = "between_chunks" if self.began else "first_byte"
        words = _WORDS[name].format(seconds=getattr(self.timeouts, name))
        return StalledError(f"{self.host}: {words}", timeout=name)
