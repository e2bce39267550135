"""What happens to a run whose worker dies, waits, is late or is cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from agent_core import Agent, Limits, Tool, Turn, tool
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.accept import lease_of, take
from agent_core.engine.kit import Deliverer
from agent_core.engine.runs import Delivery, Inbound, Run
from agent_core.errors import ConflictError, ModelBusyError, NotFoundError, WireError
from agent_core.messages import Message, Principal, Prompt, Reply, ToolCall, Usage
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, ScriptedModel, test_app
from tests.marks import inside

ME = Principal()


def said(text: str, **fields: object) -> Inbound:
    return Inbound(messages=(Message.of("user", text),), **fields)


def call(name: str, arguments: str = "{}") -> Reply:
    made = (ToolCall("c1", name, arguments),)
    return Reply(
        message=Message(role="assistant", tool_calls=made), finish="tool_calls", usage=Usage(10, 0, 5)
    )


class Bank:
    """A tool with effects, counted by idempotency key; the first call may hang, as in a process that dies."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.paid: Counter[str] = Counter()
        self.hangs = hangs
        self.called = asyncio.Event()

    def pay(self, effects: str, *, approval: bool = False, lookup: bool = False) -> Tool:
        async def pay(cents: int, turn: Turn) -> str:
            """Pay."""
            self.paid[turn.idempotency_key] += 1
            self.called.set()
            if self.hangs:
                await asyncio.Event().wait()
            return f"paid {cents}"

        found = (lambda key: "paid before" if self.paid[key] else None) if lookup else None
        return tool(effects=effects, approval=approval, lookup=found)(pay)


class World:
    """One store that outlives the processes (apps) that work on it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)

    def start(self, *script: object, **agent: object) -> App:
        self.model = ScriptedModel(script)
        return test_app(
            Agent(name="assistant", model=self.model, **agent), store=self.store, clock=self.clock
        )

    async def died_in_tool(self, bank: Bank, paying: Tool) -> None:
        """A process is lost while its tool is at work."""
        app = self.start(call("pay", '{"cents": 5}'), tools=[paying])
        await app.engine.submit(said("Pay", key="k", session_id="s"))
        await bank.called.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        bank.hangs = False
        self.clock.advance(31)


async def test_the_sweeper_has_a_dead_workers_run_finished_without_paying_the_model_again() -> None:
    world, bank = World(), Bank(hangs=True)
    await world.died_in_tool(bank, bank.pay("repeatable"))
    app = world.start("Done.", tools=[bank.pay("repeatable")])
    swept = await app.engine.sweep()
    await app.engine.drain()
    run = await app.engine.run(ME, keys.run_id(ME, "k"))
    assert (swept.resumed, run.status, run.reply.text, run.steps) == (1, "succeeded", "Done.", 3)
    assert len(bank.paid) == 1  # tried twice, but under one key
    world.model.assert_used_up()
    assert (await app.engine.sweep()).resumed == 0


async def test_a_retry_of_the_caller_heals_a_dead_workers_run() -> None:
    world, bank = World(), Bank(hangs=True)
    await world.died_in_tool(bank, bank.pay("repeatable"))
    app = world.start("Done.", tools=[bank.pay("repeatable")])
    run = await app.engine.answer(said("Pay", key="k", session_id="s"))
    assert run.reply.text == "Done."


async def test_the_next_message_of_the_session_finds_the_dead_workers_run_answered_first() -> None:
    world, bank = World(), Bank(hangs=True)
    await world.died_in_tool(bank, bank.pay("repeatable"))
    app = world.start("Done.", "Second.", tools=[bank.pay("repeatable")])
    run = await app.engine.answer(said("And?", session_id="s"))
    assert run.reply.text == "Second."
    page = await app.engine.session(ME, "s")
    assert [m.text for m in page.messages if m.text] == ["Pay", "Done.", "And?", "Second."]


async def test_a_tool_for_once_is_not_run_again_after_a_crash_but_asked_about() -> None:
    world, bank = World(), Bank(hangs=True)
    await world.died_in_tool(bank, bank.pay("once"))
    app = world.start("Nothing more was done.", tools=[bank.pay("once")])
    run = await app.engine.answer(said("Pay", key="k", session_id="s"))
    assert run.status == "waiting"
    assert [(q.reason, q.tool, q.status) for q in run.questions] == [("uncertain", "pay", "asked")]
    await app.engine.deny(ME, run.id, run.questions[0].hash)
    await app.engine.drain()
    run = await app.engine.run(ME, run.id)
    assert (run.status, run.reply.text) == ("succeeded", "Nothing more was done.")
    assert bank.paid.total() == 1


async def test_a_tool_for_once_with_a_lookup_tells_itself_whether_it_ran() -> None:
    world, bank = World(), Bank(hangs=True)
    await world.died_in_tool(bank, bank.pay("once", lookup=True))
    app = world.start("Done.", tools=[bank.pay("once", lookup=True)])
    run = await app.engine.answer(said("Pay", key="k", session_id="s"))
    assert run.reply.text == "Done."
    assert inside(world.model.prompts[0].messages[-1].tool_results[0].content) == "paid before"
    assert bank.paid.total() == 1


async def test_an_approved_call_is_made_once_and_a_second_answer_is_refused() -> None:
    world, bank = World(), Bank()
    app = world.start(call("pay", '{"cents": 5}'), "Paid.", tools=[bank.pay("once", approval=True)])
    waiting = await app.engine.answer(said("Pay", session_id="s"))
    assert waiting.status == "waiting"
    assert bank.paid.total() == 0
    [question] = waiting.questions
    with pytest.raises(NotFoundError):
        await app.engine.approve(ME, waiting.id, "0" * 64)
    with pytest.raises(NotFoundError):
        await app.engine.approve(Principal(user="eve"), waiting.id, question.hash)
    await app.engine.approve(ME, waiting.id, question.hash)
    with pytest.raises(ConflictError):
        await app.engine.approve(ME, waiting.id, question.hash)
    await app.engine.drain()
    run = await app.engine.run(ME, waiting.id)
    assert (run.status, run.reply.text, bank.paid.total()) == ("succeeded", "Paid.", 1)


async def test_parallel_approvals_count_once() -> None:
    world, bank = World(), Bank()
    app = world.start(call("pay", '{"cents": 5}'), "Paid.", tools=[bank.pay("once", approval=True)])
    waiting = await app.engine.answer(said("Pay"))
    answers = await asyncio.gather(
        *(app.engine.approve(ME, waiting.id, waiting.questions[0].hash) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Run) for answer in answers) == 1
    await app.engine.drain()
    assert bank.paid.total() == 1


async def test_a_denied_call_is_not_made_and_the_model_is_told() -> None:
    world, bank = World(), Bank()
    app = world.start(call("pay", '{"cents": 5}'), "As you wish.", tools=[bank.pay("once", approval=True)])
    waiting = await app.engine.answer(said("Pay"))
    await app.engine.deny(ME, waiting.id, waiting.questions[0].hash)
    await app.engine.drain()
    run = await app.engine.run(ME, waiting.id)
    assert (run.reply.text, bank.paid.total()) == ("As you wish.", 0)
    assert "said no" in world.model.prompts[-1].messages[-1].tool_results[0].content


async def test_an_approval_that_ran_out_ends_as_no() -> None:
    world, bank = World(), Bank()
    app = world.start(call("pay", '{"cents": 5}'), "Too late.", tools=[bank.pay("once", approval=True)])
    waiting = await app.engine.answer(said("Pay"))
    assert (await app.engine.sweep()).resumed == 0
    world.clock.advance(301)
    with pytest.raises(ConflictError):
        await app.engine.approve(ME, waiting.id, waiting.questions[0].hash)
    assert (await app.engine.sweep()).resumed == 1
    await app.engine.drain()
    assert ((await app.engine.run(ME, waiting.id)).reply.text, bank.paid.total()) == ("Too late.", 0)


async def test_arguments_that_do_not_fit_go_back_to_the_model_and_nobody_is_asked() -> None:
    world, bank = World(), Bank()
    app = world.start(call("pay", '{"cents": "many"}'), "Sorry.", tools=[bank.pay("once", approval=True)])
    run = await app.engine.answer(said("Pay"))
    assert (run.status, bank.paid.total()) == ("succeeded", 0)


async def test_messages_behind_a_waiting_run_are_answered_after_it_in_order() -> None:
    world, bank = World(), Bank()
    app = world.start(call("pay", '{"cents": 5}'), "Paid.", "Hello.", tools=[bank.pay("once", approval=True)])
    waiting = await app.engine.answer(said("Pay", session_id="s"))
    second = await app.engine.submit(said("Hi", session_id="s"))
    await app.engine.drain()
    assert not (await app.engine.run(ME, second.id)).done
    await app.engine.approve(ME, waiting.id, waiting.questions[0].hash)
    await app.engine.drain()
    page = await app.engine.session(ME, "s")
    assert [m.text for m in page.messages if m.text] == ["Pay", "Paid.", "Hi", "Hello."]


async def test_forty_steps_over_ten_deadlines_of_three_seconds_give_one_answer_and_repeat_no_call() -> None:
    world, bank = World(), Bank()
    asked = 0

    def thinks(prompt: Prompt) -> Reply | str:
        nonlocal asked
        asked += 1
        world.clock.advance(1.5)  # two rounds fill a deadline
        return call("pay", f'{{"cents": {asked}}}') if asked <= 20 else "All paid."

    app = world.start(*[thinks] * 21, tools=[bank.pay("repeatable")], limits=Limits(steps=50))
    deadlines: list[float] = []

    async def wake(principal: Principal, session_id: str) -> None:
        deadlines.append(world.clock.now() + 3)
        await app.engine.resume(principal, session_id, stop_at=deadlines[-1])

    app.engine._wake = wake
    run = await app.engine.answer(said("Pay all", session_id="s"), stop_at=world.clock.now() + 3)
    assert (run.status, run.reply.text, run.steps) == ("succeeded", "All paid.", 41)
    assert len(deadlines) == 10  # times that it was handed over
    assert asked == 21  # no model call twice
    assert bank.paid.total() == len(bank.paid) == 20  # no tool call twice
    assert len((await app.engine.session(ME, "s")).messages) == 42


async def test_cancel_takes_effect_at_the_next_step() -> None:
    world = World()
    called, hold = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        called.set()
        await hold.wait()
        return "waited"

    app = world.start(call("wait"), "never said", tools=[wait])
    task = asyncio.create_task(app.engine.answer(said("Go", key="k")))
    await called.wait()
    await app.engine.cancel(ME, keys.run_id(ME, "k"))
    hold.set()
    run = await task
    assert (run.status, run.failure.slug) == ("cancelled", "cancelled")
    assert world.model.left == 1


async def test_a_run_that_dies_every_time_is_given_up_and_the_session_goes_on() -> None:
    world, bank = World(), Bank(hangs=True)
    for _ in range(6):
        bank.called.clear()
        bank.hangs = True
        app = world.start(call("pay", '{"cents": 5}'), tools=[bank.pay("repeatable")])
        await app.engine.sweep() if bank.paid else await app.engine.submit(
            said("Pay", key="k", session_id="s")
        )
        await asyncio.wait_for(bank.called.wait(), 5)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        world.clock.advance(31)
    app = world.start("Hello.", tools=[bank.pay("repeatable")])
    assert (await app.engine.sweep()).given_up == 1
    await app.engine.drain()
    run = await app.engine.run(ME, keys.run_id(ME, "k"))
    assert (run.status, run.failure.slug) == ("failed", "given-up")
    assert (await app.engine.answer(said("Hi", session_id="s"))).reply.text == "Hello."
    [letter] = await app.engine.dead(ME)
    assert (letter.run_id, letter.kind, letter.attempts) == (run.id, "run", 5)
    bank.hangs = False
    app = world.start("Paid at last.", tools=[bank.pay("repeatable")])
    await app.engine.redrive(ME, run.id)
    await app.engine.drain()
    run = await app.engine.run(ME, run.id)
    assert (run.status, run.reply.text) == ("succeeded", "Paid at last.")
    assert await app.engine.dead(ME) == []
    assert len(bank.paid) == 1


class Postman(Deliverer):
    """Takes what is pushed, after as many failures as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.taken: list[tuple[str, str]] = []

    async def deliver(self, run: Run, delivery: Delivery, push_id: str) -> None:
        if self.failures:
            self.failures -= 1
            raise WireError("nobody at home")
        self.taken.append((push_id, run.reply.text))


async def test_a_reply_is_pushed_again_until_it_arrives_under_one_id() -> None:
    world, postman = World(), Postman(failures=2)
    app = world.start("Hello.")
    app.engine._kit.deliverers["callback"] = postman
    run = await app.engine.answer(said("Hi", delivery=Delivery("callback", "http://127.0.0.1/")))
    await app.engine.drain()
    assert postman.taken == []
    for _ in range(3):
        world.clock.advance(400)
        await app.engine.sweep()
    assert postman.taken == [(run.id, "Hello.")]


async def test_a_session_with_nothing_due_costs_the_sweeper_one_query() -> None:
    world = World()
    app = world.start(ModelBusyError("busy"))
    await app.engine.answer(said("Hi"))
    page = await world.store.query(keys.DUE)
    assert page.records == ()


async def waiting_tool(world: World, *script: object, busy: str) -> tuple[App, asyncio.Event, asyncio.Event]:
    """An app whose first run is held in a tool until the second event is set."""
    called, hold = asyncio.Event(), asyncio.Event()

    @tool
    async def wait() -> str:
        """Wait."""
        called.set()
        await hold.wait()
        return "waited"

    return world.start(call("wait"), *script, tools=[wait], busy=busy), called, hold


async def arrived(world: World) -> None:
    """Until a second message stands in the inbox."""
    while len((await world.store.query(keys.session(ME, "s"), keys.PENDING)).records) < 2:
        pass


async def test_an_interrupting_message_stops_the_run_at_its_next_step_and_is_answered() -> None:
    world = World()
    app, called, hold = await waiting_tool(world, "Answer to the second.", busy="interrupt")
    first = asyncio.create_task(app.engine.answer(said("First", session_id="s")))
    await called.wait()
    second = asyncio.create_task(app.engine.answer(said("No: second", session_id="s")))
    await arrived(world)
    hold.set()
    assert ((await first).status, (await first).failure.slug) == ("cancelled", "interrupted")
    assert (await second).reply.text == "Answer to the second."
    assert [m.text for m in world.model.prompts[-1].messages] == ["First", "No: second"]


async def test_merged_messages_join_the_next_model_call_and_get_its_answer() -> None:
    world = World()
    app, called, hold = await waiting_tool(world, "Answer to both.", busy="merge")
    first = asyncio.create_task(app.engine.answer(said("First", session_id="s")))
    await called.wait()
    second = asyncio.create_task(app.engine.answer(said("And this", session_id="s")))
    await arrived(world)
    hold.set()
    assert (await first).reply.text == (await second).reply.text == "Answer to both."
    assert (await second).metadata["merged_into"] == (await first).id
    assert [m.text for m in world.model.prompts[-1].messages if m.role == "user"] == ["First", "And this"]
    page = await app.engine.session(ME, "s")
    assert [m.text for m in page.messages if m.text] == ["First", "And this", "Answer to both."]
    assert (await world.store.query(keys.DUE)).records == ()


async def test_the_time_a_run_waits_for_a_worker_does_not_count() -> None:
    world = World()
    app = world.start("Hello.", limits=Limits(seconds=60))
    run = await app.engine.submit(said("Hi", session_id="s"), work=False)
    world.clock.advance(3600)
    await app.engine.sweep()
    await app.engine.drain()
    assert (await app.engine.run(ME, run.id)).status == "succeeded"


async def test_a_dead_letter_is_brought_back_with_its_time_begun_anew() -> None:
    world, bank = World(), Bank(hangs=True)
    await world.died_in_tool(bank, bank.pay("repeatable"))
    app = world.start("Done.", tools=[bank.pay("repeatable")], limits=Limits(seconds=60))

    for _ in range(5):  # whoever takes it dies at once
        await take(app.engine._kit, lease_of(app.engine._kit, ME, "s"))
        world.clock.advance(61)
    assert (await app.engine.sweep()).given_up == 1
    await app.engine.drain()
    world.clock.advance(3600)
    letter = await app.engine.redrive(ME, keys.run_id(ME, "k"))
    await app.engine.drain()
    run = await app.engine.run(ME, letter.run_id)
    assert (run.status, run.steps) == ("succeeded", 3)
    world.model.assert_used_up()
