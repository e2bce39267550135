"""A stored step is known by its series, its place there and what it was done upon; nothing else is taken for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from agent_core import Agent, Compaction, Turn, tool
from agent_core.engine import keys, steps
from agent_core.engine.runs import Step
from agent_core.errors import ModelBusyError, ModelCutError, StoreBusyError, StoreError
from agent_core.messages import Chunk, Message, Reply, ToolCall, Usage, from_record, to_record
from agent_core.store.base import Put
from agent_core.testing import ManualClock, ScriptedModel, test_app
from tests.durability.stage import ME, Bank, Stage, calls, said

LONG = "word " * 200
RULES = Compaction(at_tokens=100, keep=2)
RUN = keys.run_id(ME, "k")


@dataclass
class Price:
    cents: int


async def journal(stage: Stage) -> list[Step]:
    return list(await stage.app.engine.steps(ME, RUN))


async def rewrite(stage: Stage, *changed: Step) -> None:
    """Have the store hold these steps instead."""
    for step in changed:
        await stage.store.write(Put(keys.step(keys.run(ME.tenant, RUN), step.number), to_record(step)))


def aged(step: Step) -> Step:
    """The step as an older Sampan stored it."""
    return msgspec.structs.replace(step, series="", place=0, input="", key="", joined=(), covered=0)


def test_old_steps_get_their_places_as_far_as_they_can_be_known() -> None:
    old = [
        Step(number=1, kind="model", name="m", reply=Reply(message=Message.of("assistant", "A summary"))),
        Step(number=2, kind="model", name="m", reply=calls("pay", "pay")),
        Step(number=3, kind="tool", name="pay"),
        Step(number=4, kind="tool", name="pay"),
        Step(number=5, kind="model", name="m", reply=calls("pay")),
    ]
    found = [(step.series, step.place) for step in steps.placed(reversed(old))]
    assert found == [("", 0), ("model", 0), ("tool", 0), ("tool", 1), ("model", 1)]


def test_a_chain_is_of_what_was_said_and_not_of_how_it_was_split() -> None:
    one = steps.linked("", "ab", "c")
    assert one != steps.linked("", "a", "bc")
    assert one != steps.linked("", "abc")
    assert steps.wished(one, 0, ToolCall("x", "t", '{"a": 1, "b": 2}')) == steps.wished(
        one, 0, ToolCall("y", "t", '{"b":2,"a":1}')
    )
    assert steps.wished(one, 0, ToolCall("x", "t")) != steps.wished(one, 1, ToolCall("x", "t"))


async def test_a_summary_that_appears_between_two_attempts_moves_nothing() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start("A1", "A2", calls("pay"), ModelBusyError("503"), tools=[bank.pay("once")])
    for n in range(2):
        await app.engine.answer(said(f"q{n} {LONG}", session_id="s"))
    await app.engine.answer(said("Pay", session_id="s", key="k"))
    app = stage.start("SUMMARY", "Paid.", tools=[bank.pay("once")], compaction=RULES)
    run = await app.engine.answer(said("Pay", session_id="s", key="k"))
    assert (run.reply.text, bank.paid.total()) == ("Paid.", 1)
    assert [(step.number, step.series, step.place) for step in await journal(stage)] == [
        (1, "model", 0),
        (2, "tool", 0),
        (3, "summary", 0),
        (4, "model", 1),
    ]


async def test_a_summary_that_was_paid_for_serves_although_the_rules_changed() -> None:
    stage = Stage()
    app = stage.start("A1", "A2", "SUMMARY", ModelBusyError("503"), compaction=RULES)
    for n in range(2):
        await app.engine.answer(said(f"q{n} {LONG}", session_id="s"))
    await app.engine.answer(said("What?", session_id="s", key="k"))
    app = stage.start("The answer.")  # it has no compaction any more
    run = await app.engine.answer(said("What?", session_id="s", key="k"))
    assert run.reply.text == "The answer."
    [prompt] = stage.model.prompts
    assert "SUMMARY" in prompt.messages[0].text
    assert [message.text[:2] for message in prompt.messages[1:]] == ["q1", "A2", "Wh"]


@pytest.mark.parametrize("effects", ["once", "repeatable"])
async def test_a_call_that_lost_its_place_is_not_made_again(effects: str) -> None:
    """Something before it is damaged: the same call with the same arguments has its stored result."""
    stage, bank = Stage(), Bank()
    tools = [bank.pay(effects), bank.pay("none", name="look")]
    app = stage.start(calls("look"), calls("pay"), ModelBusyError("503"), tools=tools)
    await app.engine.answer(said(session_id="s", key="k"))
    first = (await journal(stage))[0]
    await rewrite(stage, msgspec.structs.replace(first, input="0" * 64))
    app = stage.start(calls("pay"), "Done.", tools=tools)
    run = await app.engine.answer(said(session_id="s", key="k"))
    assert (run.status, run.reply.text) == ("succeeded", "Done.")
    assert sum(1 for key in bank.paid) == 2  # look and pay, once each
    assert bank.paid.total() == 2


async def test_a_person_is_asked_where_a_call_that_lost_its_place_may_be_this_one() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay"), ModelBusyError("503"), tools=[bank.pay("once")])
    await app.engine.answer(said(session_id="s", key="k"))
    first = (await journal(stage))[0]
    await rewrite(stage, msgspec.structs.replace(first, input="0" * 64))
    other = Reply(
        message=Message(role="assistant", tool_calls=(ToolCall("c0", "pay", '{"cents": 6}'),)),
        finish="tool_calls",
    )
    app = stage.start(other, "Done.", tools=[bank.pay("once")])
    run = await app.engine.answer(said(session_id="s", key="k"))
    assert (run.status, [question.reason for question in run.questions]) == ("waiting", ["uncertain"])
    assert bank.paid.total() == 1
    await app.engine.approve(ME, run.id, run.questions[0].hash)
    await app.engine.drain()
    assert (await stage.run(RUN)).status == "succeeded"
    assert sorted(bank.paid.values()) == [1, 1]  # under a key of its own


async def test_an_intent_that_lost_its_place_is_asked_about() -> None:
    stage, bank = Stage(), Bank()
    stage.start(calls("pay"), tools=[bank.pay("once")])
    await stage.dies_at("after tool", said(session_id="s", key="k"))
    app = stage.start(calls("pay"), "Done.", tools=[bank.pay("once")])
    first = (await journal(stage))[0]
    await rewrite(stage, msgspec.structs.replace(first, input="0" * 64))
    await stage.swept()
    run = await app.engine.run(ME, RUN)
    assert [question.reason for question in run.questions] == ["uncertain"]
    assert bank.paid.total() == 1


async def test_what_an_older_sampan_stored_is_used_where_it_is_certain() -> None:
    """Its tool calls are; a reply without any may be anything, and is asked for again."""
    stage, bank = Stage(), Bank()
    stage.start(calls("pay"), "Told before the crash.", tools=[bank.pay("once")])
    await stage.dies_at("before commit", said(session_id="s", key="k"))
    app = stage.start(tools=[bank.pay("once")])
    old = [aged(step) for step in await journal(stage)]
    answer = Reply(message=Message.of("assistant", "Nobody knows what this is."), usage=Usage(7, 0, 7))
    await rewrite(stage, *old, aged(Step(number=3, kind="model", name="scripted:test", reply=answer)))
    stage.model.add("Told after the upgrade.")
    await stage.swept()
    run = await app.engine.run(ME, RUN)
    assert (run.reply.text, bank.paid.total()) == ("Told after the upgrade.", 1)
    assert run.usage.input >= 10 + 7  # all of it is paid for


async def test_keys_and_questions_of_an_older_sampan_hold() -> None:
    """The key that a tool was given before, and the hash of a question that is open, are what they were."""
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay", "pay"), "Done.", tools=[bank.pay("repeatable", approval=True)])
    run = await app.engine.answer(said(session_id="s", key="k"))
    await rewrite(stage, *map(aged, await journal(stage)))
    for question in run.questions:
        await app.engine.approve(ME, RUN, question.hash)
    await app.engine.drain()
    assert (await stage.run(RUN)).status == "succeeded"
    assert set(bank.paid) == {f"{RUN}-2", f"{RUN}-3"}


async def test_a_question_stays_the_same_though_a_summary_comes_in_between() -> None:
    stage, bank = Stage(), Bank()
    pay = bank.pay("once", approval=True)
    app = stage.start("A1", "A2", calls("pay"), tools=[pay])
    for n in range(2):
        await app.engine.answer(said(f"q{n} {LONG}", session_id="s"))
    run = await app.engine.answer(said("Pay", session_id="s", key="k"))
    app = stage.start("SUMMARY", "Paid.", tools=[pay], compaction=RULES)
    await app.engine.approve(ME, RUN, run.questions[0].hash)
    await app.engine.drain()
    assert ((await stage.run(RUN)).status, bank.paid) == ("succeeded", {f"{RUN}-2": 1})


async def test_messages_that_joined_join_again_where_they_did() -> None:
    stage, bank = Stage(), Bank()

    @tool(name="pay", effects="once")
    async def pay(cents: int, turn: Turn) -> str:
        """Pay."""
        if not bank.paid:
            await stage.app.engine.submit(said("And this", session_id="s", key="b"))
        bank.paid[turn.idempotency_key] += 1
        return f"paid {cents}"

    options: dict[str, Any] = {"tools": [pay], "busy": "merge"}
    stage.start(calls("pay"), calls("pay"), **options)
    await stage.dies_at("before model", said("Pay", session_id="s", key="k"), hit=3)
    app = stage.start("Both done.", **options)
    late = await app.engine.submit(said("Too late", session_id="s", key="c"), work=False)
    await stage.swept()
    assert bank.paid.total() == 2
    run, other = await stage.run(RUN), await stage.run(keys.run_id(ME, "b"))
    assert (run.reply.text, other.reply.text) == ("Both done.", "Both done.")
    assert (await stage.run(late.id)).metadata["merged_into"] == RUN
    [prompt] = stage.model.prompts
    told = [message.text for message in prompt.messages if message.role == "user"]
    assert told == ["Pay", "And this", "Too late"]


async def test_a_refused_reply_is_paid_for_and_asked_for_anew() -> None:
    stage = Stage()
    app = stage.start("about five euros", '{"cents": 500}', output=Price)
    first = await app.engine.answer(said(session_id="s", key="k"))
    second = await app.engine.answer(said(session_id="s", key="k"))
    assert (first.failure.slug, second.reply.text) == ("model-malformed", '{"cents": 500}')
    found = await journal(stage)
    assert [(step.refused, step.series, step.place) for step in found] == [
        (True, "model", 0),
        (False, "model", 0),
    ]
    assert second.usage == found[0].usage + found[1].usage


async def test_an_answer_stored_before_its_type_changed_is_asked_for_anew() -> None:
    stage = Stage()
    stage.start("five euros", output=None)
    real = stage.store.write

    async def write(*writes: object) -> None:
        if any(isinstance(one, Put) and "ledger" in one.key.partition for one in writes):
            raise StoreBusyError("throttled")
        await real(*writes)

    stage.store.write = write
    with pytest.raises(StoreError):
        await stage.app.engine.answer(said(session_id="s", key="k"))
    stage.store.write = real
    assert [step.reply.message.text for step in await journal(stage)] == [
        "five euros"
    ]  # kept, though not committed
    stage.clock.advance(31)
    app = stage.start('{"cents": 500}', output=Price)
    await stage.swept()
    assert (await app.engine.run(ME, RUN)).reply.text == '{"cents": 500}'


async def test_a_reply_that_a_plugin_refused_is_not_used_again() -> None:
    class Guard:
        def on_reply(self, message: Message) -> Message:
            if "secret" in message.text:
                raise ValueError("no secrets")
            return message

    stage = Stage()
    app = stage.start("the secret", plugins=[Guard()])
    run = await app.engine.answer(said(session_id="s", key="k"))
    assert run.failure.slug == "plugin"
    [step] = await journal(stage)
    assert step.refused
    assert step.withheld
    assert run.cost == (step.cost or 0)


async def test_what_anothers_agent_gave_that_cant_be_stored_is_on_the_bill() -> None:
    class Framework:
        name = "assistant"

        async def respond(self, messages: object, turn: object) -> Reply:
            return Reply(message=Message.of("assistant", "half: \ud83d"), usage=Usage(7, 0, 3), model="x:y")

    app = test_app(Framework())
    run = await app.engine.answer(said(session_id="s", key="k"))
    assert (run.failure.slug, run.usage) == ("model-malformed", Usage(7, 0, 3))


@pytest.mark.parametrize("ids", [("c", "c", "c"), ("", "", ""), (" ", "c", "c")])
async def test_each_call_has_an_id_and_a_result_of_its_own(ids: tuple[str, ...]) -> None:
    @tool(trusted=True)
    async def price(item: str) -> str:
        """What it costs."""
        return f"price of {item}"

    def wish(*items: str) -> Reply:
        made = (ToolCall(id, "price", f'{{"item": "{item}"}}') for id, item in zip(ids, items, strict=True))
        return Reply(message=Message(role="assistant", tool_calls=tuple(made)), finish="tool_calls")

    model = ScriptedModel([wish("a", "b", "c"), wish("d", "e", "f"), "Done."])
    app = test_app(Agent(name="assistant", model=model, tools=[price]))
    await app.engine.answer(said(session_id="s", key="k"))
    pairs = {}
    for message in model.prompts[-1].messages:
        pairs |= {call.id: call.arguments for call in message.tool_calls}
        for result in message.tool_results:
            assert result.content[-1] in pairs[result.call_id]
    assert len(pairs) == 6
    assert all(id.strip() and len(id) <= 40 for id in pairs)


async def test_a_result_goes_to_its_call_whatever_a_plugin_calls_it() -> None:
    class Renames:
        def before_tool(self, call: ToolCall) -> ToolCall:
            return msgspec.structs.replace(call, id="other")

    bank = Bank()
    model = ScriptedModel([calls("pay", "pay"), "Done."])
    app = test_app(Agent(name="assistant", model=model, tools=[bank.pay("none")], plugins=[Renames()]))
    await app.engine.answer(said(session_id="s"))
    assert [result.call_id for result in model.prompts[-1].messages[-1].tool_results] == ["c0", "c1"]


class Slow:
    """A model that streams a word a second."""

    name, tools, context_window = "scripted:slow", True, 100_000

    def __init__(self, clock: ManualClock, words: int = 6) -> None:
        self.clock, self.words, self.calls = clock, words, 0

    async def reply(self, prompt: object) -> Reply:
        raise NotImplementedError

    async def stream(self, prompt: object) -> Any:
        self.calls += 1
        for n in range(self.words):
            self.clock.advance(1.0)
            yield Chunk(text=f"w{n} ")
        yield Chunk(
            reply=Reply(message=Message.of("assistant", "".join(f"w{n} " for n in range(self.words))))
        )
        if self.words == 6:
            raise ModelCutError("cut behind its end")

    async def close(self) -> None: ...


async def test_a_piece_that_cant_be_stored_is_stored_with_the_next() -> None:
    stage, pieces, fails = Stage(), [], 3
    app = stage.start()
    model = Slow(stage.clock)
    object.__setattr__(app.engine.agents["assistant"], "model", model)
    real = stage.store.write

    async def write(*writes: object) -> None:
        nonlocal fails
        found = [one for one in writes if isinstance(one, Put) and one.key.sort.startswith(keys.PIECE)]
        if found and fails:
            fails -= 1
            raise StoreError("no disk") if fails else StoreBusyError("throttled")
        pieces.extend((one.fields["at"], one.fields["text"]) for one in found)
        await real(*writes)

    stage.store.write = write
    async for _ in app.engine.stream(said(session_id="s", key="k")):
        pass
    run = await app.engine.run(ME, RUN)
    assert (run.status, model.calls) == ("succeeded", 1)
    assert pieces[0] == (0, "w0 w1 w2 w3 ")
    for at, text in pieces:
        assert run.reply.text[at : at + len(text)] == text


async def test_calls_beside_one_that_fails_come_to_their_end_and_are_journaled() -> None:
    done: list[str] = []
    failed = asyncio.Event()

    @tool
    async def slow(cents: int) -> str:
        """Slow."""
        await failed.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        done.append("slow")
        return "slow"

    @tool
    async def quick(cents: int) -> str:
        """Quick."""
        return "quick"

    class Fails:
        async def after_tool(self, result: Any) -> Any:
            if result.name == "quick":
                failed.set()
                raise ValueError("no")

    stage = Stage()
    app = stage.start(calls("quick", "slow"), tools=[slow, quick], plugins=[Fails()])
    run = await app.engine.answer(said(session_id="s", key="k"))
    assert (run.failure.slug, done) == ("plugin", ["slow"])
    assert [step.name for step in await journal(stage)] == ["scripted:test", "slow"]


async def test_calls_are_cut_off_where_the_worker_lost_its_session() -> None:
    going = asyncio.Event()
    ends: list[str] = []

    @tool
    async def endless(cents: int) -> str:
        """Never ends."""
        going.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cut off")
            raise
        return ""

    stage = Stage()
    app = stage.start(calls("endless", "endless"), tools=[endless])
    working = asyncio.create_task(app.engine.answer(said(session_id="s", key="k")))
    await going.wait()
    for task in list(app.engine._tasks):
        task.cancel()
    working.cancel()
    await asyncio.gather(working, *app.engine._tasks, return_exceptions=True)
    for _ in range(5):
        await asyncio.sleep(0)
    assert ends == ["cut off", "cut off"]


async def test_a_blob_store_that_is_down_does_not_make_each_try_pay() -> None:
    stage = Stage()
    app = stage.start("x" * 70_000)
    blobs, down = app.engine._kit.blobs, True

    class Down:
        def __getattr__(self, verb: str) -> Any:
            if verb == "put" and down:

                async def put(*_: object) -> str:
                    raise StoreError("S3 is down")

                return put
            return getattr(blobs, verb)

    object.__setattr__(app.engine._kit, "blobs", Down())
    for _ in range(3):
        with pytest.raises(StoreError):
            await app.engine.answer(said(session_id="s", key="k"))
        stage.clock.advance(31)
    down = False
    run = await app.engine.answer(said(session_id="s", key="k"))
    assert (run.status, len(stage.model.prompts)) == ("succeeded", 1)


async def test_a_commit_that_fails_once_does_not_make_the_next_try_pay() -> None:
    stage = Stage()
    app = stage.start("Hello.")
    real, failed = stage.store.write, []

    async def write(*writes: object) -> None:
        if not failed and any(isinstance(one, Put) and "ledger" in one.key.partition for one in writes):
            failed.append(1)
            await real(*writes)
            raise StoreBusyError("nobody knows whether it was written")
        await real(*writes)

    stage.store.write = write
    await app.engine.answer(said(session_id="s", key="k"))
    run = await app.engine.run(ME, RUN)
    assert run.status == "succeeded"  # it was written, and what is kept of its steps changes nothing
    page = await app.engine.session(ME, "s")
    assert not page.session.busy


def test_a_stored_step_of_today_reads_back() -> None:
    step = Step(
        number=1, kind="model", name="m", series="model", place=3, input="x", joined=("a",), refused=True
    )
    assert from_record(Step, to_record(step)) == step
