"""How far a batch is, in words: for programs and logs a line now and then, for people beside the bar."""

from __future__ import annotations

from typing import Protocol

from agent_core.api.batch_schemas import BatchView
from agent_core.cli.screen import say

PLAIN_SECONDS = 5.0
"""How often a line says how far it is, where no person reads along."""


class Screen(Protocol):
    """Shows how far a batch is."""

    def show(self, shown: BatchView, at: float) -> None:
        """How far it is, at a time."""

    def end(self, shown: BatchView) -> None:
        """How it ended."""


class PlainProgress:
    """A line now and then."""

    def __init__(self) -> None:
        self._pace = Pace()
        self._next = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, shown: BatchView, at: float) -> None:
        """See Screen."""
        self._pace.note(shown, at)
        if at >= self._next:
            self._next = at + PLAIN_SECONDS
            say(f"{shown.lines.done:,}/{shown.lines.total:,} lines · {self._pace.words(shown)}")

    def end(self, shown: BatchView) -> None:
        """See Screen."""
        say(summary(shown))


class Pace:
    """How fast a batch goes, as seen from here: its last half minute counts, not what was done before a stop."""

    SECONDS = 30.0

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def note(self, shown: BatchView, at: float) -> None:
        """Look at the clock."""
        self._seen.append((at, shown.lines.done))
        while self._seen[0][0] < at - self.SECONDS:
            self._seen.pop(0)

    @property
    def rate(self) -> float:
        """Lines per second."""
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return max(0.0, after - before) / (end - start) if end > start else 0.0

    def words(self, shown: BatchView) -> str:
        """Rate, time to go, cost so far, failures."""
        rate = self.rate
        left = shown.lines.total - shown.lines.done - shown.lines.skipped
        parts = [f"{rate:,.0f}/s", f"ETA {_clock(left / rate) if rate else '-'}", _money(shown)]
        if shown.lines.failed:
            parts.append(f"{shown.lines.failed:,} failed")
        return " · ".join(parts)


def summary(shown: BatchView) -> str:
    """How a batch ended, in a line."""
    lines = shown.lines
    parts = [f"{shown.status}: {lines.done:,} of {lines.total:,} lines"]
    parts += [f"{lines.failed:,} failed"] if lines.failed else []
    parts += [f"{lines.skipped:,} not begun"] if lines.skipped else []
    parts += [f"{shown.usage.input:,} tokens in, {shown.usage.output:,} out", _money(shown)]
    return " · ".join(parts)


def _money(shown: BatchView) -> str:
    return f"${shown.cost.usd}" + ("" if shown.cost.known else " + what has no known price")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
