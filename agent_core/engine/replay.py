"""Replay: a stored run again, from its journal, with no model and no tool called.

What the agent would send to its model today is compared with what it sent when the recording was made: so a recording
is a regression test of prompts, tools and plugins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from difflib import unified_diff
from typing import Any

import msgspec

from agent_core.blobs.base import Blobs
from agent_core.costs.pricing import Prices
from agent_core.engine import keys
from agent_core.engine.attempt import Attempt, Parked
from agent_core.engine.bound import Bound
from agent_core.engine.feed import Feed
from agent_core.engine.journal import Journal
from agent_core.engine.lease import Lease
from agent_core.engine.limits import Meter
from agent_core.engine.loop import perform
from agent_core.engine.reading import read_run
from agent_core.engine.runs import Inbound, Run, Step
from agent_core.engine.steps import MODEL, SUMMARY
from agent_core.engine.switches import Switches
from agent_core.errors import AgentError, ConflictError
from agent_core.messages import (
    Chunk,
    Effects,
    Message,
    Prompt,
    Reply,
    ToolCall,
    ToolResult,
    ToolSpec,
    Turn,
    from_record,
)
from agent_core.store.base import Key, Store
from agent_core.store.memory import MemoryStore
from agent_core.tools.base import Tool

OnStep = Callable[[Step, dict[str, Any] | None], None]


class Recording(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run with all that it needs to be run again. `prompts` are what was sent to the model, step by step."""

    run: Run
    history: tuple[Message, ...]
    messages: tuple[Message, ...]
    steps: tuple[Step, ...]
    prompts: tuple[dict[str, Any], ...] = ()


class Different(msgspec.Struct, frozen=True):
    """Where a replay went another way than the recording: the step, the place in it, both sides."""

    step: int
    place: str
    recorded: Any
    now: Any


async def record(store: Store, tenant: str, run_id: str, history: int) -> Recording:
    """The recording of a run that has ended, without its prompts: `replay` makes them.

    Raises NotFoundError, or ConflictError for a run that has not ended.
    """
    run, steps = await read_run(store, tenant, run_id)
    if not run.done:
        raise ConflictError(f"run {run_id} is {run.status}; only a run that has ended can be replayed")
    partition = keys.session(run.principal, run.session_id)
    page = await store.query(partition, keys.MESSAGE, limit=1000, reverse=True)
    messages = [from_record(Message, stored.fields) for stored in reversed(page.records)]
    own = [message for message in messages if message.run_id == run_id]
    first = min((message.seq for message in own), default=0)
    asked = [message for message in own if message.role == "user"]
    before = [message for message in messages if message.seq < first]
    return Recording(run=run, history=tuple(before[-history:]), messages=tuple(asked), steps=steps)


async def replay(
    recording: Recording, bound: Bound, blobs: Blobs, on_step: OnStep | None = None
) -> tuple[tuple[dict[str, Any], ...], list[Different]]:
    """Run it again; gives the prompts of today, and where they or the calls differ from the recording's."""
    model = _Model(_calls(recording, MODEL), on_step)
    toolbox = _Toolbox(recording, bound, on_step)
    again = replace(bound, model=model, toolbox=toolbox)  # type: ignore[arg-type]  # it has the part that is used
    summaries = _calls(recording, SUMMARY)
    again = (
        replace(again, summarizer=_Model(summaries, None)) if summaries else replace(again, compaction=None)
    )
    clock = _Clock(recording.run.finished_at)
    run = msgspec.structs.replace(recording.run, reply=None, failure=None, cancelling=0, switched=0)
    lease = Lease(clock, Key("replay", "state"), 1e9)
    store = MemoryStore(clock)
    switches = Switches(store, clock)
    journal = _Journal(store, clock, run, lease, 0.0, switches)
    journal.numbers = {(step.series, step.place): step.number for step in recording.steps if step.series}
    attempt = Attempt(
        run=run,
        inbound=Inbound(messages=recording.messages, principal=run.principal, agent=run.agent),
        bound=again,
        history=recording.history,
        journal=journal,
        feed=Feed(),
        clock=clock,
        blobs=blobs,
        prices=Prices(),
        meter=Meter(bound.limits, clock),
        switches=switches,
    )
    ended = ""
    try:
        await perform(attempt)
    except Parked:
        ended = "waits for a person"
    except AgentError as error:
        ended = f"fails: {error.detail}"
    was = "" if recording.run.failure is None else f"fails: {recording.run.failure.detail}"
    found = [*toolbox.differences, *_compared(recording, tuple(model.prompts))]
    if ended != was:
        found.append(Different(attempt.number, "end", was or "answers", ended or "answers"))
    return tuple(model.prompts), found


def _calls(recording: Recording, series: str) -> list[Step]:
    """The model calls of this series that the run went by, in order; what was refused was made anew at its place.

    An older Sampan's recordings don't tell summaries from the agent's own calls.
    """
    found: dict[int, Step] = {}
    for step in sorted(recording.steps, key=lambda step: step.number):
        if step.kind == "model" and (step.series or MODEL) == series:
            found[step.place if step.series else step.number] = step
    return list(found.values())


def _compared(recording: Recording, now: tuple[dict[str, Any], ...]) -> list[Different]:
    recorded = recording.prompts
    if not recorded:
        return []
    numbers = [step.number for step in _calls(recording, MODEL)]
    found = []
    for number, old, new in zip(numbers, recorded, now, strict=False):
        found += [
            Different(number, place, old[place], new[place]) for place in old if old[place] != new[place]
        ]
    if len(recorded) != len(now):
        last = numbers[min(len(recorded), len(now), len(numbers)) - 1] if numbers else 0
        found.append(Different(last, "model calls", len(recorded), len(now)))
    return found


def describe(found: Different) -> str:
    """A difference for people: where it is, and which lines went and came."""
    old, new = (_lines(side) for side in (found.recorded, found.now))
    changed = [
        line for line in unified_diff(old, new, n=0, lineterm="") if not line.startswith(("---", "+++", "@@"))
    ]
    return "\n".join([f"step {found.step}, {found.place}:", *(f"  {line}" for line in changed)])


def _lines(side: Any) -> list[str]:
    if isinstance(side, str):
        return side.splitlines()
    return msgspec.json.format(msgspec.json.encode(side), indent=1).decode().splitlines()


def shown(prompt: Prompt) -> dict[str, Any]:
    """What of a prompt the model reads, as plain JSON: no ids, no times."""
    fields = {
        "system": prompt.system,
        "messages": [
            {
                "role": message.role,
                "parts": msgspec.to_builtins(message.parts),
                "tool_calls": [[call.name, call.arguments] for call in message.tool_calls],
                "tool_results": [[result.name, result.content] for result in message.tool_results],
            }
            for message in prompt.messages
        ],
        "tools": msgspec.to_builtins(prompt.tools),
        "output_schema": prompt.output_schema,
        "max_tokens": prompt.max_tokens,
        "temperature": prompt.temperature,
    }
    return msgspec.json.decode(msgspec.json.encode(fields), type=dict[str, Any])


class _Model:
    """Gives the journal's replies in order and keeps the prompts."""

    def __init__(self, steps: list[Step], on_step: OnStep | None) -> None:
        self._steps = steps
        self._on_step = on_step
        self.prompts: list[dict[str, Any]] = []
        self.name = self._steps[0].name if self._steps else "replay"
        self.tools = True
        self.context_window = 1_000_000

    async def reply(self, prompt: Prompt) -> Reply:
        self.prompts.append(shown(prompt))
        if len(self.prompts) > len(self._steps):
            raise ConflictError("the journal has no further model call: the agent wants more of them now")
        step = self._steps[len(self.prompts) - 1]
        if self._on_step:
            self._on_step(step, self.prompts[-1])
        assert step.reply is not None  # a model's step is stored with its reply
        return step.reply

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        yield Chunk(reply=await self.reply(prompt))

    async def close(self) -> None:
        pass


class _Toolbox:
    """Gives the journal's results; schemas, effects and groups are those of the agent's own toolbox."""

    def __init__(self, recording: Recording, bound: Bound, on_step: OnStep | None) -> None:
        self._real = bound.toolbox
        self._steps = {step.number: step for step in recording.steps if step.kind == "tool"}
        self._on_step = on_step
        self.differences: list[Different] = []

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return self._real.specs

    def get(self, name: str) -> Tool | None:
        return self._real.get(name)

    def groups(self, calls: list[ToolCall]) -> list[list[ToolCall]]:
        return self._real.groups(calls)

    def effects_of(self, name: str) -> Effects:
        return self._real.effects_of(name)

    def refuses(self, call: ToolCall) -> bool:
        return self._real.refuses(call)

    def shown(self, call: ToolCall) -> str:
        return self._real.shown(call)

    async def call(self, call: ToolCall, turn: Turn) -> ToolResult:
        step = self._steps.get(turn.step)
        if step is None or step.result is None:
            raise ConflictError(f"the journal has no result of {call.name} at step {turn.step}")
        if step.call is not None and (step.call.name, step.call.arguments) != (call.name, call.arguments):
            before = f"{step.call.name}({step.call.arguments})"
            self.differences.append(Different(turn.step, "call", before, f"{call.name}({call.arguments})"))
        if self._on_step:
            self._on_step(step, None)
        return step.result

    async def lookup(self, call: ToolCall, turn: Turn) -> ToolResult | None:
        return None


class _Journal(Journal):
    """Keeps nothing: a replay changes nothing. Its steps have the numbers that they have in the recording."""

    numbers: dict[tuple[str, int], int]

    def take_number(self, after: int, series: str, place: int) -> int:
        return self.numbers.get((series, place)) or super().take_number(after, series, place)

    async def save(self) -> None:
        self.unsaved.clear()
        self.notes.clear()

    async def hold(self) -> None:
        pass


class _Clock:
    """Stands still at the end of the run."""

    def __init__(self, at: float) -> None:
        self._at = at

    def now(self) -> float:
        return self._at

    def monotonic(self) -> float:
        return 0.0

    @property
    def timeline(self) -> str:
        return ""

    def random(self) -> float:
        return 0.5

    def new_id(self) -> str:
        return "0" * 26

    async def sleep(self, seconds: float) -> None:
        pass
