"""The events of a run as any process can tell them: from its journal, from wherever a client left off.

An event's id says where in the run it ends: `<step>.<fence>.<place>`. The place is how many characters of the
step's text have been told with it, or `c`, `r`, `w` for a tool's call, its result, and waiting for a person; `end`
is the last. So a client that was cut off in the middle of a text gets the rest of it to the letter, from whichever
process it reaches. The fence tells attempts apart: where a worker died while a model spoke, its step is done again
and may say something else; the client is told to `restart` that step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from agent_core.engine.runs import Run, RunEvent, Step

END = "end"
START = "0.0.0"

_RANK = {"c": 1 << 60, "r": (1 << 60) + 1, "w": (1 << 60) + 2}


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A stored piece of a text that is still streaming: `at` is how many characters of the step came before it."""

    step: int
    fence: int
    at: int
    text: str


def event_id(step: int, fence: int, place: int | str) -> str:
    """The id of an event that ends at this place of this attempt's step."""
    return f"{step}.{fence}.{place}"


def position(event: str) -> tuple[int, int, int]:
    """An id as numbers that sort: step, fence, place. An id that is none of ours is the beginning."""
    if event == END:
        return (1 << 60, 0, 0)
    parts = event.split(".")
    try:
        step, fence = int(parts[0]), int(parts[1])
        return step, fence, _RANK[parts[2]] if parts[2] in _RANK else int(parts[2])
    except (ValueError, IndexError):
        return (0, 0, 0)


def told(run: Run, steps: Iterable[Step], pieces: Iterable[Piece]) -> list[RunEvent]:
    """All events of a run that the store knows of, in order."""
    events = [started(run)]
    done = sorted(steps, key=lambda step: step.number)
    for step in done:
        events += _step_events(step)
    if done and done[-1].withheld and run.reply is not None and run.reply.text:
        # Plugins have seen it now.
        text = run.reply.text
        events.append(text_event(done[-1].number, done[-1].fence, len(text), text))
    last = done[-1].number if done else 0
    newest = max((piece.fence for piece in pieces if piece.step > last), default=0)
    open_pieces = [piece for piece in pieces if piece.step > last and piece.fence == newest]
    for piece in sorted(open_pieces, key=lambda piece: piece.at):
        events.append(text_event(piece.step, piece.fence, piece.at + len(piece.text), piece.text))
    ending = ended(run, last)
    return [*events, ending] if ending else events


def retold(run: Run) -> list[RunEvent]:
    """The events of a run that was over before somebody asked: its beginning, its reply's text, its end."""
    events = [started(run)]
    if run.reply is not None and run.reply.text:
        events.append(text_event(run.steps, 0, len(run.reply.text), run.reply.text))
    ending = ended(run, run.steps)
    return [*events, ending] if ending else events


def started(run: Run) -> RunEvent:
    """The first event of a run."""
    fields = {"run_id": run.id, "session_id": run.session_id, "agent": run.agent, "replayed": run.replayed}
    return RunEvent(START, "run", fields)


def ended(run: Run, last_step: int) -> RunEvent | None:
    """The event that ends a stream: the run is over, or waits for a person."""
    if run.status == "waiting":
        return RunEvent(event_id(last_step, 0, "w"), "waiting", run)
    if not run.done:
        return None
    return RunEvent(END, "reply" if run.status == "succeeded" else "error", run)


def text_event(step: int, fence: int, end: int, text: str) -> RunEvent:
    """A piece of a step's text that ends at this character."""
    return RunEvent(event_id(step, fence, end), "text", {"text": text})


def call_event(step: int, fence: int, call: dict[str, Any]) -> RunEvent:
    """A tool is called."""
    return RunEvent(event_id(step, fence, "c"), "tool_call", call)


def result_event(step: int, fence: int, result: dict[str, Any]) -> RunEvent:
    """A tool gave back."""
    return RunEvent(event_id(step, fence, "r"), "tool_result", result)


def _step_events(step: Step) -> Iterator[RunEvent]:
    shown = step.series in ("model", "") and not step.refused and not step.withheld
    if shown and step.reply is not None and step.reply.message.text:
        text = step.reply.message.text
        yield text_event(step.number, step.fence, len(text), text)
    if step.call is not None and step.result is not None:
        yield call_event(step.number, step.fence, msgspec.to_builtins(step.call))
        yield result_event(step.number, step.fence, msgspec.to_builtins(step.result))


def after(events: Iterable[RunEvent], last: str) -> Iterator[RunEvent]:
    """The events that a client which saw `last` has still to be told; a text that it saw a part of is cut to the rest.

    Where the step it was in was done again by another attempt, a `restart` event comes first.
    """
    if not last:
        yield from events
        return
    step, fence, place = position(last)
    restarted = False
    for event in events:
        at = position(event.id)
        if at[0] < step:
            continue
        if at[0] == step and at[1] != fence and event.type == "text" and not restarted:
            restarted = True
            yield RunEvent(event_id(step, at[1], 0), "restart", {"step": step})
        if at[0] == step and at[1] == fence and at[2] <= place:
            continue
        if event.type == "text" and at[0] == step and at[1] == fence:
            text = event.data["text"] if isinstance(event.data, dict) else ""
            rest = text[len(text) - (at[2] - place) :] if at[2] - place < len(text) else text
            event = RunEvent(event.id, "text", {"text": rest})
        yield event
