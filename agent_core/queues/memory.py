"""A queue in memory: for tests, and for servers whose state may end with them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice

from agent_core.clock import Clock
from agent_core.errors import StoreError
from agent_core.queues.base import (
    DEDUPE_SECONDS,
    MAX_ENTRIES,
    MAX_VISIBILITY,
    Counts,
    Entry,
    Received,
    Rules,
    Sent,
    check_entries,
    check_receive,
    check_visibility,
    dead_attributes,
    dedupe_id,
    living_attributes,
    never_done,
    share,
)
from agent_core.queues.bell import Bell


@dataclass(slots=True)
class _Message:
    id: str
    body: str
    attributes: dict[str, str]
    group: str
    dedupe: str
    sent_at: float
    expires_at: float
    visible_at: float
    receive_count: int = 0
    received_at: float = 0.0
    receipt: str = ""


@dataclass(slots=True)
class _Lane:
    """Messages that come one after the other: a group of a FIFO queue, or one message of a standard queue."""

    key: str
    messages: dict[str, _Message] = field(default_factory=dict)
    ready: tuple[float, int] = (0.0, 0)


class MemoryQueue:
    """All verbs over dicts. For one event loop at a time."""

    def __init__(self, clock: Clock, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.dead: MemoryQueue | None = (
            MemoryQueue(clock, self.rules.for_dead()) if self.rules.max_receives else None
        )
        self._clock = clock
        self._bell = Bell()
        self._lanes: dict[str, _Lane] = {}
        self._due: list[tuple[tuple[float, int], str]] = []
        self._line: list[tuple[int, tuple[float, int], str]] = []
        self._turns: dict[tuple[str, bool], int] = {}
        self._in_hand: dict[str, _Message] = {}
        self._sent: dict[str, tuple[float, str]] = {}
        self._count = 0
        self._closed = False

    async def send(self, *entries: Entry) -> tuple[Sent, ...]:
        """Send 1 to 10 messages of 1 MiB in all, in order; what became of each."""
        check_entries(entries, self.rules)
        await self._turn()
        return tuple(Sent(self._send(entry)) for entry in entries)

    async def receive(
        self, limit: int = MAX_ENTRIES, *, visibility_seconds: int | None = None, wait_seconds: int = 0
    ) -> tuple[Received, ...]:
        """Take up to `limit` messages, and hide them from others for a time."""
        visibility = self.rules.visibility_seconds if visibility_seconds is None else visibility_seconds
        check_receive(limit, visibility, wait_seconds)
        await self._turn()
        until = self._clock.monotonic() + wait_seconds
        with self._bell.listen() as ear:
            while True:
                taken = self._take(limit, visibility)
                left = until - self._clock.monotonic()
                if taken or left <= 0:
                    return taken
                due = self._due[0][0][0] - self._clock.monotonic() if self._due else left
                await ear.wait(min(left, due), self._clock)

    async def delete(self, receipts: Sequence[str]) -> tuple[str, ...]:
        """Done with these messages. Returns the receipts that were refused."""
        await self._turn()
        refused = []
        for receipt in receipts:
            message = self._held(receipt)
            if message is None:
                refused.append(receipt)
            else:
                self._remove(message)
        return tuple(refused)

    async def extend(self, receipts: Sequence[str], seconds: int) -> tuple[str, ...]:
        """Hide these messages for `seconds` more, counted from now; 0 hands them back at once."""
        check_visibility(seconds)
        await self._turn()
        refused = []
        now = self._clock.monotonic()
        for receipt in receipts:
            message = self._held(receipt)
            if (
                message is None
                or message.visible_at <= now
                or now + seconds > message.received_at + MAX_VISIBILITY
            ):
                refused.append(receipt)
            else:
                message.visible_at = now + seconds
                self._settle(self._lanes[self._lane_key(message)])
        return tuple(refused)

    async def bury(self, record: Received, reason: str) -> bool:
        """Move a message in hand to the dead-letter queue, for good reason."""
        if self.dead is None:
            raise StoreError(f"queue {self.rules.name} has no dead-letter queue")
        await self._turn()
        message = self._held(record.receipt)
        if message is None:
            return False
        self._bury(message, reason)
        self._settle(self._lanes[self._lane_key(message)])
        return True

    async def redrive(self, ids: Collection[str] = ()) -> int:
        """Send messages from the dead-letter queue back to this one."""
        if self.dead is None:
            raise StoreError(f"queue {self.rules.name} has no dead-letter queue")
        await self._turn()
        now = self._clock.monotonic()
        chosen = [
            message
            for lane in self.dead._lanes.values()
            for message in lane.messages.values()
            if message.visible_at <= now < message.expires_at and (not ids or message.id in ids)
        ]
        for message in chosen:
            self.dead._remove(message)
            self._add(
                _Message(
                    id=self._clock.new_id(),
                    body=message.body,
                    attributes=living_attributes(message.attributes),
                    group=message.group,
                    dedupe=message.dedupe,
                    sent_at=self._clock.now(),
                    expires_at=now + self.rules.retention_seconds,
                    visible_at=now,
                )
            )
        return len(chosen)

    async def counts(self) -> Counts:
        """About how many messages there are."""
        await self._turn()
        now = self._clock.monotonic()
        visible = in_flight = delayed = 0
        for lane in self._lanes.values():
            for message in lane.messages.values():
                if now >= message.expires_at:
                    continue
                visible += message.visible_at <= now
                in_flight += message.visible_at > now and message.receipt != ""
                delayed += message.visible_at > now and message.receipt == ""
        return Counts(visible, in_flight, delayed)

    async def oldest_seconds(self) -> float | None:
        """How long the oldest message has been here, in hands or not; 0 where there is none."""
        await self._turn()
        sent = [message.sent_at for lane in self._lanes.values() for message in lane.messages.values()]
        return max(self._clock.now() - min(sent), 0.0) if sent else 0.0

    async def close(self) -> None:
        """Refuse all further use."""
        self._closed = True
        self._bell.ring()
        if self.dead is not None:
            await self.dead.close()

    async def _turn(self) -> None:
        # Every other queue lets tasks pass here; without it, tests on this one would never see a race.
        await asyncio.sleep(0)
        if self._closed:
            raise StoreError(f"queue {self.rules.name} is closed")

    # Putting in

    def _send(self, entry: Entry) -> str:
        now = self._clock.monotonic()
        dedupe = dedupe_id(entry, self.rules)
        while self._sent and next(iter(self._sent.values()))[0] <= now:
            del self._sent[next(iter(self._sent))]  # they stand in the order of their sending
        if dedupe and dedupe in self._sent:
            return self._sent[dedupe][1]
        delay = self.rules.delay_seconds if entry.delay_seconds is None else entry.delay_seconds
        message = _Message(
            id=self._clock.new_id(),
            body=entry.body,
            attributes=dict(entry.attributes),
            group=entry.group,
            dedupe=dedupe,
            sent_at=self._clock.now(),
            expires_at=now + self.rules.retention_seconds,
            visible_at=now + delay,
        )
        if dedupe:
            self._sent[dedupe] = (now + DEDUPE_SECONDS, message.id)
        self._forget(now)
        self._add(message)
        return message.id

    def _add(self, message: _Message) -> None:
        key = self._lane_key(message)
        lane = self._lanes.setdefault(key, _Lane(key))
        lane.messages[message.id] = message
        if len(lane.messages) == 1:
            self._settle(lane)

    def _forget(self, now: float) -> None:
        """Drop some of the oldest messages that nobody wanted in their time."""
        for lane in list(islice(self._lanes.values(), 2)):
            message = next(iter(lane.messages.values()))
            if message.expires_at <= now:
                self._remove(message)

    # Taking out

    def _take(self, limit: int, visibility: int) -> tuple[Received, ...]:
        if self._closed:
            raise StoreError(f"queue {self.rules.name} is closed")
        now = self._clock.monotonic()
        taken: list[Received] = []
        seen: list[_Lane] = []
        while len(taken) < limit and (ready := self._ready(limit - len(taken), now)):
            seen += ready
            for place, lane in enumerate(ready):
                wanted = share(limit - len(taken), len(ready) - place)
                taken += self._take_from(lane, wanted, now, visibility)
        for lane in seen:
            self._settle(lane)
        return tuple(taken)

    def _ready(self, limit: int, now: float) -> list[_Lane]:
        while self._due and self._due[0][0][0] <= now:
            when, key = heapq.heappop(self._due)
            lane = self._lanes.get(key)
            if lane is not None and lane.ready == when:  # else it was settled anew meanwhile
                heapq.heappush(self._line, (self._turn_of(lane), when, key))
        ready: list[_Lane] = []
        while len(ready) < limit and self._line:
            _, when, key = heapq.heappop(self._line)
            lane = self._lanes.get(key)
            if lane is not None and lane.ready == when:
                ready.append(lane)
        return ready

    def _turn_of(self, lane: _Lane) -> int:
        """When the lane is next: on a standard queue groups take turns, as in the tables of SQLite."""
        if self.rules.fifo:
            return 0
        if not self._line:
            self._turns.clear()
        first = next(iter(lane.messages.values()))
        line = (first.group, first.receive_count > 0)
        turn = max(self._line[0][0] if self._line else 0, self._turns.get(line, 0) + 1)
        self._turns[line] = turn
        return turn

    def _take_from(self, lane: _Lane, wanted: int, now: float, visibility: int) -> list[Received]:
        taken: list[_Message] = []
        gone: list[_Message] = []
        exhausted: list[_Message] = []
        for message in lane.messages.values():
            if message.expires_at <= now:
                gone.append(message)
            elif message.visible_at > now or len(taken) == wanted:
                break
            elif self.dead is not None and message.receive_count >= self.rules.max_receives:
                exhausted.append(message)
            else:
                taken.append(message)
                if (
                    message.receive_count
                ):  # it failed before: those behind it must not use up receives with it
                    break
        for message in gone:
            self._drop(message)
        for message in exhausted:
            self._bury(message, never_done(message.receive_count))
        return [self._hand_out(message, now, visibility) for message in taken]

    def _hand_out(self, message: _Message, now: float, visibility: int) -> Received:
        self._in_hand.pop(message.receipt, None)
        message.receipt = self._clock.new_id()
        message.receive_count += 1
        message.received_at = now
        message.visible_at = now + visibility
        self._in_hand[message.receipt] = message
        return Received(
            id=message.id,
            receipt=message.receipt,
            body=message.body,
            attributes=dict(message.attributes),
            receive_count=message.receive_count,
            sent_at=message.sent_at,
            group=message.group,
            dedupe=message.dedupe,
        )

    def _held(self, receipt: str) -> _Message | None:
        """The message in hand under this receipt; None for one that is refused."""
        message = self._in_hand.get(receipt)
        if message is None or (self.rules.fifo and message.visible_at <= self._clock.monotonic()):
            return None
        return message

    def _bury(self, message: _Message, reason: str) -> None:
        assert self.dead is not None
        self._drop(message)
        now = self._clock.monotonic()
        self.dead._forget(now)
        self.dead._add(
            _Message(
                id=message.id,
                body=message.body,
                attributes=dead_attributes(message.attributes, self.rules.name, reason),
                group=message.group,
                dedupe=message.dedupe,
                sent_at=message.sent_at,
                expires_at=now + self.dead.rules.retention_seconds,
                visible_at=now,
            )
        )

    def _remove(self, message: _Message) -> None:
        self._settle(self._drop(message))

    def _drop(self, message: _Message) -> _Lane:
        self._in_hand.pop(message.receipt, None)
        lane = self._lanes[self._lane_key(message)]
        del lane.messages[message.id]
        return lane

    # Who comes next

    def _lane_key(self, message: _Message) -> str:
        return message.group if self.rules.fifo else message.id

    def _settle(self, lane: _Lane) -> None:
        """Note when the lane may give out its first message: when that is visible and none of the lane in flight."""
        if not lane.messages:
            self._lanes.pop(lane.key, None)
            return
        # What is in flight was received together, so it stands among the first.
        first = list(islice(lane.messages.values(), MAX_ENTRIES))
        ready_at = max(message.visible_at for message in first if message is first[0] or message.receipt)
        self._count += 1
        lane.ready = (ready_at, self._count)
        heapq.heappush(self._due, (lane.ready, lane.key))
        self._bell.ring()
