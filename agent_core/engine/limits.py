"""What a run has used so far, and the limits it is held to before it may spend more."""

from __future__ import annotations

from collections.abc import Iterable

from agent_core.agent import Limits
from agent_core.clock import Clock
from agent_core.engine.runs import Step
from agent_core.engine.steps import DIGEST, SUMMARY
from agent_core.errors import LimitError
from agent_core.messages import Usage

NANO = 1_000_000_000


class Meter:
    """Counts the steps of one run. `cost` is in nano-dollars.

    `earlier` are the steps of earlier attempts. Only work counts as time: not what a run waits for a person, for its
    turn, or for a worker to take it up after a crash; and a clock that jumps changes nothing. They count from the
    start, whether this attempt has a use for them or not.
    """

    def __init__(self, limits: Limits, clock: Clock, earlier: Iterable[Step] = ()) -> None:
        self._limits = limits
        self._clock = clock
        self._began = clock.monotonic()
        earlier = tuple(earlier)
        self._left = limits.seconds - _worked(earlier)
        self._counted: set[int] = set()
        self.usage = Usage()
        self.cost = 0
        self.steps = 0
        self.summaries = 0
        self.tool_calls = 0
        self.models: dict[str, None] = {}
        self.unpriced: dict[str, None] = {}
        for step in earlier:
            if step.kind == "model" or step.result is not None:
                self.count(step)

    def count(self, step: Step) -> None:
        """Add a step that was done; one that was counted before adds nothing."""
        if step.number in self._counted:
            return
        self._counted.add(step.number)
        self.steps += 1
        self.summaries += step.series in (SUMMARY, DIGEST)
        if step.kind == "tool":
            self.tool_calls += 1
            return
        self.usage += step.usage
        self.models[step.name] = None
        if step.cost is None:
            self.unpriced[step.name] = None
        else:
            self.cost += step.cost

    @property
    def elapsed(self) -> float:
        """Seconds that this attempt has worked."""
        return self._clock.monotonic() - self._began

    @property
    def deadline(self) -> float:
        """When the run's time is over if it works on, in seconds since 1970."""
        return self._clock.now() + self._left - self.elapsed

    def check(self) -> None:
        """Raise LimitError where the next model call must not be made."""
        limits = self._limits
        if self.steps - self.summaries >= limits.steps:  # who works long is not to be stopped by tidying up
            raise LimitError(f"the run took {limits.steps} steps, its limit", limit="steps")
        if self.usage.total >= limits.tokens:
            raise LimitError(
                f"the run used {self.usage.total} tokens; its limit is {limits.tokens}", limit="tokens"
            )
        if self.elapsed >= self._left:
            raise LimitError(f"the run took longer than its limit of {limits.seconds:g} s", limit="seconds")
        if limits.usd is not None:
            if self.unpriced:
                names = ", ".join(self.unpriced)
                raise LimitError(
                    f"a limit of money is set, but the price of {names} is not known", limit="usd"
                )
            if self.cost >= limits.usd * NANO:
                raise LimitError(
                    f"the run cost {self.cost / NANO:.6f} USD; its limit is {limits.usd}", limit="usd"
                )

    def check_tool_calls(self, count: int) -> None:
        """Raise LimitError where these tool calls must not be made."""
        if self.tool_calls + count > self._limits.tool_calls:
            raise LimitError(
                f"the run wants its {self.tool_calls + count}th tool call; its limit is {self._limits.tool_calls}",
                limit="tool_calls",
            )


def _worked(steps: Iterable[Step]) -> float:
    """Seconds of work in these steps: of each attempt, as far as its last step."""
    attempts: dict[int, float] = {}
    for step in steps:
        attempts[step.fence] = max(attempts.get(step.fence, 0.0), step.elapsed)
    return sum(attempts.values())
