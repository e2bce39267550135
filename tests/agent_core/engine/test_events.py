"""A stream that was cut goes on anywhere, to the letter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent_core import Agent, Chunk, Message, Reply
from agent_core.app import App
from agent_core.engine.events import Piece, after, position, told
from agent_core.engine.runs import Inbound, Run, RunEvent, Step
from agent_core.messages import Principal, Prompt, Usage
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, test_app

ME = Principal()
WORDS = "".join(f"word{number} " for number in range(40))


class SlowModel:
    """Streams WORDS three letters at a time, a third of a second each, and calls `on_piece` at each."""

    name, tools, context_window = "scripted:slow", True, 100_000

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.said = 0
        self.meanwhile = None

    async def reply(self, prompt: Prompt) -> Reply:
        return Reply(message=Message.of("assistant", WORDS), usage=Usage(1, 0, 1))

    async def stream(self, prompt: Prompt) -> AsyncIterator[Chunk]:
        for start in range(0, len(WORDS), 3):
            self.clock.advance(0.34)
            self.said = start + 3
            yield Chunk(text=WORDS[start : start + 3])
            if self.meanwhile:
                await self.meanwhile()
        yield Chunk(reply=await self.reply(prompt))

    async def close(self) -> None:
        pass


def text(events: list[RunEvent]) -> str:
    return "".join(event.data["text"] for event in events if event.type == "text")


async def test_a_stream_goes_on_in_another_process_while_the_first_still_works() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    model = SlowModel(clock)
    first: App = test_app(Agent(name="assistant", model=model), store=store, clock=clock)
    second: App = test_app(Agent(name="assistant", model=model), store=store, clock=clock)
    stream = first.engine.stream(Inbound(messages=(Message.of("user", "Go"),)))
    seen = [await anext(stream) for _ in range(25)]
    run_id = seen[0].data["run_id"]
    await stream.aclose()
    rest: list[RunEvent] = []
    events = second.engine.events(ME, run_id, last=seen[-1].id)
    await first.engine.drain()
    rest = [event async for event in events]
    assert text(seen) + text(rest) == WORDS
    assert rest[-1].type == "reply"


async def test_every_cut_of_a_stream_goes_on_to_the_letter_here_and_elsewhere() -> None:
    clock = ManualClock()
    store = MemoryStore(clock)
    app = test_app(Agent(name="assistant", model=SlowModel(clock)), store=store, clock=clock)
    other = test_app(Agent(name="assistant", model=SlowModel(clock)), store=store, clock=clock)
    events = [e async for e in app.engine.stream(Inbound(messages=(Message.of("user", "Go"),)))]
    for cut in range(1, len(events)):
        rest = [e async for e in other.engine.events(ME, events[0].data["run_id"], last=events[cut - 1].id)]
        assert text(events[:cut]) + text(rest) == WORDS
    assert [e async for e in other.engine.events(ME, events[0].data["run_id"], last="end")] == []


def run() -> Run:
    return Run(id="r", session_id="s", agent="a", principal=ME, status="running", created_at=0)


@given(st.text(min_size=1), st.lists(st.integers(0, 50)), st.integers(0, 60))
def test_pieces_however_cut_give_the_rest_of_what_was_seen(whole: str, cuts: list[int], seen: int) -> None:
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    pieces = [Piece(step=1, fence=2, at=a, text=whole[a:b]) for a, b in pairwise(places)]
    seen = min(seen, len(whole))
    assert text(list(after(told(run(), (), pieces), f"1.2.{seen}"))) == whole[seen:]


def test_a_step_that_was_done_again_is_told_anew_after_a_restart() -> None:
    reply = Reply(message=Message.of("assistant", "other words"), usage=Usage())
    step = Step(number=1, kind="model", name="m", reply=reply, fence=3)
    rest = list(after(told(run(), (step,), []), "1.2.5"))
    assert [(event.type, event.data) for event in rest] == [
        ("restart", {"step": 1}),
        ("text", {"text": "other words"}),
    ]


@given(st.text())
def test_an_id_that_is_none_of_ours_is_taken_for_the_beginning_or_a_place(junk: str) -> None:
    assert len(position(junk)) == 3
