"""What a batch may still spend: lines are let in so that it goes over its cap by one line at the most."""

from __future__ import annotations

import asyncio

NANO = 1_000_000_000


class Purse:
    """Lets a line in while what was spent, and what those inside may cost, stays below the cap (USD; None for none).

    What a line may cost is taken to be what the dearest has cost so far; until one has, each goes alone.
    """

    def __init__(self, cap: float | None, spent: int) -> None:
        self._cap = None if cap is None else cap * NANO
        self._spent = spent
        self._dearest = 0
        self._inside = 0
        self._change = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether the cap is reached."""
        return self._cap is not None and self._spent >= self._cap

    async def enter(self) -> bool:
        """Wait until there is enough for one more line; False where there never will be."""
        while self._cap is not None and self._inside and not self.empty:
            if self._dearest and self._spent + (self._inside + 1) * self._dearest <= self._cap:
                break
            self._change.clear()
            await self._change.wait()
        if self.empty:
            return False
        self._inside += 1
        return True

    def spend(self, cost: int) -> None:
        """A line has cost so many nano-dollars."""
        self._spent += cost
        self._dearest = max(self._dearest, cost)

    def leave(self) -> None:
        """A line that was let in has come to its end."""
        self._inside -= 1
        self._change.set()
