"""Whatever is done to a queue, in whatever order, it behaves like the plainest model of one."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent_core.queues.base import DEDUPE_SECONDS, Counts, Entry, Received, Rules
from agent_core.queues.memory import MemoryQueue
from agent_core.queues.sqlite import SqliteQueue
from agent_core.testing import ManualClock

MAX_RECEIVES = 3
RECENT = 6

some_in_hand = precondition(lambda self: bool(getattr(self, "records", None)))


@dataclass(eq=False)
class Message:
    """A message as the model knows it, by the number it was sent with. `id` is "" until it is seen."""

    number: str
    id: str
    body: str
    group: str
    sent_at: float
    visible_at: float
    receive_count: int = 0
    receipt: str = ""
    received_at: float = 0.0


class Model:
    """The messages of a queue in their order."""

    def __init__(self, clock: ManualClock, *, fifo: bool, max_receives: int) -> None:
        self.clock = clock
        self.fifo = fifo
        self.max_receives = max_receives
        self.messages: list[Message] = []

    def visible(self) -> list[Message]:
        """What a receive may come upon: not in flight, and none of its group in flight."""
        now = self.clock.now()
        busy = {m.group for m in self.messages if self.fifo and m.receipt and m.visible_at > now}
        return [m for m in self.messages if m.visible_at <= now and m.group not in busy]

    def exhausted(self, message: Message) -> bool:
        return 0 < self.max_receives <= message.receive_count

    def give(self, records: Sequence[Received], limit: int, visibility: int) -> list[Message]:
        """Check that these could be given out, and note it. Returns the messages that must have died for it."""
        visible = self.visible()
        may = [message for message in visible if not self.exhausted(message)]
        given = [next(m for m in may if m.number == record.attributes["number"]) for record in records]
        assert len(set(given)) == len(given) <= limit
        assert given or not may, "there was something to give"
        assert self.fifo or len(given) == min(limit, len(may))
        passed: list[Message] = []
        for group in {message.group for message in given} if self.fifo else ():
            of_group = [message for message in given if message.group == group]
            assert of_group == [m for m in may if m.group == group][: len(of_group)], "the first, in order"
            last = visible.index(of_group[-1])
            passed += [m for m in visible[:last] if m.group == group and self.exhausted(m)]
        for message, record in zip(given, records, strict=True):
            message.id = message.id or record.id
            message.receive_count += 1
            message.receipt, message.received_at = record.receipt, self.clock.now()
            message.visible_at = self.clock.now() + visibility
            assert (record.id, record.body, record.group) == (message.id, message.body, message.group)
            assert (record.receive_count, record.sent_at) == (message.receive_count, message.sent_at)
        return passed

    def held(self, record: Received) -> Message | None:
        for message in self.messages:
            if message.receipt == record.receipt:
                return None if self.fifo and message.visible_at <= self.clock.now() else message
        return None

    def counts(self) -> Counts:
        now = self.clock.now()
        return Counts(
            visible=sum(m.visible_at <= now for m in self.messages),
            in_flight=sum(m.visible_at > now and m.receipt != "" for m in self.messages),
            delayed=sum(m.visible_at > now and m.receipt == "" for m in self.messages),
        )


class QueueMachine(RuleBasedStateMachine):
    """A queue with its dead letters, and the models of both."""

    fifo: ClassVar[bool]
    sqlite: ClassVar[bool]

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock()
        rules = Rules(fifo=self.fifo, content_dedupe=self.fifo, max_receives=MAX_RECEIVES)
        self.queue: Any = (
            SqliteQueue(self.folder / "queues.db", self.clock, rules)
            if self.sqlite
            else MemoryQueue(self.clock, rules)
        )
        self.living = Model(self.clock, fifo=self.fifo, max_receives=MAX_RECEIVES)
        self.dead = Model(self.clock, fifo=self.fifo, max_receives=0)
        self.sent: dict[str, tuple[float, str]] = {}
        self.records: list[Received] = []
        self.number = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.queue.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @rule(
        entries=st.lists(
            st.tuples(
                st.sampled_from("ab"), st.sampled_from(["", "", "", "1", "2"]), st.sampled_from([0, 0, 7])
            ),
            min_size=1,
            max_size=4,
        )
    )
    def send(self, entries: list[tuple[str, str, int]]) -> None:
        made = []
        for group, dedupe, delay in entries:
            self.number += 1
            made.append(
                Entry(
                    body=f"body {self.number}",
                    group=group,
                    dedupe=dedupe if self.fifo else "",
                    delay_seconds=None if self.fifo else delay,
                    attributes={"number": str(self.number)},
                )
            )
        results = self.run(self.queue.send(*made))
        now = self.clock.now()
        for entry, result in zip(made, results, strict=True):
            until, first = self.sent.get(entry.dedupe, (0.0, ""))
            if until > now:
                assert result.id == first
                continue
            if entry.dedupe:
                self.sent[entry.dedupe] = (now + DEDUPE_SECONDS, result.id)
            number = entry.attributes["number"]
            visible_at = now + (entry.delay_seconds or 0)
            self.living.messages.append(Message(number, result.id, entry.body, entry.group, now, visible_at))

    @rule(limit=st.integers(1, 5), visibility=st.sampled_from([0, 5, 30, 30, 60]))
    def receive(self, limit: int, visibility: int) -> None:
        self.receive_once(limit, visibility)
        while any(map(self.living.exhausted, self.living.visible())):
            # Which of the exhausted it came upon, the queue doesn't say. When it gives no more, it was all of them.
            if not self.receive_once(10, 5):
                for message in filter(self.living.exhausted, self.living.visible()):
                    self.die(message)

    def receive_once(self, limit: int, visibility: int) -> int:
        records = self.run(self.queue.receive(limit, visibility_seconds=visibility))
        for message in self.living.give(records, limit, visibility):
            self.die(message)
        self.records += records
        return len(records)

    @rule(limit=st.integers(1, 5), visibility=st.sampled_from([0, 30]))
    def receive_the_dead(self, limit: int, visibility: int) -> None:
        records = self.run(self.queue.dead.receive(limit, visibility_seconds=visibility))
        self.dead.give(records, limit, visibility)
        assert all(record.attributes["dead-source"] == "work" and record.reason for record in records)

    @some_in_hand
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        recent = st.sampled_from(self.records[-RECENT:])
        chosen = data.draw(st.lists(recent, min_size=1, max_size=3, unique_by=id))
        refused = self.run(self.queue.delete([record.receipt for record in chosen]))
        held = [self.living.held(record) for record in chosen]
        assert list(refused) == [
            r.receipt for r, message in zip(chosen, held, strict=True) if message is None
        ]
        for message in filter(None, held):
            self.living.messages.remove(message)

    @some_in_hand
    @rule(data=st.data(), seconds=st.sampled_from([0, 0, 10, 100, 43_200]))
    def extend(self, data: st.DataObject, seconds: int) -> None:
        record = data.draw(st.sampled_from(self.records[-RECENT:]))
        refused = self.run(self.queue.extend([record.receipt], seconds))
        message, now = self.living.held(record), self.clock.now()
        if message and message.visible_at > now and now + seconds <= message.received_at + 43_200:
            assert refused == ()
            message.visible_at = now + seconds
        else:
            assert refused == (record.receipt,)

    @some_in_hand
    @rule(data=st.data())
    def bury(self, data: st.DataObject) -> None:
        record = data.draw(st.sampled_from(self.records[-RECENT:]))
        message = self.living.held(record)
        assert self.run(self.queue.bury(record, "by hand")) is (message is not None)
        if message is not None:
            self.die(message)

    @rule(one=st.booleans())
    def redrive(self, one: bool) -> None:
        now = self.clock.now()
        letters = [message for message in self.dead.messages if message.visible_at <= now]
        chosen = [message for message in letters if message.id][:1] if one else letters
        if one and not chosen:
            return
        ids = [message.id for message in chosen] if one else []
        assert self.run(self.queue.redrive(ids)) == len(chosen)
        for message in chosen:
            self.dead.messages.remove(message)
            self.living.messages.append(Message(message.number, "", message.body, message.group, now, now))

    def die(self, message: Message) -> None:
        self.living.messages.remove(message)
        message.visible_at, message.receive_count, message.receipt = self.clock.now(), 0, ""
        self.dead.messages.append(message)

    @rule(seconds=st.sampled_from([0.5, 5.0, 7.0, 30.0, 60.0, 299.5]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "loop"):
            assert self.run(self.queue.counts()) == self.living.counts()
            assert self.run(self.queue.dead.counts()) == self.dead.counts()


@pytest.mark.parametrize("sqlite", [False, True], ids=["memory", "sqlite"])
@pytest.mark.parametrize("fifo", [False, True], ids=["standard", "fifo"])
def test_a_queue_behaves_like_its_model(fifo: bool, sqlite: bool) -> None:
    machine = type("Machine", (QueueMachine,), {"fifo": fifo, "sqlite": sqlite})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60 if sqlite else 150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
