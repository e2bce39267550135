"""How long steps take, so that none is begun that a platform's deadline would cut off."""

from __future__ import annotations

UNKNOWN_SECONDS = 3.0
"""What is allowed for a step of which nobody knows anything yet."""

FADES = 0.9
"""What is left of a long step's memory after each later one: a single slow call must not count for ever."""


class Paces:
    """The longest of the latest steps of this process, by kind and name."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], float] = {}

    def took(self, kind: str, name: str, seconds: float) -> None:
        """Remember a step that was done."""
        before = self._seconds.get((kind, name), 0.0)
        self._seconds[(kind, name)] = max(seconds, before * FADES)

    def expected(self, kind: str, name: str) -> float:
        """Seconds that a step may take, by what was seen."""
        return self._seconds.get((kind, name), UNKNOWN_SECONDS)
