"""Cases that the crash points and the histories led to, each small enough to read."""

from __future__ import annotations

import asyncio

import pytest

from agent_core import Limits, tool
from agent_core.costs.ledger import Ledger
from agent_core.engine import keys
from agent_core.engine.runs import Delivery, Run
from agent_core.errors import ModelBusyError, StoreError
from agent_core.messages import ToolCall, from_record
from agent_core.store.base import Key
from tests.durability.stage import ME, Bank, Stage, calls, said


async def left(stage: Stage) -> list[str]:
    """What the sweeper still looks after."""
    return [record.key.sort for record in (await stage.store.query(keys.DUE)).records]


async def test_a_run_of_more_messages_than_a_transaction_takes_is_committed_whole_or_not_at_all() -> None:
    """Fifty rounds are 101 messages: some are written ahead, none of them counts before the commit."""
    bank = Bank()
    options = {"tools": [bank.pay("repeatable")], "limits": Limits(steps=200, tool_calls=200)}
    for point in ("before overflow", "after overflow", "before commit", "after commit"):
        stage = Stage()
        stage.start(*[calls("pay")] * 50, "Done.", **options)
        await stage.dies_at(point, said("Pay all", session_id="s", key="k"))
        stage.start(*(["Done."] if point != "after commit" else []), **options)
        await stage.swept()
        run = await stage.run(keys.run_id(ME, "k"))
        assert (run.status, await stage.words()) == ("succeeded", ["Pay all", "Done."])
        assert await left(stage) == []
        stage.model.assert_used_up()


async def test_messages_of_a_worker_that_died_before_its_commit_do_not_hide_the_history() -> None:
    bank = Bank()
    options = {"tools": [bank.pay("repeatable")], "limits": Limits(steps=200, tool_calls=200)}
    stage = Stage()
    app = stage.start("Hello Ada.", *[calls("pay")] * 50, "Done.", **options)
    await app.engine.answer(said("I am Ada.", session_id="s"))
    await stage.dies_at("before commit", said("Pay all", session_id="s", key="k"))
    app = stage.start("You are Ada.", **options)
    await app.engine.cancel(ME, keys.run_id(ME, "k"))
    await stage.swept()
    await app.engine.answer(said("Who am I?", session_id="s"))
    assert "I am Ada." in [message.text for message in stage.model.prompts[-1].messages]


async def test_a_run_that_is_tried_again_is_billed_once_and_keeps_its_date() -> None:
    stage, bank = Stage(), Bank()
    script = (calls("pay"), ModelBusyError("busy"), "Done.")
    app = stage.start(*script, tools=[bank.pay("once")])
    first = await app.engine.answer(said(session_id="s", key="k"))
    stage.clock.advance(100)
    second = await app.engine.answer(said(session_id="s", key="k"))
    assert (first.status, second.status, second.created_at) == ("failed", "succeeded", first.created_at)
    day = f"{ME.tenant}/ledger/{keys.day(first.created_at)}"
    [bill] = (await stage.store.query(day)).records
    assert [entry.step for entry in from_record(Ledger, bill.fields).entries] == [1, 3]
    assert bank.paid.total() == 1


async def test_a_message_that_is_tried_again_and_again_stands_in_the_transcript_once_for_its_failures() -> (
    None
):
    stage = Stage()
    app = stage.start(*[ModelBusyError("busy")] * 4, "Done.")
    for _ in range(5):
        run = await app.engine.answer(said("In the outage", session_id="s", key="k"))
    assert run.status == "succeeded"
    page = await app.engine.session(ME, "s")
    told = [(message.text, message.hidden) for message in page.messages]
    assert told == [("In the outage", True), ("In the outage", False), ("Done.", False)]


async def test_a_push_of_a_retry_is_another_push_and_the_first_is_not_repeated() -> None:
    stage, taken = Stage(), []

    class Postman:
        async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
            taken.append((push_id, run.status))

    app = stage.start(ModelBusyError("busy"), "Done.")
    app.engine._kit.deliverers["letter"] = Postman()
    asked = said(session_id="s", key="k", delivery=Delivery("letter", "here"))
    run = await app.engine.answer(asked)
    await app.engine.drain()
    await app.engine.answer(asked)
    await app.engine.drain()
    stage.clock.advance(100)
    await stage.swept()
    assert taken == [(run.id, "failed"), (f"{run.id}.1", "succeeded")]
    assert await left(stage) == []


async def test_a_waiting_run_that_is_cancelled_ends_at_once() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay"), "Hello.", tools=[bank.pay("once", approval=True)])
    run = await app.engine.answer(said("Pay", session_id="s"))
    behind = await app.engine.submit(said("Hi", session_id="s"))
    await app.engine.cancel(ME, run.id)
    await app.engine.drain()
    assert (await stage.run(run.id)).status == "cancelled"
    assert (await stage.run(behind.id)).reply.text == "Hello."
    assert (await left(stage), bank.paid.total()) == ([], 0)


async def test_a_run_that_is_cancelled_while_it_begins_to_wait_does_not_wait() -> None:
    stage, bank = Stage(), Bank()

    class Impatient:
        async def before_tool(self, call: ToolCall) -> ToolCall:
            await stage.app.engine.cancel(ME, keys.run_id(ME, "k"))
            return call

    app = stage.start(calls("pay"), tools=[bank.pay("once", approval=True)], plugins=[Impatient()])
    run = await app.engine.answer(said(session_id="s", key="k"))
    assert (run.status, await left(stage)) == ("cancelled", [])
    assert [step.kind for step in await app.engine.steps(ME, run.id)] == ["model"]  # it was paid


async def test_an_answer_in_the_moment_when_the_session_is_let_go_is_seen() -> None:
    """Another message has the session read, finds the run waiting and lets go: the answer came in between."""
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay"), "Paid.", "Hello.", tools=[bank.pay("once", approval=True)])
    run = await app.engine.answer(said("Pay", session_id="s"))
    real = stage.store.query

    async def query(partition: str, prefix: str = "", **options: object) -> object:
        page = await real(partition, prefix, **options)
        if partition == keys.session(ME, "s") and not prefix and bank.paid.total() == 0:
            stage.store.query = real
            await app.engine.approve(ME, run.id, run.questions[0].hash)
        return page

    stage.store.query = query
    await app.engine.submit(said("Hi", session_id="s"))
    await app.engine.drain()
    assert await stage.words() == ["Pay", "Paid.", "Hi", "Hello."]


async def test_a_message_behind_one_that_dies_each_time_is_tried_before_it_is_given_up() -> None:
    stage, bank = Stage(), Bank()
    stage.start(calls("pay"), tools=[bank.pay("repeatable")])
    await stage.dies_at(
        "before tool", said("Pay", session_id="s", key="a"), said("Hi", session_id="s", key="b")
    )
    for _ in range(5):
        stage.start(tools=[bank.pay("repeatable")])
        await stage.dies_at("before tool")
    app = stage.start("Hello.", tools=[bank.pay("repeatable")])
    assert (await app.engine.sweep()).given_up == 1
    await app.engine.drain()
    await app.engine.drain()
    assert (await stage.run(keys.run_id(ME, "a"))).failure.slug == "given-up"
    assert (await stage.run(keys.run_id(ME, "b"))).reply.text == "Hello."


async def test_a_run_that_is_handed_over_many_times_is_not_given_up() -> None:
    """Each hand-over is progress: the sweeper that finds the session free in between counts from 0 again."""
    stage, bank = Stage(), Bank()
    app = stage.start(*[calls("pay")] * 12, "Done.", tools=[bank.pay("repeatable")], limits=Limits(steps=99))

    async def nobody(principal: object, session_id: str) -> None:
        """The queue is slow."""

    app.engine._wake = nobody
    run = await app.engine.submit(said(session_id="s", key="k"), work=False)
    for _ in range(30):
        stage.clock.advance(61)
        assert (await app.engine.sweep()).given_up == 0
        await app.engine.resume(ME, "s", stop_at=1.0)
        await app.engine.drain()
    assert (await stage.run(run.id)).status == "succeeded"


async def test_an_erased_session_leaves_nothing_to_the_sweeper() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay"), tools=[bank.pay("once", approval=True)])
    await app.engine.answer(said("Pay", session_id="s", delivery=Delivery("letter", "here")))
    await app.engine.erase(ME, "s")
    assert [sort.rpartition("/")[2] for sort in await left(stage)] == ["audit"]
    await app.sweep()
    assert await left(stage) == []
    assert await stage.store.get(Key(keys.session(ME, "s"), keys.STATE)) is None


async def test_entries_of_runs_that_are_gone_are_forgotten_and_hold_up_nobody() -> None:
    stage = Stage()
    app = stage.start("Hello.", "Hello again.")
    app.engine._kit.deliverers["letter"] = object()  # it has no method to deliver
    await app.engine.answer(said("Hi", session_id="s", delivery=Delivery("letter", "here")))
    await app.engine.submit(said("Hi", session_id="t", key="k"), work=False)
    stage.clock.advance(100)
    await stage.swept()
    assert (await stage.run(keys.run_id(ME, "k"))).status == "succeeded"
    await app.engine.erase(ME, "s")
    stage.clock.advance(100)
    await stage.swept()
    assert await left(stage) == []


async def test_messages_keep_their_order_when_the_clock_is_set_back() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay"), "Paid.", "One.", "Two.", tools=[bank.pay("once", approval=True)])
    run = await app.engine.answer(said("Pay", session_id="s"))
    await app.engine.submit(said("First", session_id="s"))
    stage.clock._now -= 3600
    await app.engine.submit(said("Second", session_id="s"))
    await app.engine.drain()
    await app.engine.approve(ME, run.id, run.questions[0].hash)
    await app.engine.drain()
    assert await stage.words() == ["Pay", "Paid.", "First", "One.", "Second", "Two."]


async def test_a_run_whose_wake_up_is_lost_is_gone_on_with_by_the_sweeper() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(calls("pay"), "Done.", tools=[bank.pay("repeatable")])

    async def fails(principal: object, session_id: str) -> None:
        raise StoreError("no queue, and no store either")

    wake, app.engine.wake = app.engine.wake, fails
    told = asyncio.create_task(app.engine.answer(said(session_id="s", key="k"), stop_at=1.0))
    for _ in range(200):  # until whoever waits for the answer only looks now and then
        await asyncio.sleep(0)
    assert stage.clock.sleeping
    app.engine.wake = wake
    stage.clock.advance(31)
    await app.engine.sweep()
    assert (await told).status == "succeeded"


async def test_a_process_that_will_be_stopped_does_not_take_back_what_it_handed_over() -> None:
    stage, bank = Stage(), Bank()
    app = stage.start(*[calls("pay")] * 5, "Done.", tools=[bank.pay("repeatable")])
    woken = []

    async def wake(principal: object, session_id: str) -> None:
        woken.append(session_id)

    app.engine._wake = wake
    run = await app.engine.answer(said(session_id="s", key="k"), stop_at=1.0, wait_seconds=0.2)
    assert (run.done, woken, len(stage.model.prompts)) == (False, ["s"], 1)


@pytest.mark.parametrize("seconds", [3600, -3600])
async def test_a_clock_that_jumps_neither_ends_a_run_nor_its_tools(seconds: float) -> None:
    stage, bank = Stage(), Bank()

    @tool
    async def jump(cents: int) -> str:
        """Have the clock jump."""
        now, stage.clock._now = stage.clock._now, stage.clock._now + seconds
        stage.clock._start += stage.clock._now - now  # the other clock, that counts seconds, goes on
        return "jumped"

    app = stage.start(
        calls("jump"), calls("pay"), "Done.", tools=[jump, bank.pay("once")], limits=Limits(seconds=60)
    )
    run = await app.engine.answer(said(session_id="s"))
    assert (run.status, run.reply.text, bank.paid.total()) == ("succeeded", "Done.", 1)
