"""The writes that end a worker's hold on a message: commit its answer, park it for a person, or give it up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from agent_core.costs.ledger import ledger_record
from agent_core.engine import expiry, keys
from agent_core.engine.dead import DeadLetter
from agent_core.engine.due import asking, entry, moved
from agent_core.engine.journal import Journal
from agent_core.engine.kit import Kit
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.reading import run_of
from agent_core.engine.runs import Due, Head, Pending, Run
from agent_core.engine.view import View, read_view
from agent_core.errors import ConditionError, LeaseLostError, StoreError
from agent_core.messages import Message, Part, Principal, Text, from_record, to_record
from agent_core.store.base import MAX_WRITES, AtMost, Condition, Delete, Key, Put, Update, Write

MAX_MERGED = 20
"""Messages that may join one run: all of them end with it in one transaction."""

MAX_CLOSED = 4
"""Writes that close one message: its run, its inbox and due entries, its outbox entry."""


class Closing:
    """Ends the work on the oldest message of a session's inbox, under the lease."""

    def __init__(self, kit: Kit, principal: Principal, session_id: str, lease: Lease, view: View) -> None:
        self._kit = kit
        self._principal = principal
        self._session_id = session_id
        self._lease = lease
        self._view = view
        self._key, self._item = view.inbox[0]
        self._merged: list[tuple[Key, Pending]] = []
        self._summary: dict[str, Any] = {}
        self.asks: list[tuple[Key, Due]] = []

    def summarised(self, summary: str, covered: int, sources: tuple[str, ...]) -> None:
        """Have the head keep this summary."""
        fields = {"summary": summary, "covered": covered, "sources": list(sources)}
        self._summary = fields if covered else {}

    async def join(self, only: Collection[str] | None = None) -> tuple[tuple[str, ...], list[Message]]:
        """The messages that came since the session was read last, and their runs; they become part of this run.

        Messages for other agents, and those behind them, keep waiting, and so do more than one run may take. `only`
        are the runs whose messages joined in an earlier attempt: they join again, and no others.
        """
        self._view = await read_view(self._kit.store, self._lease.head.partition, 0)
        known = {self._item.run_id, *(item.run_id for _, item in self._merged)}
        most = await self._most() if only is None else 0
        runs: list[str] = []
        came: list[Message] = []
        for key, item in self._view.inbox:
            if item.run_id in known or (only is not None and item.run_id not in only):
                continue
            if only is None and (item.inbound.agent != self._item.inbound.agent or len(self._merged) >= most):
                break
            self._merged.append((key, item))
            runs.append(item.run_id)
            came += item.inbound.messages
        return tuple(runs), came

    async def _most(self) -> int:
        """How many messages may join: what belongs to their ends fits into the one transaction."""
        told = 0
        if self._kit.hooks is not None:
            await self._kit.hooks.look(self._principal.tenant)
            told = self._kit.hooks.writes_of_run(self._principal.tenant)
        # The run itself: its end, bill, dead letter, listing and head; it and its letter may be told of.
        own = MAX_CLOSED + 4 + 2 * told
        return min(MAX_MERGED, max(0, (MAX_WRITES - own) // (MAX_CLOSED + told)))

    async def merged_runs(self, run: Run) -> list[Run]:
        """The runs of the messages that joined this one, at the same end as it."""
        joined = []
        for key, item in self._merged:
            other, _ = await run_of(self._kit.store, key, item)
            joined.append(
                msgspec.structs.replace(
                    other,
                    status=run.status,
                    finished_at=run.finished_at,
                    reply=run.reply,
                    finish=run.finish,
                    failure=run.failure,
                    metadata={**other.metadata, "merged_into": run.id},
                )
            )
        return joined

    async def commit(
        self, run: Run, messages: Sequence[Message], journal: Journal, letter: DeadLetter | None = None
    ) -> tuple[list[Run], bool]:
        """Store the answer with all that belongs to it in one transaction; whether the lease was released too.

        The run comes back as it is stored, with those that joined it.

        Raises LeaseLostError where another worker took over: nothing was written then.
        """
        try:
            return await self._committed(run, messages, journal, letter)
        except StoreError as error:
            await journal.rescue(error)
            raise

    async def _committed(
        self, run: Run, messages: Sequence[Message], journal: Journal, letter: DeadLetter | None
    ) -> tuple[list[Run], bool]:
        merged = (item.run_id for _, item in self._merged)
        run = msgspec.structs.replace(run, joined=tuple(dict.fromkeys((*run.joined, *merged))))
        head, run, numbered = self._numbered(run, messages)
        ending = self._ending(run, journal, dead=letter is not None)
        ending += await self._notices(run, letter)
        joined = await self.merged_runs(run)
        for (key, item), other in zip(self._merged, joined, strict=True):
            ending += self._closed(key, item, other)
        if letter is not None:
            ending.append(Put(keys.dead(run.principal.tenant, run.id), to_record(letter)))
        if head.listed != self._view.head.listed:
            ending.append(self._listing(head))
        for other in joined:
            ending += await self._notices(other, room=MAX_WRITES - 1 - len(ending))
        told = [Put(keys.message(self._lease.head.partition, m.seq), to_record(m)) for m in numbered]
        rest = await self._overflow([*told, *journal.writes()], room=MAX_WRITES - 1 - len(ending))
        release = len(self._view.inbox) == 1 + len(self._merged)
        point("before commit")
        released = await self._write(head, [*rest, *ending], release=release)
        point("after commit")
        return [run, *joined], released

    async def _notices(
        self, run: Run, letter: DeadLetter | None = None, *, room: int = MAX_WRITES
    ) -> list[Write]:
        """What those are told who want to know of it; nothing where webhooks are not on.

        An endpoint that was added since messages joined the run, and has no `room`, is not told of those.
        """
        hooks, seconds = self._kit.hooks, self._kit.lease_seconds
        if hooks is None:
            return []
        await hooks.look(run.principal.tenant)
        found = hooks.of_run(run, seconds)
        if letter is not None:
            data = {
                "run_id": run.id,
                "session_id": run.session_id,
                "agent": run.agent,
                "reason": letter.reason,
            }
            unique = f"{run.id}.dead.{run.retries}"
            found += hooks.notices(
                run.principal.tenant, "alarm.dead_letter", data, unique=unique, seconds=seconds
            )
        found = found[: room // 2]
        self.asks += [(due.key, from_record(Due, due.fields)) for _, due in found]
        return [write for pair in found for write in pair]

    def awaited(self, runs: Sequence[Run]) -> list[Run]:
        """Those of the committed runs whose end is to be pushed to somebody."""
        items = [self._item, *(item for _, item in self._merged)]
        return [run for run, item in zip(runs, items, strict=True) if item.inbound.delivery is not None]

    async def park(self, run: Run, journal: Journal) -> bool:
        """Let the run wait for a person, first in the inbox as it is; False where it was cancelled meanwhile."""
        until = max(question.expires_at for question in run.questions if question.status == "asked")
        await expiry.keep(self._kit, run, journal.steps(), until=until)
        delivery = self._item.inbound.delivery
        asks: list[Write] = []
        if delivery is not None and delivery.kind in self._kit.asks:
            key, due = asking(run, delivery, self._kit.clock.now())
            asks.append(Put(key, to_record(due)))
            self.asks.append((key, due))
        asks += await self._notices(run)
        steps = await self._overflow(journal.writes(), room=MAX_WRITES - 5 - len(asks))
        waiting = Put(
            journal.run_key,
            to_record(run),
            when=(AtMost("cancelling", 0),),
        )
        try:
            await self._leave((waiting, *moved(self._key, self._item, run, until), *asks, *steps))
            return True
        except ConditionError as error:
            if error.index != 1:
                raise
        # It was cancelled in this moment: keep what was done, and have the run end.
        await self._overflow(steps, room=0)
        return False

    async def wait_on(self) -> bool:
        """Let go of a session whose first message still waits for a person; False where something came meanwhile."""
        try:
            await self._leave((), quiet=True)
        except ConditionError:
            return False
        return True

    async def hand_over(self, run: Run, journal: Journal) -> None:
        """Let go of the session in the middle of a run; the journal has all that was done.

        The sweeper goes on with it unless another worker does so within a lease's time.
        """
        steps = await self._overflow(journal.writes(), room=MAX_WRITES - 4)
        at = self._kit.clock.now() + self._lease.seconds
        await self._leave((*moved(self._key, self._item, run, at), *steps))

    def _numbered(self, run: Run, messages: Sequence[Message]) -> tuple[Head, Run, list[Message]]:
        """The messages with their places in the session, and the head and run as they will be."""
        head = self._view.head
        numbered = [
            msgspec.structs.replace(
                message,
                seq=head.messages + place,
                run_id=run.id,
                created_at=message.created_at or run.created_at,
            )
            for place, message in enumerate(messages, 1)
        ]
        if run.reply is not None:
            run = msgspec.structs.replace(run, reply=numbered[-1])
        if numbered and not head.listed:
            head = msgspec.structs.replace(
                head, listed=self._kit.clock.new_id(), created_at=run.created_at, title=title(numbered[0])
            )
        return (
            msgspec.structs.replace(head, messages=head.messages + len(numbered), agent=run.agent),
            run,
            numbered,
        )

    def _ending(self, run: Run, journal: Journal, *, dead: bool) -> list[Write]:
        """What belongs to the end of a run: itself, its ledger and outbox entries; its message leaves the inbox."""
        # A run that answered in spite of being cancelled a moment ago is answered: the answer was paid for.
        ledger = ledger_record(run, journal.steps())
        bill = Put(keys.ledger(run.principal.tenant, run.created_at, run.id), to_record(ledger))
        return [bill, *self._closed(self._key, self._item, run, dead=dead)]

    def _closed(self, key: Key, item: Pending, run: Run, *, dead: bool = False) -> list[Write]:
        """A run at its end: its message leaves the inbox, its outbox entry is made."""
        run_key = Key(keys.run(run.principal.tenant, run.id), keys.RUN)
        expires_at = expiry.of_run(self._kit, run, kept=dead or item.inbound.delivery is not None)
        writes: list[Write] = [
            Put(run_key, to_record(run), expires_at=expires_at),
            Delete(key),
            Delete(Key(keys.DUE, item.due)),
        ]
        if item.inbound.delivery is not None:
            push = msgspec.structs.replace(
                entry(run), kind="push", delivery=item.inbound.delivery, push_id=run.push_id
            )
            writes.append(Put(push_key(run, self._kit.lease_seconds), to_record(push)))
        return writes

    def _listing(self, head: Head) -> Put:
        fields = {"v": 1, "session_id": self._session_id, "title": head.title, "created_at": head.created_at}
        return Put(Key(keys.sessions(self._principal), head.listed), {**fields, "agent": head.agent})

    async def _write(self, head: Head, writes: Sequence[Write], *, release: bool) -> bool:
        """Write all under the lease; whether it was released with it."""
        fields = {
            "messages": head.messages,
            "agent": head.agent,
            "title": head.title,
            "created_at": head.created_at,
            "listed": head.listed,
            **self._summary,
        }
        # Whoever releases looks at the inbox again first: the release fails if anything arrived since the query.
        quiet = AtMost("arrivals", self._view.head.arrivals)
        held = self._lease.held
        now = self._kit.clock.now()
        try:
            if release:
                update = Update(self._lease.head, set={**fields, "lease_until": 0.0}, when=(*held, quiet))
                try:
                    await self._kit.store.write(update, *writes)
                    return True
                except ConditionError as error:
                    if error.index != 0 or self._lease.lost(error):
                        raise
            # Something waits in the inbox: keep the lease and go on with it.
            update = Update(
                self._lease.head, set={**fields, "lease_until": now + self._lease.seconds}, when=held
            )
            await self._kit.store.write(update, *writes)
            return False
        except ConditionError as error:
            if error.index != 0:
                raise
            raise LeaseLostError("another worker took over the session") from error

    async def _leave(self, writes: Sequence[Write], *, quiet: bool = False) -> None:
        """Release the lease with these writes, whatever waits in the inbox: the first message goes on later.

        With `quiet`, nothing may have come since the session was read. Raises LeaseLostError, or ConditionError where
        one of the writes must not be.
        """
        when: tuple[Condition, ...] = self._lease.held
        if quiet:
            when = (*when, AtMost("arrivals", self._view.head.arrivals))
        release = Update(self._lease.head, set={"lease_until": 0.0}, when=when)
        point("before release")
        try:
            await self._kit.store.write(release, *writes)
        except ConditionError as error:
            if error.index == 0 and self._lease.lost(error):
                raise LeaseLostError("another worker took over the session") from error
            raise
        point("after release")

    async def _overflow(self, writes: list[Write], *, room: int) -> list[Write]:
        """Write the first messages and steps of a very long run ahead, so that the rest has room in one transaction.

        Until the commit counts them in the head, messages are not part of the transcript. Nothing that ends a run may
        be among these writes: it counts together with the head, or not at all.
        """
        while writes and len(writes) > room:
            ahead, writes = writes[: MAX_WRITES - 1], writes[MAX_WRITES - 1 :]
            point("before overflow")
            try:
                await self._kit.store.write(self._lease.renewal(self._kit.clock.now()), *ahead)
            except ConditionError as error:
                raise LeaseLostError("another worker took over the session") from error
            point("after overflow")
        return writes


def push_key(run: Run, seconds: float) -> Key:
    """The outbox entry of a run's reply. The worker has so many seconds for the first try, then it is the sweeper's."""
    return keys.due(run.finished_at + seconds, run.principal.tenant, run.id, suffix="/push")


def title(message: Message) -> str:
    """The first words of a message."""
    parts: tuple[Part, ...] = message.parts
    line = " ".join(next((part.text for part in parts if isinstance(part, Text)), "").split())
    return line if len(line) <= 80 else line[:79] + "…"
