"""What every implementation of the Queue port does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from agent_core.errors import ConfigError, InputError, StoreBusyError, StoreError, TooLargeError
from agent_core.queues.base import MAX_BYTES, Counts, Entry, Queue, Received, Rules
from agent_core.queues.memory import MemoryQueue
from agent_core.queues.sieve import sift
from agent_core.queues.sqlite import SqliteQueue
from agent_core.testing import ManualClock

T = TypeVar("T")

Make = Callable[..., Queue]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def make(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Make]:
    """Makes a queue with the given rules."""
    made: list[Queue] = []

    def make(**rules: object) -> Queue:
        queue: Queue
        if request.param == "memory":
            queue = MemoryQueue(clock, Rules(**rules))
        else:
            queue = SqliteQueue(tmp_path / "queues.db", clock, Rules(**rules))
        made.append(queue)
        return queue

    yield make
    for queue in made:
        await queue.close()


def fifo(make: Make, **rules: object) -> Queue:
    return make(fifo=True, **rules)


def in_group(group: str, *names: str) -> list[Entry]:
    return [Entry(body=name, group=group, dedupe=name) for name in names]


def bodies(records: tuple[Received, ...]) -> list[str]:
    return [record.body for record in records]


def receipts(records: tuple[Received, ...]) -> list[str]:
    return [record.receipt for record in records]


async def drain(queue: Queue) -> list[Received]:
    """All that can be received now, and deleted with it."""
    records: list[Received] = []
    while taken := await queue.receive():
        records += taken
        assert await queue.delete(receipts(taken)) == ()
    return records


async def until_asleep(clock: ManualClock, task: asyncio.Task[T]) -> None:
    for _ in range(1_000_000):
        if clock.sleeping or task.done():
            return
        await asyncio.sleep(0)
    raise AssertionError("it neither sleeps nor ends")


async def in_time(clock: ManualClock, waiting: Awaitable[T], *, step: float = 0.5) -> T:
    """Let time pass in small steps until the wait is over."""
    task = asyncio.ensure_future(waiting)
    while True:
        await until_asleep(clock, task)
        if task.done():
            return task.result()
        clock.advance(step)
        await asyncio.sleep(0)


# -- sending and receiving


async def test_a_message_comes_as_it_was_sent(make: Make, clock: ManualClock) -> None:
    queue = make()
    body = '{"text": "naïve 名前 \U0001f600\\n"}'
    (sent,) = await queue.send(Entry(body=body, attributes={"tenant": "t 1", "a.b-c_d": "ü"}, group="g"))
    assert sent.id
    assert (sent.error, sent.retryable) == ("", False)
    (record,) = await queue.receive()
    assert record == Received(
        id=sent.id,
        receipt=record.receipt,
        body=body,
        attributes={"tenant": "t 1", "a.b-c_d": "ü"},
        receive_count=1,
        sent_at=clock.now(),
        group="g",
    )
    assert record.reason == ""


async def test_an_empty_queue_gives_nothing(make: Make) -> None:
    queue = make()
    assert await queue.receive() == ()
    assert await queue.counts() == Counts()


async def test_each_message_is_given_out_once(make: Make) -> None:
    queue = make()
    names = [f"m{number}" for number in range(25)]
    for start in range(0, 25, 10):
        sent = await queue.send(*(Entry(body=name) for name in names[start : start + 10]))
        assert len({result.id for result in sent}) == len(sent)
    taken = [await queue.receive() for _ in range(4)]
    assert [len(records) for records in taken] == [10, 10, 5, 0]
    assert bodies(sum(taken, ())) == names


async def test_receive_takes_no_more_than_its_limit(make: Make) -> None:
    queue = make()
    await queue.send(*(Entry(body=name) for name in "abc"))
    assert bodies(await queue.receive(1)) == ["a"]
    assert bodies(await queue.receive(2)) == ["b", "c"]


async def test_queues_of_one_place_do_not_mix(make: Make) -> None:
    ours, theirs = make(name="ours"), make(name="theirs")
    await ours.send(Entry(body="a"))
    assert await theirs.receive() == ()
    (record,) = await ours.receive()
    assert await theirs.delete([record.receipt]) == (record.receipt,)
    assert await ours.delete([record.receipt]) == ()


# -- the visibility time-out


async def test_a_message_in_flight_is_hidden_until_its_time_out(make: Make, clock: ManualClock) -> None:
    queue = make(visibility_seconds=30)
    await queue.send(Entry(body="a"))
    (first,) = await queue.receive()
    clock.advance(29.9)
    assert await queue.receive() == ()
    clock.advance(0.1)
    (second,) = await queue.receive()
    assert (second.id, second.receive_count) == (first.id, 2)
    assert second.receipt != first.receipt
    assert second.sent_at == first.sent_at


async def test_a_receive_may_set_its_own_time_out(make: Make, clock: ManualClock) -> None:
    queue = make(visibility_seconds=30)
    await queue.send(Entry(body="a"))
    await queue.receive(visibility_seconds=5)
    clock.advance(5)
    (again,) = await queue.receive(visibility_seconds=0)
    (third,) = await queue.receive()
    assert (again.receive_count, third.receive_count) == (2, 3)


async def test_a_deleted_message_never_comes_again(make: Make, clock: ManualClock) -> None:
    queue = make()
    await queue.send(Entry(body="a"), Entry(body="b"))
    taken = await queue.receive()
    assert await queue.delete(receipts(taken)) == ()
    assert await queue.delete(receipts(taken)) == tuple(receipts(taken))
    clock.advance(3600)
    assert await queue.receive() == ()
    assert await queue.counts() == Counts()


async def test_a_stale_receipt_is_refused(make: Make, clock: ManualClock) -> None:
    queue = make()
    await queue.send(Entry(body="a"))
    (stale,) = await queue.receive()
    clock.advance(30)
    (fresh,) = await queue.receive()
    assert await queue.delete([stale.receipt]) == (stale.receipt,)
    assert await queue.extend([stale.receipt], 60) == (stale.receipt,)
    assert await queue.bury(stale, "why not") is False
    assert await queue.delete([fresh.receipt]) == ()


@pytest.mark.parametrize("receipt", ["", "nonsense", "1", "-", "1-", "99999-x", "é", "1" * 100])
async def test_a_receipt_that_never_was_is_refused(make: Make, receipt: str) -> None:
    queue = make()
    await queue.send(Entry(body="a"))
    assert await queue.delete([receipt]) == (receipt,)
    assert await queue.extend([receipt], 1) == (receipt,)


async def test_late_work_still_counts_on_a_standard_queue(make: Make, clock: ManualClock) -> None:
    queue = make()
    await queue.send(Entry(body="a"))
    (record,) = await queue.receive()
    clock.advance(31)
    assert await queue.extend([record.receipt], 30) == (record.receipt,), "it is not in flight any more"
    assert await queue.delete([record.receipt]) == ()


async def test_late_work_is_refused_on_a_fifo_queue(make: Make, clock: ManualClock) -> None:
    queue = fifo(make)
    await queue.send(*in_group("g", "a"))
    (record,) = await queue.receive()
    clock.advance(30)
    assert await queue.delete([record.receipt]) == (record.receipt,)


async def test_extend_counts_from_now(make: Make, clock: ManualClock) -> None:
    queue = make(visibility_seconds=30)
    await queue.send(Entry(body="a"), Entry(body="b"))
    taken = await queue.receive()
    clock.advance(20)
    assert await queue.extend(receipts(taken), 30) == ()
    clock.advance(29)
    assert await queue.receive() == ()
    assert await queue.extend(receipts(taken)[:1], 1) == ()
    clock.advance(1)
    assert sorted(bodies(await queue.receive())) == ["a", "b"]


async def test_extend_by_nothing_hands_the_message_back(make: Make) -> None:
    queue = make()
    await queue.send(Entry(body="a"))
    (record,) = await queue.receive()
    assert await queue.extend([record.receipt], 0) == ()
    assert await queue.counts() == Counts(visible=1)
    (again,) = await queue.receive()
    assert again.receive_count == 2


async def test_nobody_holds_a_message_over_twelve_hours(make: Make, clock: ManualClock) -> None:
    queue = make()
    await queue.send(Entry(body="a"))
    (record,) = await queue.receive(visibility_seconds=43_200)
    assert await queue.extend([record.receipt], 43_200) == ()
    clock.advance(1)
    assert await queue.extend([record.receipt], 43_200) == (record.receipt,)
    assert await queue.extend([record.receipt], 43_199) == ()


async def test_what_failed_does_not_starve_behind_what_is_new(make: Make, clock: ManualClock) -> None:
    queue = make()
    await queue.send(Entry(body="old"))
    await queue.receive(visibility_seconds=1)
    clock.advance(1)
    for number in range(3):
        clock.advance(1)
        await queue.send(*(Entry(body=f"{number}.{place}") for place in range(10)))
    assert "old" in bodies(await queue.receive())


# -- turns of tenants, and the age of what waits


async def test_a_tenant_does_not_wait_for_all_of_another(make: Make) -> None:
    queue = make()
    for start in range(0, 200, 10):
        await queue.send(*(Entry(body=f"much {start + n}", group="much") for n in range(10)))
    await queue.send(Entry(body="one", group="little"))
    assert "one" in bodies(await queue.receive(2))


async def test_tenants_take_turns_and_each_is_in_order(make: Make) -> None:
    queue = make()
    for group in "abc":
        await queue.send(*(Entry(body=f"{group}{n}", group=group) for n in range(4)))
    taken = bodies(tuple(await drain(queue)))
    assert [{body[0] for body in taken[at : at + 3]} for at in range(0, 12, 3)] == [{"a", "b", "c"}] * 4
    for group in "abc":
        assert [body for body in taken if body[0] == group] == [f"{group}{n}" for n in range(4)]


async def test_who_waited_is_not_pushed_back_by_who_comes_again_and_again(make: Make) -> None:
    queue = make()
    await queue.send(*(Entry(body=f"a{n}", group="a") for n in range(5)))
    for round in range(5):
        await queue.send(Entry(body=f"b{round}", group="b"))
        taken = await queue.receive(2)
        assert sorted(bodies(taken)) == [f"a{round}", f"b{round}"]
        await queue.delete(receipts(taken))


async def test_what_a_tenant_failed_with_holds_up_no_other(make: Make, clock: ManualClock) -> None:
    queue = make()
    for start in range(0, 50, 10):
        await queue.send(*(Entry(body=f"bad {start + n}", group="bad") for n in range(10)))
    while taken := await queue.receive():
        assert await queue.extend(receipts(taken), 5) == ()
    clock.advance(5)
    await queue.send(Entry(body="one", group="good"))
    assert "one" in bodies(await queue.receive(3))


async def test_the_age_of_the_oldest(make: Make, clock: ManualClock) -> None:
    queue = make()
    assert await queue.oldest_seconds() == 0
    await queue.send(Entry(body="old"))
    clock.advance(30)
    await queue.send(Entry(body="young"))
    assert await queue.oldest_seconds() == pytest.approx(30)
    (old,) = await queue.receive(1)
    await queue.delete([old.receipt])
    clock.advance(5)
    assert await queue.oldest_seconds() == pytest.approx(5)


# -- delay, retention, counts


async def test_a_delayed_message_comes_later(make: Make, clock: ManualClock) -> None:
    queue = make(delay_seconds=10)
    await queue.send(
        Entry(body="own", delay_seconds=900), Entry(body="now", delay_seconds=0), Entry(body="ten")
    )
    assert await queue.counts() == Counts(visible=1, delayed=2)
    assert bodies(await queue.receive()) == ["now"]
    clock.advance(10)
    assert bodies(await queue.receive()) == ["ten"]
    clock.advance(889)
    assert "own" not in bodies(await queue.receive())
    clock.advance(1)
    assert "own" in bodies(await queue.receive())


async def test_a_fifo_queue_delays_all_alike(make: Make, clock: ManualClock) -> None:
    queue = fifo(make, delay_seconds=10)
    await queue.send(*in_group("g", "a"))
    clock.advance(5)
    await queue.send(*in_group("g", "b"))
    assert await queue.receive() == ()
    clock.advance(5)
    assert bodies(await queue.receive()) == ["a"]


async def test_counts(make: Make, clock: ManualClock) -> None:
    queue = make()
    await queue.send(*(Entry(body=name) for name in "abcd"), Entry(body="e", delay_seconds=60))
    taken = await queue.receive(2)
    assert await queue.counts() == Counts(visible=2, in_flight=2, delayed=1)
    await queue.delete(receipts(taken)[:1])
    assert await queue.counts() == Counts(visible=2, in_flight=1, delayed=1)
    clock.advance(60)
    assert await queue.counts() == Counts(visible=4)


async def test_what_nobody_wants_is_forgotten(make: Make, clock: ManualClock) -> None:
    queue = make(retention_seconds=60)
    await queue.send(Entry(body="old"))
    clock.advance(30)
    await queue.send(Entry(body="young"))
    clock.advance(30)
    assert (await queue.counts()).visible == 1
    assert bodies(await queue.receive()) == ["young"]


async def test_a_forgotten_message_frees_its_group(make: Make, clock: ManualClock) -> None:
    queue = fifo(make, retention_seconds=60, visibility_seconds=600)
    await queue.send(*in_group("g", "old"))
    await queue.receive()
    clock.advance(30)
    await queue.send(*in_group("g", "young"))
    assert await queue.receive() == ()
    clock.advance(30)
    await queue.send(*in_group("other", "x"))
    assert sorted(bodies(tuple(await drain(queue)))) == ["x", "young"]


# -- waiting


async def test_a_receive_waits_for_a_message(make: Make, clock: ManualClock) -> None:
    queue = make()
    waiting = asyncio.create_task(queue.receive(wait_seconds=20))
    await until_asleep(clock, waiting)
    assert not waiting.done()
    await queue.send(Entry(body="a"))
    assert bodies(await in_time(clock, waiting, step=0.001)) == ["a"]


async def test_a_wait_ends_without_a_message(make: Make, clock: ManualClock) -> None:
    queue = make()
    start = clock.now()
    assert await in_time(clock, queue.receive(wait_seconds=20)) == ()
    assert 20 <= clock.now() - start <= 21


@pytest.mark.parametrize("why", ["delayed", "in flight"])
async def test_a_wait_sees_the_time_of_a_message_come(make: Make, clock: ManualClock, why: str) -> None:
    queue = make(visibility_seconds=5)
    await queue.send(Entry(body="a", delay_seconds=5 if why == "delayed" else 0))
    await queue.receive()
    start = clock.now()
    assert bodies(await in_time(clock, queue.receive(wait_seconds=20))) == ["a"]
    assert 5 <= clock.now() - start <= 6


async def test_a_message_handed_back_wakes_who_waits(make: Make, clock: ManualClock) -> None:
    queue = make()
    await queue.send(Entry(body="a"))
    (record,) = await queue.receive()
    waiting = asyncio.create_task(queue.receive(wait_seconds=20))
    await until_asleep(clock, waiting)
    await queue.extend([record.receipt], 0)
    assert bodies(await in_time(clock, waiting, step=0.001)) == ["a"]


async def test_a_deleted_message_lets_its_group_go_on(make: Make, clock: ManualClock) -> None:
    queue = fifo(make)
    await queue.send(*in_group("g", "a", "b"))
    (record,) = await queue.receive(1)
    waiting = asyncio.create_task(queue.receive(wait_seconds=20))
    await until_asleep(clock, waiting)
    await queue.delete([record.receipt])
    assert bodies(await in_time(clock, waiting, step=0.001)) == ["b"]


async def test_many_that_wait_share_what_comes(make: Make, clock: ManualClock) -> None:
    queue = make()
    waiting = [asyncio.create_task(queue.receive(1, wait_seconds=20)) for _ in range(5)]
    await until_asleep(clock, waiting[0])
    await queue.send(*(Entry(body=name) for name in "abc"))
    taken = await in_time(clock, asyncio.gather(*waiting), step=0.5)
    assert sorted(len(records) for records in taken) == [0, 0, 1, 1, 1]
    assert sorted(bodies(sum(taken, ()))) == ["a", "b", "c"]


async def test_a_wait_that_is_cancelled_loses_nothing(make: Make, clock: ManualClock) -> None:
    queue = make()
    waiting = asyncio.create_task(queue.receive(wait_seconds=20))
    await until_asleep(clock, waiting)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await queue.send(Entry(body="a"))
    assert bodies(await queue.receive()) == ["a"]


# -- FIFO


async def test_a_group_comes_in_order_and_one_at_a_time(make: Make, clock: ManualClock) -> None:
    queue = fifo(make)
    await queue.send(*in_group("g", "a", "b", "c"))
    first = await queue.receive(1)
    assert bodies(first) == ["a"]
    assert await queue.receive() == (), "a is in flight"
    await queue.delete(receipts(first))
    second = await queue.receive()
    assert bodies(second) == ["b", "c"]
    await queue.delete(receipts(second)[:1])
    await queue.send(*in_group("g", "d"))
    assert await queue.receive() == (), "c is in flight"
    await queue.delete(receipts(second)[1:])
    assert bodies(await queue.receive()) == ["d"]


async def test_a_group_whose_message_failed_waits_for_it(make: Make, clock: ManualClock) -> None:
    queue = fifo(make, visibility_seconds=30)
    await queue.send(*in_group("g", "a", "b"))
    first = await queue.receive()
    assert await queue.extend(receipts(first)[:1], 300) == ()
    assert await queue.extend(receipts(first)[1:], 0) == ()
    assert await queue.receive() == (), "a comes before b, and in 300 s"
    clock.advance(300)
    (again,) = await queue.receive()
    assert (again.body, again.receive_count) == ("a", 2)


async def test_a_group_waits_for_each_message_of_it_in_flight(make: Make, clock: ManualClock) -> None:
    queue = fifo(make, visibility_seconds=30)
    await queue.send(*in_group("g", "a", "b"))
    first = await queue.receive()
    assert await queue.extend(receipts(first)[:1], 0) == ()
    assert await queue.receive() == (), "whoever has b must let go of it before anybody has a"
    assert await queue.extend(receipts(first)[1:], 10) == ()
    clock.advance(10)
    assert bodies(await queue.receive()) == ["a"]


async def test_a_message_that_failed_comes_alone(make: Make, clock: ManualClock) -> None:
    """Else those behind it would use up their receives with it, and be dead letters though nobody ever tried them."""
    queue = fifo(make, visibility_seconds=30, max_receives=3)
    await queue.send(*in_group("g", "bad", "b", "c"))
    assert bodies(await queue.receive()) == ["bad", "b", "c"]
    for _ in range(2):
        clock.advance(30)
        assert bodies(await queue.receive()) == ["bad"]
    clock.advance(30)
    rest = await drain(queue)
    assert [(record.body, record.receive_count) for record in rest] == [("b", 2), ("c", 2)]
    assert queue.dead is not None
    assert bodies(await queue.dead.receive()) == ["bad"]


async def test_groups_do_not_wait_for_each_other(make: Make) -> None:
    queue = fifo(make)
    await queue.send(*in_group("g", "g1", "g2"), *in_group("h", "h1", "h2"))
    assert bodies(await queue.receive(2)) == ["g1", "h1"], "side by side, where there are several"
    await queue.send(*in_group("i", "i1"))
    assert bodies(await queue.receive()) == ["i1"]


async def test_a_busy_group_does_not_starve_the_others(make: Make) -> None:
    queue = fifo(make)
    await queue.send(*in_group("busy", *(f"b{number}" for number in range(9))), *in_group("calm", "c"))
    taken = await queue.receive(4)
    assert sorted(bodies(taken)) == ["b0", "b1", "c"]


async def test_a_duplicate_is_sent_once(make: Make, clock: ManualClock) -> None:
    queue = fifo(make)
    (first,) = await queue.send(Entry(body="a", group="g", dedupe="1"))
    (second,) = await queue.send(Entry(body="b", group="h", dedupe="1"))
    third, fourth = await queue.send(
        Entry(body="c", group="g", dedupe="2"), Entry(body="d", group="g", dedupe="2")
    )
    assert first.id == second.id != third.id == fourth.id
    records = await drain(queue)
    assert [(record.body, record.dedupe) for record in records] == [("a", "1"), ("c", "2")]


async def test_a_duplicate_is_known_for_five_minutes_whatever_became_of_the_first(
    make: Make, clock: ManualClock
) -> None:
    queue = fifo(make)
    (first,) = await queue.send(Entry(body="a", group="g", dedupe="1"))
    await drain(queue)
    clock.advance(299)
    assert await queue.send(Entry(body="a", group="g", dedupe="1")) == (first,)
    assert await drain(queue) == []
    clock.advance(1)
    (again,) = await queue.send(Entry(body="a", group="g", dedupe="1"))
    assert again.id != first.id
    assert len(await drain(queue)) == 1


async def test_duplicates_by_content(make: Make) -> None:
    queue = fifo(make, content_dedupe=True)
    first, same, other, own = await queue.send(
        Entry(body="a", group="g"),
        Entry(body="a", group="h", attributes={"x": "y"}),
        Entry(body="b", group="g"),
        Entry(body="a", group="g", dedupe="own"),
    )
    assert first == same
    assert len({first.id, other.id, own.id}) == 3
    # The id it makes is the SHA-256 of the body, so that a sender may give it itself.
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert await queue.send(Entry(body="z", group="g", dedupe=digest)) == (first,)
    assert digest in [record.dedupe for record in await drain(queue)]


# -- dead letters


async def test_a_message_that_is_never_done_becomes_a_dead_letter(make: Make, clock: ManualClock) -> None:
    queue = make(max_receives=2, visibility_seconds=10)
    (sent,) = await queue.send(Entry(body="bad", attributes={"tenant": "t"}, group="g"))
    sent_at = clock.now()
    for count in (1, 2):
        (record,) = await queue.receive()
        assert record.receive_count == count
        clock.advance(10)
    assert await queue.receive() == ()
    assert await queue.counts() == Counts()
    assert queue.dead is not None
    (letter,) = await queue.dead.receive()
    assert letter.id == sent.id
    assert (letter.body, letter.group, letter.sent_at) == ("bad", "g", sent_at)
    assert letter.attributes["tenant"] == "t"
    assert letter.attributes["dead-source"] == "work"
    assert letter.reason == "received 2 times and never done"
    assert letter.receive_count == 1


async def test_a_dead_letter_does_not_hold_up_a_receive(make: Make, clock: ManualClock) -> None:
    queue = make(max_receives=1, visibility_seconds=0)
    await queue.send(*(Entry(body=f"bad{number}") for number in range(10)))
    await queue.receive()
    await queue.send(*(Entry(body=f"good{number}") for number in range(10)))
    assert bodies(await queue.receive(visibility_seconds=10)) == [f"good{number}" for number in range(10)]
    assert queue.dead is not None
    assert (await queue.dead.counts()).visible == 10


async def test_a_message_may_be_buried_at_once(make: Make) -> None:
    queue = make()
    await queue.send(Entry(body="bad"), Entry(body="good"))
    bad, good = await queue.receive()
    assert await queue.bury(bad, "no such agent\x00") is True
    assert await queue.bury(bad, "twice") is False
    assert await queue.delete([bad.receipt]) == (bad.receipt,)
    assert await queue.delete([good.receipt]) == ()
    assert queue.dead is not None
    (letter,) = await queue.dead.receive()
    assert letter.reason == "no such agent\ufffd"
    assert (await queue.counts(), (await queue.dead.counts()).in_flight) == (Counts(), 1)


async def test_a_buried_message_lets_its_group_go_on(make: Make) -> None:
    queue = fifo(make)
    await queue.send(*in_group("g", "bad", "b"))
    (bad,) = await queue.receive(1)
    await queue.bury(bad, "x" * 5000)
    assert bodies(await queue.receive()) == ["b"]
    assert queue.dead is not None
    (letter,) = await queue.dead.receive()
    assert (letter.group, letter.dedupe, letter.reason) == ("g", "bad", "x" * 1000)


async def test_dead_letters_never_die_of_being_looked_at(make: Make, clock: ManualClock) -> None:
    queue = make(visibility_seconds=0)
    await queue.send(Entry(body="bad"))
    (bad,) = await queue.receive(visibility_seconds=5)
    await queue.bury(bad, "why")
    dead = queue.dead
    assert dead is not None
    assert dead.dead is None
    for _ in range(20):
        assert bodies(await dead.receive()) == ["bad"]
    (letter,) = await dead.receive(visibility_seconds=5)
    with pytest.raises(StoreError, match="no dead-letter queue"):
        await dead.bury(letter, "again")
    with pytest.raises(StoreError, match="no dead-letter queue"):
        await dead.redrive()


async def test_redrive_brings_dead_letters_back_as_new(make: Make, clock: ManualClock) -> None:
    queue = fifo(make)
    await queue.send(*in_group("g", "a", "b", "c"), *in_group("h", "x"))
    taken = await queue.receive()
    for record in taken:
        await queue.bury(record, "why")
    ids = {record.body: record.id for record in taken}
    clock.advance(100)
    assert await queue.redrive([ids["b"], "unknown"]) == 1
    (back,) = await queue.receive()
    assert (back.body, back.receive_count, back.attributes, back.group) == ("b", 1, {}, "g")
    assert back.id != ids["b"]
    assert back.sent_at == clock.now()
    assert await queue.redrive() == 3
    assert await queue.redrive() == 0
    assert bodies(await queue.receive()) == ["x"], "b of the other group is in flight"
    await queue.delete([back.receipt])
    assert bodies(await queue.receive()) == ["a", "c"]


async def test_redrive_leaves_what_somebody_looks_at(make: Make) -> None:
    queue = make()
    await queue.send(Entry(body="a"), Entry(body="b"))
    for record in await queue.receive():
        await queue.bury(record, "why")
    assert queue.dead is not None
    (held,) = await queue.dead.receive(1)
    assert await queue.redrive() == 1
    assert await queue.dead.extend([held.receipt], 0) == ()
    assert await queue.redrive() == 1
    assert len(await drain(queue)) == 2


# -- what is refused


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (Entry(body=""), "$.body"),
        (Entry(body="a\x00b"), "$.body"),
        (Entry(body="\ud800"), "$.body"),
        (Entry(body="a\uffff"), "$.body"),
        (Entry(body="a", delay_seconds=-1), "$.delay_seconds"),
        (Entry(body="a", delay_seconds=901), "$.delay_seconds"),
        (Entry(body="a", group="g g"), "$.group"),
        (Entry(body="a", group="g" * 129), "$.group"),
        (Entry(body="a", dedupe="1"), "$.dedupe"),
        (Entry(body="a", attributes={"aws.x": "1"}), "$.attributes"),
        (Entry(body="a", attributes={"a..b": "1"}), "$.attributes"),
        (Entry(body="a", attributes={"a b": "1"}), "$.attributes"),
        (Entry(body="a", attributes={"a": ""}), "$.attributes"),
        (Entry(body="a", attributes={"a": "\x01"}), "$.attributes"),
        (Entry(body="a", attributes={f"a{number}": "1" for number in range(9)}), "$.attributes"),
    ],
)
async def test_an_entry_that_sqs_would_not_take(make: Make, entry: Entry, field: str) -> None:
    queue = make()
    with pytest.raises(InputError) as caught:
        await queue.send(Entry(body="fine"), entry)
    assert caught.value.field == field
    assert await queue.counts() == Counts(), "nothing of the batch was sent"


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        (Entry(body="a", dedupe="1"), "$.group"),
        (Entry(body="a", group="g"), "$.dedupe"),
        (Entry(body="a", group="g", dedupe="1", delay_seconds=0), "$.delay_seconds"),
    ],
)
async def test_an_entry_that_a_fifo_queue_would_not_take(make: Make, entry: Entry, field: str) -> None:
    with pytest.raises(InputError) as caught:
        await fifo(make).send(entry)
    assert caught.value.field == field


async def test_a_send_is_at_most_ten_messages_of_one_mebibyte_in_all(make: Make) -> None:
    queue = make()
    with pytest.raises(InputError, match="1 to 10"):
        await queue.send()
    with pytest.raises(InputError, match="1 to 10"):
        await queue.send(*(Entry(body="a") for _ in range(11)))
    await queue.send(Entry(body="é" * (MAX_BYTES // 2)))
    with pytest.raises(TooLargeError):
        await queue.send(Entry(body="x" * MAX_BYTES), Entry(body="y"))
    with pytest.raises(TooLargeError):
        await queue.send(Entry(body="x" * (MAX_BYTES - 7), attributes={"a": "b"}))
    await queue.send(Entry(body="x" * (MAX_BYTES - 8), attributes={"a": "b"}))
    assert [len(record.body.encode()) for record in await drain(queue)] == [MAX_BYTES, MAX_BYTES - 8]


async def test_a_receive_that_sqs_would_not_do(make: Make) -> None:
    queue = make()
    for limit, visibility, wait in (
        (0, 1, 1),
        (11, 1, 1),
        (1, -1, 1),
        (1, 43_201, 1),
        (1, 1, -1),
        (1, 1, 21),
    ):
        with pytest.raises(InputError):
            await queue.receive(limit, visibility_seconds=visibility, wait_seconds=wait)
    for seconds in (-1, 43_201):
        with pytest.raises(InputError):
            await queue.extend([], seconds)


@pytest.mark.parametrize(
    "rules",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "n" * 76},
        {"visibility_seconds": 43_201},
        {"max_receives": -1},
        {"delay_seconds": 901},
        {"retention_seconds": 59},
        {"content_dedupe": True},
    ],
)
def test_rules_that_sqs_could_not_keep(rules: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="queue"):
        Rules(**rules)


async def test_a_closed_queue_says_so(make: Make, clock: ManualClock) -> None:
    queue = make()
    await queue.send(Entry(body="a"))
    waiting = asyncio.create_task(make(name="empty").receive(wait_seconds=20))
    await until_asleep(clock, waiting)
    await queue.close()
    await queue.close()
    for call in (queue.send(Entry(body="a")), queue.receive(), queue.delete(["x"]), queue.counts()):
        with pytest.raises(StoreError, match="closed"):
            await call
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_closing_ends_a_wait(make: Make, clock: ManualClock) -> None:
    queue = make()
    waiting = asyncio.create_task(queue.receive(wait_seconds=20))
    await until_asleep(clock, waiting)
    await queue.close()
    with pytest.raises(StoreError, match="closed"):
        await in_time(clock, waiting)


# -- many at once


async def test_many_at_once_lose_and_double_nothing(make: Make) -> None:
    queue = make()
    got: list[str] = []

    async def produce(name: int) -> None:
        for number in range(20):
            await queue.send(Entry(body=f"{name}.{number}"))

    async def consume() -> None:
        while len(got) < 100:
            for record in await queue.receive(3):
                assert await queue.delete([record.receipt]) == ()
                got.append(record.body)

    await asyncio.gather(*(produce(name) for name in range(5)), *(consume() for _ in range(4)))
    assert sorted(got) == sorted(f"{name}.{number}" for name in range(5) for number in range(20))


async def test_many_at_once_keep_the_order_of_each_group(make: Make) -> None:
    queue = fifo(make)
    got: dict[str, list[int]] = {name: [] for name in "abcde"}
    working: set[str] = set()

    async def produce(group: str) -> None:
        for number in range(20):
            await queue.send(Entry(body=str(number), group=group, dedupe=f"{group}{number}"))

    async def consume() -> None:
        while sum(map(len, got.values())) < 100:
            records = await queue.receive(3)
            groups = {record.group for record in records}
            assert not groups & working
            working.update(groups)
            for record in records:
                got[record.group].append(int(record.body))
                await asyncio.sleep(0)
            working.difference_update(groups)
            await queue.delete([record.receipt for record in records])

    await asyncio.gather(*(produce(name) for name in got), *(consume() for _ in range(4)))
    assert all(numbers == list(range(20)) for numbers in got.values())


async def test_a_sieve_takes_out_what_is_unwanted_in_both_queues_and_leaves_the_rest(
    make: Make, clock: ManualClock
) -> None:
    queue = make(max_receives=5)
    assert queue.dead is not None
    names = [f"{'bad' if number % 3 == 0 else 'good'}{number}" for number in range(25)]
    for start in range(0, len(names), 10):
        await queue.send(*[Entry(body=name) for name in names[start : start + 10]])
    for record in await queue.receive(4):
        await queue.bury(record, "no good")
    buried = 25 - (await queue.counts()).visible
    unwanted = sum(name.startswith("bad") for name in names)
    removed = await sift(queue, clock, lambda record: record.body.startswith("bad"), wait_seconds=0)
    assert removed == unwanted
    assert await sift(queue, clock, lambda record: record.body.startswith("bad"), wait_seconds=0) == 0
    left: list[str] = []
    for one in (queue, queue.dead):
        while found := await one.receive():
            left += bodies(found)
            await one.delete(receipts(found))
    assert sorted(left) == sorted(name for name in names if name.startswith("good"))
    assert buried == 4


async def test_a_sieve_that_finds_too_many_to_look_at_hands_them_back(make: Make, clock: ManualClock) -> None:
    queue = make()
    for _ in range(3):
        await queue.send(*[Entry(body="other") for _ in range(10)])
    with pytest.raises(StoreBusyError, match="too many messages"):
        await sift(queue, clock, lambda record: False, wait_seconds=0, most=15)
    assert await queue.counts() == Counts(visible=30)
