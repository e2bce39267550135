"""A message is accepted, answered, stored and priced, in three round trips."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from agent_core import Agent, tool
from agent_core.agent import Limits
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.events import position
from agent_core.engine.runs import Delivery, Inbound, Run
from agent_core.errors import (
    KeyReusedError,
    ModelBusyError,
    NotFoundError,
    RunningError,
    SessionBusyError,
)
from agent_core.messages import Message, Principal, Reply, ToolCall, Usage
from agent_core.store.base import Key, Put
from agent_core.store.memory import MemoryStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import CountingStore, ManualClock, ScriptedModel, test_app

ME = Principal()


def said(text: str, **fields: object) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), **fields)


def calls(*named: tuple[str, str]) -> Reply:
    made = tuple(ToolCall(f"c{place}", name, arguments) for place, (name, arguments) in enumerate(named, 1))
    return Reply(
        message=Message(role="assistant", tool_calls=made),
        finish="tool_calls",
        usage=Usage(input=10, output=5),
    )


class House:
    """An app on a counted memory store, with one agent that follows a script."""

    def __init__(self, *script: object, **agent: object) -> None:
        self.clock = ManualClock()
        self.store = CountingStore(MemoryStore(self.clock))
        self.model = ScriptedModel(script)
        self.agent = Agent(name="assistant", model=self.model, **agent)
        self.app: App = test_app(self.agent, store=self.store, clock=self.clock)


async def test_a_turn_with_one_model_call_takes_three_round_trips() -> None:
    house = House("Paris.")
    run = await house.app.engine.answer(said("Capital of France?"))
    assert (run.status, run.reply.text) == ("succeeded", "Paris.")
    assert house.store.trips.total() == 3


async def test_each_further_step_adds_one_round_trip() -> None:
    @tool
    def weather(city: str) -> str:
        """Weather of a city."""
        return f"sunny in {city}"

    house = House(calls(("weather", '{"city": "Oslo"}')), "It is sunny.", tools=[weather])
    run = await house.app.engine.answer(said("Weather in Oslo?"))
    assert run.reply.text == "It is sunny."
    assert run.steps == 3
    assert house.store.trips.total() == 3 + 2


async def test_the_second_message_remembers_the_first() -> None:
    house = House("Hello Ada.", "Your name is Ada.")
    await house.app.engine.answer(said("I am Ada.", session_id="s"))
    await house.app.engine.answer(said("Who am I?", session_id="s"))
    prompt = house.model.prompts[1]
    assert [message.text for message in prompt.messages] == ["I am Ada.", "Hello Ada.", "Who am I?"]
    page = await house.app.engine.session(ME, "s")
    assert [(m.seq, m.role, m.text) for m in page.messages] == [
        (1, "user", "I am Ada."),
        (2, "assistant", "Hello Ada."),
        (3, "user", "Who am I?"),
        (4, "assistant", "Your name is Ada."),
    ]


async def test_every_message_knows_when_it_came() -> None:
    house = House("Hello.")
    await house.app.engine.answer(said("Hi", session_id="s"))
    page = await house.app.engine.session(ME, "s")
    assert [message.created_at for message in page.messages] == [house.clock.now()] * 2


async def test_the_same_key_replays_and_another_body_is_refused() -> None:
    house = House("Once.")
    first = await house.app.engine.answer(said("Hi", key="k", fingerprint="a"))
    again = await house.app.engine.answer(said("Hi", key="k", fingerprint="a"))
    assert again.replayed
    assert msgspec.structs.replace(again, replayed=False) == first
    with pytest.raises(KeyReusedError):
        await house.app.engine.answer(said("Ho", key="k", fingerprint="b"))
    house.model.assert_used_up()


async def test_a_key_whose_run_is_under_way_is_refused_for_now() -> None:
    called, hold = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        called.set()
        await hold.wait()
        return "waited"

    house = House(calls(("wait", "{}")), "Done.", tools=[wait])
    first = asyncio.create_task(house.app.engine.answer(said("Go", key="k")))
    await called.wait()
    with pytest.raises(RunningError) as caught:
        await house.app.engine.answer(said("Go", key="k"))
    hold.set()
    assert (await first).id == caught.value.run_id


async def test_a_run_that_failed_for_a_passing_reason_is_tried_again_under_its_key() -> None:
    house = House(ModelBusyError("overloaded"), "Here now.")
    failed = await house.app.engine.answer(said("Hi", key="k"))
    assert (failed.status, failed.failure.slug) == ("failed", "model-busy")
    again = await house.app.engine.answer(said("Hi", key="k"))
    assert (again.id, again.status, again.reply.text) == (failed.id, "succeeded", "Here now.")


async def test_messages_of_a_failed_run_are_kept_but_not_given_to_the_model() -> None:
    house = House(ModelBusyError("overloaded"), "Fine.")
    await house.app.engine.answer(said("poison", session_id="s"))
    await house.app.engine.answer(said("hello", session_id="s"))
    assert [message.text for message in house.model.prompts[1].messages] == ["hello"]
    page = await house.app.engine.session(ME, "s")
    assert [(m.text, m.hidden) for m in page.messages] == [
        ("poison", True),
        ("hello", False),
        ("Fine.", False),
    ]


async def test_messages_to_a_busy_session_are_answered_in_the_order_they_came() -> None:
    house = House(*[f"answer {n}" for n in range(20)])
    runs = await asyncio.gather(
        *(house.app.engine.answer(said(f"question {n}", session_id="s")) for n in range(20))
    )
    page = await house.app.engine.session(ME, "s")
    assert [m.text for m in page.messages if m.role == "user"] == [f"question {n}" for n in range(20)]
    assert sorted(run.reply.text for run in runs) == sorted(f"answer {n}" for n in range(20))
    assert [m.seq for m in page.messages] == list(range(1, 41))


async def test_a_busy_session_refuses_where_the_agent_says_so() -> None:
    called, hold = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        called.set()
        await hold.wait()
        return "waited"

    house = House(calls(("wait", "{}")), "Done.", tools=[wait], busy="reject")
    first = asyncio.create_task(house.app.engine.answer(said("Go", session_id="s")))
    await called.wait()
    with pytest.raises(SessionBusyError):
        await house.app.engine.answer(said("Me too", session_id="s"))
    hold.set()
    assert (await first).status == "succeeded"


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        (Limits(steps=4), "steps"),
        (Limits(tool_calls=2), "tool_calls"),
        (Limits(tokens=40), "tokens"),
        (Limits(usd=0.000001), "usd"),
    ],
)
async def test_a_limit_stops_the_run_before_it_spends_more(limits: Limits, name: str) -> None:
    @tool
    def again() -> str:
        """Once more."""
        return "more"

    house = House(*[calls(("again", "{}"))] * 9, tools=[again], limits=limits)
    if name == "usd":
        house.model.name = "openai:gpt-5-mini"
    run = await house.app.engine.answer(said("Go"))
    assert (run.status, run.failure.slug, run.failure.extras) == ("failed", "limit-reached", {"limit": name})


@pytest.mark.parametrize(
    ("name", "usage", "unpriced"),
    [
        ("openai:gpt-5-mini", Usage(input=10, output=5), ()),
        ("openai:gpt-5-mini", Usage(), ("openai:gpt-5-mini",)),  # a server that says nothing of its tokens
        ("openai:nobody-knows-it", Usage(input=10, output=5), ("openai:nobody-knows-it",)),
        ("local:smollm2", Usage(), ()),
    ],
)
async def test_a_cost_that_is_not_known_is_flagged_and_never_nothing(
    name: str, usage: Usage, unpriced: tuple[str, ...]
) -> None:
    house = House(Reply(message=Message.of("assistant", "Hi."), usage=usage))
    house.model.name = name
    run = await house.app.engine.answer(said("Hi"))
    assert run.unpriced == unpriced
    assert (run.cost > 0) == (name == "openai:gpt-5-mini" and not unpriced)


async def test_an_unknown_agent_is_named_with_those_there_are() -> None:
    house = House()
    with pytest.raises(NotFoundError, match="assistant"):
        await house.app.engine.answer(said("Hi", agent="nobody"))


async def test_a_stream_tells_the_run_its_text_and_its_end() -> None:
    house = House("one two three")
    events = [event async for event in house.app.engine.stream(said("count"))]
    assert events[0].type == "run"
    assert events[-1].type == "reply"
    assert "".join(e.data["text"] for e in events if e.type == "text") == "one two three"
    places = [position(event.id) for event in events]
    assert places == sorted(set(places))


async def test_a_client_that_goes_away_does_not_cancel_the_run() -> None:
    house = House("still here")
    stream = house.app.engine.stream(said("Hi", key="k"))
    await anext(stream)
    await stream.aclose()
    await house.app.engine.close()
    run = await house.app.engine.answer(said("Hi", key="k"))
    assert run.reply.text == "still here"


async def test_another_user_sees_neither_session_nor_run() -> None:
    house = House("secret")
    run = await house.app.engine.answer(said("mine", session_id="s"))
    other = Principal(user="eve")
    with pytest.raises(NotFoundError):
        await house.app.engine.session(other, "s")
    with pytest.raises(NotFoundError):
        await house.app.engine.run(other, run.id)
    assert await house.app.engine.sessions(other) == []
    assert await house.app.engine.runs(other) == []
    assert [session.id for session in await house.app.engine.sessions(ME)] == ["s"]
    assert [found.id for found in await house.app.engine.runs(ME)] == [run.id]


async def test_erase_removes_runs_that_are_longer_than_a_page_of_the_store() -> None:
    house = House("noted")
    run = await house.app.engine.answer(said("hello", session_id="s"))
    partition = keys.run(ME.tenant, run.id)
    for number in range(20):
        await house.store.write(Put(Key(partition, f"{keys.PIECE}{number:04}"), {"text": "x" * 100_000}))
    assert (await house.store.query(partition)).after, "this takes more than one page"
    await house.app.engine.erase(ME, "s")
    assert (await house.store.query(partition)).records == ()


async def test_a_very_long_reply_is_told_whole_whoever_asks() -> None:
    """Over 64 KB it lies in the blob store; whoever is told of it, then and later, gets all its words."""
    long = "word " * 30_000
    clock = ManualClock()
    told: list[str] = []

    class Letters:
        async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
            assert run.reply is not None
            told.append(run.reply.text)

    app = test_app(Agent(name="assistant", model=ScriptedModel([long])), clock=clock)
    app.engine._kit.deliverers["letter"] = Letters()
    run = await app.engine.answer(said("Tell me", key="k", delivery=Delivery("letter", "here")))
    await app.engine.drain()
    again = await app.engine.answer(said("Tell me", key="k", delivery=Delivery("letter", "here")))
    stored = await app.engine.run(ME, run.id)
    assert {one.reply.text for one in (run, again, stored) if one.reply} == {long}
    assert told == [long]
    await app.close()


async def test_erase_leaves_nothing_but_the_figures_of_the_ledger(tmp_path: Path) -> None:
    clock = ManualClock()
    app = test_app(
        Agent(name="assistant", model=ScriptedModel(["the canary sings"])),
        store=SqliteStore(tmp_path / "s.db", clock),
        clock=clock,
    )
    await app.engine.answer(said("canary", session_id="s"))
    await app.engine.erase(ME, "s")
    with pytest.raises(NotFoundError):
        await app.engine.session(ME, "s")
    await app.close()
    rows = sqlite3.connect(tmp_path / "s.db").execute("select partition, fields from records").fetchall()
    assert rows
    assert not any("canary" in str(row) for row in rows)
