"""A batch's records run side by side, fail apart, and are never lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_core.errors import (
    ConfigError,
    LeaseLostError,
    ModelBusyError,
    NotFoundError,
    StoreError,
)
from agent_core.queues.base import Counts, Entry, Received, Rules
from agent_core.queues.consumer import LONGEST_PAUSE, Outcome, consume, is_permanent, pause_before, process
from agent_core.queues.memory import MemoryQueue
from agent_core.testing import ManualClock

T = TypeVar("T")


class FailingQueue(MemoryQueue):
    """A queue whose next calls of some verb fail."""

    def __init__(self, clock: ManualClock, rules: Rules) -> None:
        super().__init__(clock, rules)
        self.failing: dict[str, int] = {}

    def _fail(self, verb: str) -> None:
        if self.failing.get(verb, 0) > 0:
            self.failing[verb] -= 1
            raise StoreError(f"{verb} failed")

    async def receive(self, *args: Any, **options: Any) -> tuple[Received, ...]:
        self._fail("receive")
        return await super().receive(*args, **options)

    async def delete(self, receipts: Sequence[str]) -> tuple[str, ...]:
        self._fail("delete")
        return await super().delete(receipts)

    async def extend(self, receipts: Sequence[str], seconds: int) -> tuple[str, ...]:
        self._fail("extend")
        return await super().extend(receipts, seconds)

    async def bury(self, record: Received, reason: str) -> bool:
        self._fail("bury")
        return await super().bury(record, reason)


class House:
    """A queue with messages in it, and a handler that does as each body says."""

    def __init__(self, *bodies: str, **rules: Any) -> None:
        self.clock = ManualClock()
        self.queue = FailingQueue(self.clock, Rules(**rules))
        self.bodies = bodies
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.errors: dict[str, BaseException] = {}

    async def send(self) -> None:
        for number, body in enumerate(self.bodies):
            if self.queue.rules.fifo:
                await self.queue.send(Entry(body=body, group=body[0], dedupe=str(number)))
            else:
                await self.queue.send(Entry(body=body))

    async def received(self) -> tuple[Received, ...]:
        await self.send()
        return await self.queue.receive()

    async def handle(self, record: Received) -> None:
        self.begun.append(record.body)
        if gate := self.gates.get(record.body):
            await gate.wait()
        if error := self.errors.get(record.body):
            raise error
        self.ended.append(record.body)

    async def process(self, records: Sequence[Received] | None = None, **options: Any) -> Outcome:
        records = await self.received() if records is None else records
        return await process(records, self.handle, queue=self.queue, clock=self.clock, **options)

    def gate(self, body: str) -> asyncio.Event:
        return self.gates.setdefault(body, asyncio.Event())


def bodies(records: Sequence[Received]) -> list[str]:
    return [record.body for record in records]


async def turns(until: Callable[[], object] = lambda: False, most: int = 200) -> None:
    """Let the other tasks run until something holds, or they have nothing left to do."""
    for _ in range(most):
        if until():
            return
        await asyncio.sleep(0)


async def in_steps(clock: ManualClock, work: Coroutine[Any, Any, T] | Awaitable[T], step: float = 1.0) -> T:
    """Let time pass until the work ends."""
    task = asyncio.ensure_future(work)
    for _ in range(10_000):
        await turns(task.done)
        if task.done():
            return task.result()
        clock.advance(step)
    raise AssertionError("it never ends")


# -- a batch


async def test_all_done() -> None:
    house = House("a", "b", "c")
    outcome = await house.process()
    assert (bodies(outcome.done), outcome.buried, outcome.failed) == (["a", "b", "c"], (), ())
    assert await house.queue.counts() == Counts(in_flight=3), "the trigger deletes them"


async def test_done_is_deleted_at_once() -> None:
    house = House("a", "b")
    house.gate("b")
    working = asyncio.create_task(house.process(delete=True))
    await turns()
    assert await house.queue.counts() == Counts(in_flight=1)
    house.gates["b"].set()
    assert bodies((await working).done) == ["a", "b"]
    assert await house.queue.counts() == Counts()


async def test_an_empty_batch() -> None:
    assert await House().process([]) == Outcome()


async def test_records_run_side_by_side() -> None:
    house = House(*"abcdefghij")
    barrier = asyncio.Barrier(10)

    async def handle(record: Received) -> None:
        await barrier.wait()

    records = await house.received()
    outcome = await asyncio.wait_for(process(records, handle, queue=house.queue, clock=house.clock), 5)
    assert len(outcome.done) == 10


async def test_no_more_at_once_than_asked_for() -> None:
    house = House(*"abcdefghij")
    for body in house.bodies:
        house.gate(body)
    working = asyncio.create_task(house.process(concurrency=3))
    await turns()
    assert house.begun == ["a", "b", "c"]
    house.gates["b"].set()
    await turns()
    assert house.begun == ["a", "b", "c", "d"]
    for gate in house.gates.values():
        gate.set()
    assert len((await working).done) == 10


async def test_a_group_runs_in_order() -> None:
    house = House("a1", "a2", "b1", "a3", "b2", fifo=True)
    house.gate("a1")
    working = asyncio.create_task(house.process())
    await turns()
    assert (house.begun, house.ended) == (["a1", "b1", "b2"], ["b1", "b2"])
    house.gates["a1"].set()
    outcome = await working
    assert house.ended == ["b1", "b2", "a1", "a2", "a3"]
    assert sorted(bodies(outcome.done)) == ["a1", "a2", "a3", "b1", "b2"]


# -- failures


async def test_a_failure_holds_up_nobody_and_comes_again() -> None:
    house = House("a", "bad", "c")
    house.errors["bad"] = ModelBusyError("overloaded")
    outcome = await house.process(delete=True)
    assert (bodies(outcome.done), bodies(outcome.failed)) == (["a", "c"], ["bad"])
    assert await house.queue.receive() == (), "after a pause"
    house.clock.advance(2)
    (again,) = await house.queue.receive()
    assert (again.body, again.receive_count) == ("bad", 2)


async def test_in_a_fifo_group_all_behind_a_failure_come_again() -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html"""
    house = House("a1", "a2", "a3", "b1", "b2", fifo=True)
    house.errors["a2"] = ModelBusyError("overloaded", retry_after=9.5)
    outcome = await house.process(delete=True)
    assert sorted(bodies(outcome.done)) == ["a1", "b1", "b2"]
    assert bodies(outcome.failed) == ["a2", "a3"]
    assert "a3" not in house.begun
    del house.errors["a2"]
    house.clock.advance(9.5)
    assert await house.queue.receive() == ()
    house.clock.advance(0.5)
    while records := await house.queue.receive():
        await house.process(records, delete=True)
    assert house.ended[-2:] == ["a2", "a3"]
    assert await house.queue.counts() == Counts()


async def test_a_permanent_error_goes_to_the_dead_letters_at_once_and_its_group_goes_on() -> None:
    house = House("a1", "a2", fifo=True)
    house.errors["a1"] = NotFoundError("there is no agent 'x'")
    outcome = await house.process(delete=True)
    assert (bodies(outcome.buried), bodies(outcome.done), outcome.failed) == (["a1"], ["a2"], ())
    assert house.queue.dead is not None
    (letter,) = await house.queue.dead.receive()
    assert letter.reason == "not-found: there is no agent 'x'"
    assert await house.queue.counts() == Counts()


async def test_the_last_receive_ends_with_the_reason_and_its_group_goes_on() -> None:
    house = House("a1", "a2", fifo=True, max_receives=3)
    house.errors["a1"] = ModelBusyError("overloaded")
    outcomes = [await house.process()]
    for _ in range(2):
        house.clock.advance(LONGEST_PAUSE)
        outcomes.append(await house.process(await house.queue.receive(), delete=True))
    assert [bodies(outcome.failed) for outcome in outcomes] == [["a1", "a2"], ["a1"], []]
    assert bodies(outcomes[2].buried) == ["a1"]
    (next_one,) = await house.queue.receive()
    assert (next_one.body, next_one.receive_count) == ("a2", 2)
    assert house.queue.dead is not None
    (letter,) = await house.queue.dead.receive()
    assert letter.reason == "model-busy: overloaded"


async def test_a_bug_is_tried_again_and_then_a_dead_letter() -> None:
    house = House("bad", max_receives=2)
    house.errors["bad"] = KeyError("x")
    assert bodies((await house.process()).failed) == ["bad"]
    house.clock.advance(LONGEST_PAUSE)
    assert bodies((await house.process(await house.queue.receive())).buried) == ["bad"]
    assert house.queue.dead is not None
    (letter,) = await house.queue.dead.receive()
    assert letter.reason == "KeyError: 'x'"


async def test_without_dead_letters_all_come_again() -> None:
    house = House("bad", max_receives=0)
    house.errors["bad"] = NotFoundError("no such agent")
    assert bodies((await house.process()).failed) == ["bad"]


async def test_what_cant_be_buried_comes_again() -> None:
    house = House("a1", "a2", fifo=True)
    house.errors["a1"] = NotFoundError("no such agent")
    house.queue.failing["bury"] = 1
    outcome = await house.process()
    assert bodies(outcome.failed) == ["a1", "a2"]
    house.clock.advance(LONGEST_PAUSE)
    assert bodies((await house.process(await house.queue.receive(), delete=True)).buried) == ["a1"]


async def test_what_cant_be_deleted_is_done_and_comes_again() -> None:
    house = House("a", "b")
    house.queue.failing["delete"] = 1
    outcome = await house.process(delete=True)
    assert bodies(outcome.done) == ["a", "b"]
    house.clock.advance(30)
    assert bodies(await house.queue.receive()) == ["a"]


async def test_a_group_stops_behind_what_cant_be_deleted() -> None:
    """Else the next would be done before this one is done again."""
    house = House("a1", "a2", fifo=True)
    house.queue.failing["delete"] = 1
    outcome = await house.process(delete=True)
    assert (bodies(outcome.done), bodies(outcome.failed)) == (["a1"], ["a2"])


async def test_something_cancelled_within_a_handler_is_a_failure_of_its_own() -> None:
    house = House("a", "bad", "c")

    async def handle(record: Received) -> None:
        if record.body == "bad":
            inner = asyncio.ensure_future(asyncio.Event().wait())
            inner.cancel()
            await inner

    outcome = await process(await house.received(), handle, queue=house.queue, clock=house.clock)
    assert (bodies(outcome.done), bodies(outcome.failed)) == (["a", "c"], ["bad"])


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (NotFoundError("x"), True),
        (ConfigError("x"), True),
        (ModelBusyError("x"), False),
        (StoreError("the disk is full"), False),
        (LeaseLostError("x"), False),
        (ValueError("x"), False),
        (asyncio.CancelledError(), False),
    ],
)
def test_what_trying_again_cant_help(error: BaseException, permanent: bool) -> None:
    assert is_permanent(error) is permanent


@given(
    receives=st.integers(1, 1000),
    chance=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(-10, 1e9),
)
def test_the_pause_before_another_try(receives: int, chance: float, asked: float | None) -> None:
    """An error says when to ask again at the earliest: asked each second, five receives would be used up in five."""
    pause = pause_before(receives, ModelBusyError("x", retry_after=asked), chance)
    longest = min(2 * 8 ** (receives - 1), LONGEST_PAUSE)
    assert max(1, longest / 2) <= pause <= 43_200
    if asked is None:
        assert pause <= longest
    elif asked <= 43_200:
        assert asked <= pause < max(asked, longest) + 1


def test_what_only_the_queue_can_bury_is_not_put_off() -> None:
    assert [pause_before(receives, NotFoundError("x"), 0.5) for receives in (1, 5, 15)] == [1, 1, 1]


def test_five_receives_outlast_a_store_that_is_out_of_reach_for_minutes() -> None:
    assert sum(pause_before(receives, StoreError("x"), 0.0) for receives in range(1, 5)) > 500


# -- keeping hold


async def test_a_long_handler_keeps_its_record() -> None:
    house = House("a1", "a2", fifo=True, visibility_seconds=30)
    house.gate("a1")
    working = asyncio.create_task(house.process(delete=True))
    for _ in range(200):
        await turns()
        house.clock.advance(1)
        assert await house.queue.receive() == ()
    house.gates["a1"].set()
    assert bodies((await working).done) == ["a1", "a2"]
    assert await house.queue.counts() == Counts()


async def test_a_heartbeat_may_fail_now_and_then() -> None:
    house = House("a", visibility_seconds=30)
    house.gate("a")
    working = asyncio.create_task(house.process(delete=True))
    for second in range(200):
        if second % 30 == 0:
            house.queue.failing["extend"] = 2
        await turns()
        house.clock.advance(1)
        assert await house.queue.receive() == ()
    house.gates["a"].set()
    assert bodies((await working).done) == ["a"]


async def test_a_batch_that_was_stopped_for_too_long_begins_nothing_more() -> None:
    """As a process does that was paused, or a machine that slept: by now another may have the group."""
    house = House("a1", "a2", "b1", fifo=True, visibility_seconds=30)
    house.gate("a1")
    house.queue.failing["extend"] = 100
    working = asyncio.create_task(house.process())
    await turns()
    house.clock.advance(31)
    assert bodies(await house.queue.receive()) == ["a1", "b1"]
    house.gates["a1"].set()
    outcome = await working
    assert (bodies(outcome.done), bodies(outcome.failed)) == (["a1", "b1"], ["a2"])
    assert "a2" not in house.begun


async def test_a_record_lost_to_another_is_not_begun() -> None:
    """The heartbeat hears that a receipt is refused, long before the time runs out."""
    house = House("a1", "a2", fifo=True, visibility_seconds=30)
    house.gate("a1")
    records = await house.received()
    working = asyncio.create_task(house.process(records))
    await turns()
    assert await house.queue.extend([record.receipt for record in records], 0) == ()
    house.clock.advance(10)
    await turns()
    house.gates["a1"].set()
    assert bodies((await working).failed) == ["a2"]
    assert "a2" not in house.begun


async def test_a_refused_delete_stops_the_group() -> None:
    """The group may be in other hands by then, even before the next heartbeat."""
    house = House("a1", "a2", fifo=True, visibility_seconds=30)
    house.gate("a1")
    records = await house.received()
    working = asyncio.create_task(house.process(records, delete=True))
    await turns()
    assert await house.queue.extend([record.receipt for record in records], 0) == ()
    house.gates["a1"].set()
    assert bodies((await working).failed) == ["a2"]
    assert "a2" not in house.begun


async def test_what_is_behind_a_failure_is_handed_back_while_others_work() -> None:
    house = House("a1", "a2", "b1", fifo=True)
    house.errors["a1"] = ModelBusyError("overloaded")
    house.gate("b1")
    working = asyncio.create_task(house.process())
    await turns()
    assert await house.queue.counts() == Counts(visible=1, in_flight=2)
    house.gates["b1"].set()
    await working


async def test_at_the_deadline_the_rest_is_handed_back() -> None:
    house = House("a", "slow", "c")
    house.gate("slow")
    deadline = house.clock.now() + 12
    outcome = await in_steps(house.clock, house.process(deadline=deadline, concurrency=2, delete=True))
    assert house.clock.now() == deadline
    assert (bodies(outcome.done), bodies(outcome.failed)) == (["a", "c"], ["slow"])
    assert bodies(await house.queue.receive()) == ["slow"], "at once, not after the time-out"


async def test_a_deadline_that_has_passed_begins_nothing() -> None:
    house = House("a", "b")
    house.gate("a"), house.gate("b")
    outcome = await in_steps(house.clock, house.process(deadline=house.clock.now() - 1))
    assert bodies(outcome.failed) == ["a", "b"]


async def test_a_cancelled_batch_hands_back_what_is_open() -> None:
    house = House("a", "slow", "slower")
    house.gate("slow"), house.gate("slower")
    working = asyncio.create_task(house.process(delete=True))
    await turns()
    working.cancel()
    await asyncio.wait([working])
    assert working.cancelled()
    assert await house.queue.counts() == Counts(visible=2)


FATES = {"ok": None, "busy": ModelBusyError("x"), "poison": NotFoundError("x"), "bug": KeyError("x")}


@settings(max_examples=150, deadline=None)
@given(
    records=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["ok", "ok", *FATES])), min_size=1, max_size=12
    ),
    fifo=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_batch_answers_as_sqs_wants_it(records: list[tuple[str, str]], fifo: bool, seed: int) -> None:
    """On FIFO: the first of a group that failed and all behind it; else those that failed, and no others."""
    house = House(*(f"{group}{fate}" for group, fate in records), fifo=fifo)
    order = random.Random(seed)

    async def handle(record: Received) -> None:
        for _ in range(order.randrange(5)):
            await asyncio.sleep(0)
        if error := FATES[record.body[1:]]:
            raise error

    async def run() -> tuple[Sequence[Received], Outcome]:
        received = await house.received()
        return received, await process(received, handle, queue=house.queue, clock=house.clock)

    received, outcome = asyncio.run(run())
    done, buried, failed = [], [], []
    stopped: set[str] = set()
    for record in received:
        if fifo and record.group in stopped:
            failed.append(record)
        elif record.body[1:] == "ok":
            done.append(record)
        elif record.body[1:] == "poison":
            buried.append(record)
        else:
            failed.append(record)
            stopped.add(record.group)
    assert outcome == Outcome(done=tuple(done), buried=tuple(buried), failed=tuple(failed))


# -- the loop


class Running:
    """A loop at work on a house's queue."""

    def __init__(self, house: House, **options: Any) -> None:
        self.house = house
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(
            consume(house.queue, house.handle, self.stop, clock=house.clock, **options)
        )

    async def __aenter__(self) -> Running:
        await turns()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.stop.set()
        for gate in self.house.gates.values():
            gate.set()
        await asyncio.wait_for(self.task, 10)


async def test_the_loop_does_what_comes() -> None:
    house = House(*(f"m{number}" for number in range(35)))
    async with Running(house):
        assert house.begun == []
        await house.send()
        await turns(lambda: len(house.ended) == 35, 10_000)
    assert house.ended == list(house.bodies)
    assert await house.queue.counts() == Counts()


async def test_the_loop_works_on_no_more_than_it_may() -> None:
    house = House(*(f"m{number}" for number in range(20)))
    for body in house.bodies:
        house.gate(body)
    await house.send()
    async with Running(house, concurrency=4):
        assert len(house.begun) == 4
        assert await house.queue.counts() == Counts(visible=16, in_flight=4), "others may have the rest"
        house.gates[house.begun[1]].set()
        await turns()
        assert len(house.begun) == 5, "a slow record keeps its own place alone"
    await turns()


async def test_the_loop_has_room_again_for_what_it_did_not_begin() -> None:
    house = House("a1", "a2", fifo=True)
    house.errors["a1"] = ModelBusyError("overloaded")
    await house.send()
    async with Running(house, concurrency=2):
        assert house.begun == ["a1"]
        house.errors.clear()
        house.gate("b1"), house.gate("c1")
        await house.queue.send(*(Entry(body=body, group=body[0], dedupe=body) for body in ("b1", "c1")))
        await turns()
        assert house.begun == ["a1", "b1", "c1"]


async def test_the_loop_stops_waiting_at_once() -> None:
    house = House()
    running = Running(house)
    await turns()
    running.stop.set()
    await asyncio.wait_for(running.task, 5)
    assert house.clock.now() == ManualClock().now()


async def test_a_loop_that_stops_ends_what_runs() -> None:
    house = House("a", "b")
    house.gate("a")
    await house.send()
    running = Running(house, concurrency=1)
    await turns()
    running.stop.set()
    await turns()
    assert not running.task.done()
    house.gates["a"].set()
    await asyncio.wait_for(running.task, 5)
    assert house.ended == ["a"]
    assert await house.queue.counts() == Counts(visible=1)


async def test_a_loop_hands_back_what_does_not_end_in_time() -> None:
    house = House("a", "b")
    house.gate("a"), house.gate("b")
    await house.send()
    running = Running(house, grace_seconds=10)
    await turns()
    running.stop.set()
    await in_steps(house.clock, running.task)
    assert house.clock.now() == ManualClock().now() + 10
    assert await house.queue.counts() == Counts(visible=2)


async def test_a_cancelled_loop_hands_back_what_it_holds() -> None:
    house = House("a", "b")
    house.gate("a"), house.gate("b")
    await house.send()
    running = Running(house)
    await turns()
    running.task.cancel()
    await asyncio.wait([running.task])
    assert running.task.cancelled()
    assert await house.queue.counts() == Counts(visible=2)


async def test_the_loop_outlives_a_queue_that_fails() -> None:
    house = House("a")
    house.queue.failing["receive"] = 3
    await house.send()
    running = Running(house)
    await turns()
    for _ in range(30):
        house.clock.advance(1)
        await turns()
    assert house.ended == ["a"]
    running.stop.set()
    await asyncio.wait_for(running.task, 5)


async def test_the_loop_brings_every_message_to_an_end() -> None:
    """Some fail now and then, some always, some for good: all are done or dead letters, each with its reason."""
    house = House(*(f"{'abcdefg'[number % 7]}{number}" for number in range(100)), fifo=True, max_receives=4)
    chance = random.Random(1)

    async def handle(record: Received) -> None:
        house.begun.append(record.body)
        number = int(record.body[1:])
        if number % 10 == 3:
            raise NotFoundError("for good")
        if number % 10 == 7:
            raise KeyError("always")
        if chance.random() < 0.1 and record.receive_count < 3:
            raise ModelBusyError("now and then")
        house.ended.append(record.body)

    await house.send()
    stop = asyncio.Event()
    loop = asyncio.create_task(consume(house.queue, handle, stop, clock=house.clock, concurrency=8))
    for _ in range(5000):
        await turns(most=20)
        if await house.queue.counts() == Counts():
            break
        house.clock.advance(1)
    stop.set()
    await asyncio.wait_for(loop, 5)
    poison = [body for body in house.bodies if int(body[1:]) % 10 in (3, 7)]
    for group in "abcdefg":
        done = [body for body in house.ended if body[0] == group]
        assert done == [body for body in house.bodies if body[0] == group and body not in poison], "in order"
    assert house.queue.dead is not None
    letters = []
    while records := await house.queue.dead.receive():
        letters += records
        await house.queue.dead.delete([record.receipt for record in records])
    assert sorted(bodies(letters)) == sorted(poison)
    assert {letter.reason for letter in letters} == {"not-found: for good", "KeyError: 'always'"}
