"""What a worker does with a queued message: wake-ups, whole messages, failures that pass and failures that stay."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from agent_core import Agent, App, Message, Principal, Reply, Turn
from agent_core.engine.runs import Inbound
from agent_core.errors import (
    InputError,
    MalformedError,
    ModelBusyError,
    ModelRefusedError,
    NotFoundError,
    StoreBusyError,
    StoreError,
)
from agent_core.messages import Prompt
from agent_core.queues.base import Counts, Entry, Received
from agent_core.queues.consumer import process
from agent_core.store.memory import MemoryStore
from agent_core.testing import Fault, FaultyStore, ManualClock, ScriptedModel, test_app
from agent_core.worker import RunBrokeOffError, RunFailedError

ME = Principal()


def app_of(*script: object, clock: ManualClock | None = None, **settings: Any) -> App:
    agent = Agent(name="assistant", model=ScriptedModel(script))
    return test_app(agent, clock=clock, **({"queue": "memory"} | settings))


def said(text: str, **fields: Any) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), **fields)


def record(body: object, *, id: str = "m1", dedupe: str = "") -> Received:
    text = body if isinstance(body, str) else json.dumps(body)
    return Received(id=id, receipt="r", body=text, dedupe=dedupe)


async def texts(app: App, session: str) -> list[str]:
    return [message.text for message in (await app.engine.session(ME, session)).messages]


async def test_a_whole_message_is_answered_once_however_often_it_comes() -> None:
    app = app_of("Hello.")
    for _ in range(3):
        await app.desk.handle(record({"message": "Hi", "session_id": "s"}))
    assert await texts(app, "s") == ["Hi", "Hello."]
    [run] = await app.engine.runs(ME)
    assert (run.channel, run.status) == ("queue", "succeeded")


async def test_the_dedupe_id_counts_before_the_id_of_the_message() -> None:
    app = app_of("Hello.")
    for number in range(2):
        await app.desk.handle(record({"message": "Hi", "session_id": "s"}, id=f"m{number}", dedupe="order-7"))
    assert await texts(app, "s") == ["Hi", "Hello."]


async def test_two_messages_are_two_runs() -> None:
    app = app_of("One.", "Two.")
    for number in range(2):
        await app.desk.handle(record({"message": "Hi", "session_id": "s"}, id=f"m{number}"))
    assert await texts(app, "s") == ["Hi", "One.", "Hi", "Two."]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("Test message.", MalformedError),
        ("[1]", MalformedError),
        ('{"session": {"tenant": "default"}}', MalformedError),
        ('{"session": {"tenant": "a", "user": "b", "session_id": "c", "more": 1}}', MalformedError),
        ("{}", InputError),
        ('{"message": "Hi", "colour": "red"}', InputError),
        ('{"message": "Hi", "agent": "nobody"}', NotFoundError),
        ('{"message": "Hi", "callback": "https://example.com"}', InputError),
    ],
)
async def test_what_can_never_be_done_is_a_permanent_error(body: str, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        await app_of().desk.handle(record(body))
    assert not getattr(raised.value, "retryable", True)


async def test_a_run_that_failed_for_a_passing_reason_is_tried_again_when_the_message_comes_again() -> None:
    app = app_of(ModelBusyError("busy"), "Hello.")
    with pytest.raises(RunBrokeOffError, match="busy") as raised:
        await app.desk.handle(record({"message": "Hi", "session_id": "s"}))
    assert raised.value.retryable
    await app.desk.handle(record({"message": "Hi", "session_id": "s"}))
    assert (await texts(app, "s"))[-1] == "Hello."


async def test_a_run_that_failed_for_good_is_a_permanent_error() -> None:
    app = app_of(ModelRefusedError("no"))
    with pytest.raises(RunFailedError, match="no"):
        await app.desk.handle(record({"message": "Hi"}))


async def test_a_wake_up_has_the_inbox_worked_on_to_its_end() -> None:
    app = app_of("Hello.")
    run = await app.engine.hand_in(said("Hi", session_id="s"))
    assert run.status == "queued"
    assert app.queue is not None
    [woken] = await app.queue.receive()
    await app.desk.handle(woken)
    assert (await app.engine.run(ME, run.id)).status == "succeeded"
    await app.desk.handle(woken)  # doubled: it finds nothing
    assert await texts(app, "s") == ["Hi", "Hello."]


async def test_a_wake_up_for_a_session_that_somebody_works_on_is_done_at_once() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow:
        name = "assistant"

        async def respond(self, messages: Sequence[Message], turn: Turn) -> Reply:
            asked.set()
            await answer.wait()
            return Reply(message=Message.of("assistant", "Done."))

    app = test_app(Slow(), queue="memory")
    run = await app.engine.submit(said("Hi", session_id="s"))
    await asked.wait()
    await app.desk.handle(record({"session": {"tenant": "default", "user": "local", "session_id": "s"}}))
    answer.set()
    await app.engine.drain()
    assert (await app.engine.run(ME, run.id)).status == "succeeded"


class Gated:
    """An agent that answers when it is let."""

    name = "assistant"

    def __init__(self) -> None:
        self.asked, self.open, self.answers = asyncio.Event(), asyncio.Event(), 0

    async def respond(self, messages: Sequence[Message], turn: Turn) -> Reply:
        self.answers += 1
        self.asked.set()
        await self.open.wait()
        return Reply(message=Message.of("assistant", "Done."))


async def asleep(clock: ManualClock, times: int) -> None:
    """Let others look at the clock so many times."""
    for _ in range(times):
        for _ in range(100):
            await asyncio.sleep(0)
        clock.advance(1)


async def test_a_message_that_comes_twice_waits_for_its_run_and_uses_up_one_receive() -> None:
    clock, gated = ManualClock(), Gated()
    app = test_app(gated, queue="memory", clock=clock)
    assert app.queue is not None
    assert app.queue.dead is not None
    await app.queue.send(Entry(body='{"message": "Hi", "session_id": "s"}'))
    [first] = await app.queue.receive()
    working = asyncio.create_task(app.desk.handle(first))
    await gated.asked.wait()
    await app.queue.extend([first.receipt], 0)
    again = await app.queue.receive()
    second = asyncio.create_task(process(again, app.desk.handle, queue=app.queue, clock=clock, delete=True))
    await asleep(clock, 20)
    assert not second.done()
    gated.open.set()
    await working
    await asleep(clock, 10)
    assert len((await second).done) == 1
    assert (gated.answers, again[0].receive_count) == (1, 2)
    assert (await app.queue.counts(), await app.queue.dead.counts()) == (Counts(), Counts())


async def test_a_message_for_a_session_that_takes_no_second_one_waits_for_its_turn() -> None:
    clock = ManualClock()
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow:
        """Holds up the first message."""

        async def process(self, message: Message) -> Message:
            asked.set()
            await answer.wait()
            return message

    one = Agent(name="assistant", model=ScriptedModel(["One.", "Two."]), busy="reject", plugins=(Slow(),))
    app = test_app(one, queue="memory", clock=clock)
    first = await app.engine.submit(said("First", session_id="s"))
    await asked.wait()
    second = asyncio.create_task(app.desk.handle(record({"message": "Second", "session_id": "s"})))
    await asleep(clock, 20)
    assert not second.done()
    answer.set()
    await app.engine.drain()
    await asleep(clock, 10)
    await second
    assert (await app.engine.run(ME, first.id)).status == "succeeded"
    assert (await texts(app, "s"))[-2:] == ["Second", "Two."]


async def test_near_the_platforms_end_a_message_that_is_answered_elsewhere_is_left_to_the_store() -> None:
    clock, gated = ManualClock(), Gated()
    app = test_app(gated, queue="memory", clock=clock)
    message = record({"message": "Hi", "session_id": "s"})
    first = asyncio.create_task(app.desk.handle(message))
    await gated.asked.wait()
    await app.desk.handle(message, stop_at=clock.now() + 0.1)
    assert not first.done()
    gated.open.set()
    await first


async def test_a_wake_up_is_no_dead_letter_while_the_store_is_out_of_reach() -> None:
    clock = ManualClock()
    store = FaultyStore(
        MemoryStore(clock), [Fault(n, StoreBusyError("locked"), "write") for n in range(2, 12)]
    )
    app = test_app(
        Agent(name="assistant", model=ScriptedModel(["Hello."])), store=store, clock=clock, queue="memory"
    )
    assert app.queue is not None
    assert app.queue.dead is not None
    await app.engine.hand_in(said("Hi", session_id="s"))
    while records := await app.queue.receive():
        await process(records, app.desk.handle, queue=app.queue, clock=clock, delete=True)
        clock.advance(400)
    assert (await app.queue.counts(), await app.queue.dead.counts()) == (Counts(), Counts())


async def test_a_wake_up_says_whose_it_is_so_that_tenants_take_turns() -> None:
    app = app_of()
    assert app.queue is not None
    for tenant in ("acme", "naïve tenant"):
        await app.engine.wake(Principal(tenant=tenant, user="u"), "s")
    groups = [woken.group for woken in await app.queue.receive()]
    assert "acme" in groups
    assert all(group.isascii() and 0 < len(group) <= 128 for group in groups)
    assert len(set(groups)) == 2


async def test_the_sweeper_sends_a_wake_up_instead_of_working_here() -> None:
    clock = ManualClock()
    app = app_of("Hello.", clock=clock)
    await app.engine.submit(said("Hi", session_id="s"), work=False)
    clock.advance(31)
    assert (await app.engine.sweep()).resumed == 1
    assert app.queue is not None
    assert (await app.queue.counts()).visible == 1


async def test_where_the_queue_fails_the_work_is_done_here() -> None:
    app = app_of("Hello.")

    async def out_of_order(principal: Principal, session_id: str) -> None:
        raise StoreError("the queue is out of order")

    app.engine._wake = out_of_order
    run = await app.engine.hand_in(said("Hi", session_id="s"))
    await app.engine.drain()
    assert (await app.engine.run(ME, run.id)).status == "succeeded"


async def test_near_the_platforms_end_the_message_is_done_once_it_was_accepted() -> None:
    clock = ManualClock()
    app = app_of("Hello.", clock=clock)
    await app.desk.handle(record({"message": "Hi", "session_id": "s"}), stop_at=clock.now() - 1)
    await app.engine.drain()
    assert await texts(app, "s") == ["Hi", "Hello."]  # each attempt does one step


async def test_a_store_that_fails_leaves_the_message_to_come_again() -> None:
    clock = ManualClock()
    store = FaultyStore(MemoryStore(clock), [Fault(1, StoreBusyError("locked"), "write")])
    app = test_app(
        Agent(name="assistant", model=ScriptedModel(["Hello."])), store=store, clock=clock, queue="memory"
    )
    assert app.queue is not None
    await app.queue.send(Entry(body='{"message": "Hi", "session_id": "s"}'))
    for expected in ("failed", "done"):
        records = await app.queue.receive()
        outcome = await process(records, app.desk.handle, queue=app.queue, clock=clock, delete=True)
        assert len(getattr(outcome, expected)) == 1
        clock.advance(400)
    assert await texts(app, "s") == ["Hi", "Hello."]


async def test_the_loop_works_on_the_queue_until_it_is_cancelled() -> None:
    asked = asyncio.Event()

    def answer(prompt: Prompt) -> str:
        asked.set()
        return "Hello."

    app = app_of(answer)
    working = asyncio.create_task(app.work())
    run = await app.engine.hand_in(said("Hi", session_id="s"))
    await asked.wait()  # handled by the loop: nobody else works here
    working.cancel()
    await asyncio.wait({working})
    await app.engine.drain()
    assert (await app.engine.run(ME, run.id)).status == "succeeded"


async def test_without_a_queue_there_is_nothing_to_do() -> None:
    app = app_of(queue="")
    await app.work()
    assert app.queue is None
