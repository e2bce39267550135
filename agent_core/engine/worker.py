"""The worker of one session: takes what is in the inbox, one message after the other, and commits each answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from agent_core.agent import Limits
from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.costs.ledger import ledger_record
from agent_core.costs.pricing import Prices
from agent_core.engine import keys, window
from agent_core.engine.bound import Bound
from agent_core.engine.feed import Feed
from agent_core.engine.journal import Journal
from agent_core.engine.lease import Lease
from agent_core.engine.limits import Meter
from agent_core.engine.loop import Attempt, words
from agent_core.engine.points import point
from agent_core.engine.kit import Kit
from agent_core.engine.reading import read_run
from agent_core.engine.runs import Failure, Head, Pending, Run, Step
from agent_core.errors import (
    AgentError,
    CancelledError,
    ConditionError,
    LeaseLostError,
    NotFoundError,
    StoreError,
)
from agent_core.messages import Finish, Message, Principal, from_record, to_record
from agent_core.store.base import MAX_WRITES, AtMost, Delete, Equals, Key, Put, Record, Store, Update, Write

log = logging.getLogger("sampan.engine")

ROOM_FOR_INBOX = 12
"""Records read beyond the history in the first query: the head and what usually waits in an inbox."""


@dataclass(frozen=True)
class View:
    """A session as one query showed it: the head, the oldest pending message, the latest messages in order."""

    head: Head
    pending: Key | None
    item: Pending | None
    more: bool
    history: tuple[Message, ...]


class Worker:
    """Works on one session while it holds the lease."""

    def __init__(self, kit: Kit, principal: Principal, session_id: str, lease: Lease) -> None:
        self._kit = kit
        self._principal = principal
        self._session_id = session_id
        self._partition = keys.session(principal, session_id)
        self._lease = lease

    async def work(self, fresh: Mapping[str, Run], history: int) -> None:
        """Answer all that is in the inbox, then release the lease.

        `fresh` are runs accepted in this process just now: nothing can be in their journals yet. A worker that
        lost its lease stops without a word; the one that took over goes on.
        """
        try:
            async with _Heartbeat(self._kit, self._lease):
                while not await self._next(fresh, history):
                    pass
        except LeaseLostError:
            log.warning("session=<%s> | lease lost; another worker goes on", self._session_id)

    async def _next(self, fresh: Mapping[str, Run], history: int) -> bool:
        """Answer the oldest message of the inbox; True when the lease is released."""
        view = await self._view(history)
        if view.item is None or view.pending is None:
            return await self._release(view.head)
        run = fresh.get(view.item.run_id)
        steps: tuple[Step, ...] = ()
        if run is None:
            run, steps = await self._resumed(view.item.run_id)
        feed = self._kit.feeds.get(run.id) or Feed()
        try:
            return await self._answer(view, view.item, run, steps, feed)
        except (LeaseLostError, asyncio.CancelledError):
            raise  # another worker answers it; who follows the run here is told of the outcome
        except BaseException as error:
            feed.fail(error)  # who follows must not wait for ever; the inbox still holds the message
            raise

    async def _answer(self, view: View, item: Pending, run: Run, steps: tuple[Step, ...], feed: Feed) -> bool:
        kit = self._kit
        bound = kit.agents.get(run.agent)
        journal = Journal(kit.store, kit.clock, run, self._lease, run.created_at + kit.run_seconds)
        journal.load(steps)
        if bound is None:
            error = NotFoundError(f"there is no agent {run.agent!r} any more")
            messages = [msgspec.structs.replace(message, hidden=True) for message in item.inbound.messages]
            now = kit.clock.now()
            ended = _ended(run, Meter(Limits(), now), now, failure=_failure(error))
            return await self._commit(view, ended, messages, journal, feed)
        attempt = Attempt(
            run=run,
            inbound=item.inbound,
            bound=bound,
            history=view.history,
            journal=journal,
            feed=feed,
            clock=kit.clock,
            blobs=kit.blobs,
            prices=kit.prices,
            meter=Meter(bound.limits, kit.clock.now()),
        )
        messages, ended = await self._performed(attempt)
        return await self._commit(view, ended, messages, journal, feed)

    async def _performed(self, attempt: Attempt) -> tuple[list[Message], Run]:
        """Work on the run; whatever comes of it is a run at its end and the messages to keep."""
        clock, run = self._kit.clock, attempt.run
        try:
            finish = await attempt.perform()
        except StoreError:
            raise  # nothing was decided: the message stays in the inbox
        except CancelledError as error:
            ended = _ended(run, attempt.meter, clock.now(), failure=_failure(error))
            return attempt.remains(), msgspec.structs.replace(ended, status="cancelled")
        except AgentError as error:
            log.warning("run=<%s>, error=<%s> | run failed: %s", run.id, error.slug, error)
            return attempt.remains(), _ended(run, attempt.meter, clock.now(), failure=_failure(error))
        except Exception as error:  # the outermost boundary of a worker: any bug ends this run, not the process
            log.exception("run=<%s> | run failed by a bug", run.id)
            failure = Failure(AgentError.slug, 500, AgentError.title, f"{type(error).__name__} in the agent's code")
            return attempt.remains(), _ended(run, attempt.meter, clock.now(), failure=failure)
        tenant = self._principal.tenant
        messages = [await window.spill(m, self._kit.blobs, tenant, self._session_id) for m in attempt.messages]
        ended = _ended(run, attempt.meter, clock.now(), reply=messages[-1], finish=finish)
        return messages, ended

    # Reading

    async def _view(self, history: int) -> View:
        """Head, inbox and latest messages by one query (more only where the inbox is long)."""
        records: list[Record] = []
        after = ""
        while True:
            page = await self._kit.store.query(
                self._partition, after=after, limit=min(1000, history + ROOM_FOR_INBOX), reverse=True
            )
            records += page.records
            after = page.after
            if not after or records[-1].key.sort.startswith(keys.MESSAGE):
                break
        head = Head()
        pending: list[Record] = []
        messages: list[Message] = []
        for record in records:
            sort = record.key.sort
            if sort == keys.STATE:
                head = from_record(Head, record.fields)
            elif sort.startswith(keys.PENDING):
                pending.append(record)
            elif int(sort[len(keys.MESSAGE) :]) <= head.messages and len(messages) < history:
                messages.append(from_record(Message, record.fields))
        if head.owner != self._lease.owner:
            raise LeaseLostError("another worker took over the session")
        self._lease.fence = head.fence
        point("after lease")
        oldest = pending[-1] if pending else None
        item = from_record(Pending, oldest.fields) if oldest else None
        return View(head, oldest.key if oldest else None, item, len(pending) > 1, tuple(reversed(messages)))

    async def _resumed(self, run_id: str) -> tuple[Run, tuple[Step, ...]]:
        """A run that another attempt began, and what it journaled."""
        return await read_run(self._kit.store, self._principal.tenant, run_id)

    # Writing

    async def _commit(
        self, view: View, run: Run, messages: list[Message], journal: Journal, feed: Feed
    ) -> bool:
        """Store the answer, in one transaction with all that belongs to it; True when the lease was released too."""
        numbered = [
            msgspec.structs.replace(message, seq=view.head.messages + place, run_id=run.id)
            for place, message in enumerate(messages, 1)
        ]
        if run.reply is not None:
            run = msgspec.structs.replace(run, reply=numbered[-1])
        writes = [
            *(Put(keys.message(self._partition, message.seq), to_record(message)) for message in numbered),
            *journal.writes(),
            *self._closing_writes(view, run, journal),
        ]
        head = self._listed(view.head, run, numbered)
        if head.listed != view.head.listed:
            writes.append(self._listing(head))
        await self._overflow(writes)
        released = not view.more
        point("before commit")
        try:
            await self._kit.store.write(self._head_write(view, head, release=released), *writes)
        except ConditionError as error:
            current = error.current or {}
            if error.index == 0 and current.get("fence") == self._lease.fence and released:
                # A message came in meanwhile: keep the lease and go on with it.
                released = False
                await self._kit.store.write(self._head_write(view, head, release=False), *writes)
            elif error.index == 0:
                raise LeaseLostError("another worker took over the session") from error
            else:
                raise
        point("after commit")
        self._kit.feeds.pop(run.id, None)
        feed.finish(run)
        return released

    def _closing_writes(self, view: View, run: Run, journal: Journal) -> list[Write]:
        expires_at = run.created_at + self._kit.run_seconds
        # A run that answered in spite of being cancelled a moment ago is answered: the answer was paid for.
        writes: list[Write] = [Put(journal.run_key, to_record(run), expires_at=expires_at)]
        ledger = ledger_record(run, journal.steps())
        writes.append(Put(keys.ledger(run.principal.tenant, run.created_at, run.id), to_record(ledger)))
        if view.pending is not None:
            writes.append(Delete(view.pending))
        return writes

    def _listed(self, head: Head, run: Run, numbered: list[Message]) -> Head:
        """The head as it will be: how many messages, and for a new session what the list of sessions shows."""
        if not head.listed:
            head = msgspec.structs.replace(
                head, listed=self._kit.clock.new_id(), created_at=run.created_at, title=words(numbered[0])
            )
        return msgspec.structs.replace(head, messages=head.messages + len(numbered), agent=run.agent)

    def _listing(self, head: Head) -> Put:
        fields = {"v": 1, "session_id": self._session_id, "title": head.title, "created_at": head.created_at}
        return Put(Key(keys.sessions(self._principal), head.listed), {**fields, "agent": head.agent})

    def _head_write(self, view: View, head: Head, *, release: bool) -> Update:
        now = self._kit.clock.now()
        fields = {
            "messages": head.messages,
            "agent": head.agent,
            "title": head.title,
            "created_at": head.created_at,
            "listed": head.listed,
            "lease_until": 0.0 if release else now + self._lease.seconds,
        }
        fence = Equals("fence", self._lease.fence)
        # Whoever releases looks at the inbox again first: the release fails if anything arrived since the query.
        when = (fence, AtMost("arrivals", view.head.arrivals)) if release else (fence,)
        return Update(self._lease.head, set=fields, when=when)

    async def _overflow(self, writes: list[Write]) -> None:
        """Write the first messages of a very long run ahead, so that the commit stays within one transaction.

        Until the commit counts them in the head they are not part of the transcript.
        """
        while len(writes) > MAX_WRITES - 1:
            ahead, writes[:] = writes[: MAX_WRITES - 1], writes[MAX_WRITES - 1 :]
            try:
                await self._kit.store.write(self._lease.renewal(self._kit.clock.now()), *ahead)
            except ConditionError as error:
                raise LeaseLostError("another worker took over the session") from error

    async def _release(self, head: Head) -> bool:
        """Let go of a session with nothing to do; False when something arrived in the same moment."""
        fence = Equals("fence", self._lease.fence)
        point("before release")
        try:
            await self._kit.store.write(
                Update(self._lease.head, set={"lease_until": 0.0}, when=(fence, AtMost("arrivals", head.arrivals)))
            )
        except ConditionError as error:
            if (error.current or {}).get("fence") != self._lease.fence:
                raise LeaseLostError("another worker took over the session") from error
            return False
        point("after release")
        return True


class _Heartbeat:
    """Renews a lease while long work goes on; costs nothing for work shorter than a third of the lease."""

    def __init__(self, kit: Kit, lease: Lease) -> None:
        self._kit = kit
        self._lease = lease
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._lost = False

    async def __aenter__(self) -> None:
        self._worker = asyncio.current_task()
        self._schedule()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        if self._lost and isinstance(error, asyncio.CancelledError):
            raise LeaseLostError("the lease could not be renewed") from error

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._lease.seconds / 3, self._beat)

    def _beat(self) -> None:
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        if self._lease.fence:
            try:
                await self._kit.store.write(self._lease.renewal(self._kit.clock.now()))
            except ConditionError:
                self._lost = True
                if self._worker is not None:
                    self._worker.cancel()
                return
            except StoreError as error:
                log.warning("lease=<%s> | not renewed, trying again: %s", self._lease.head.partition, error)
        self._schedule()


def _ended(
    run: Run,
    meter: Meter,
    now: float,
    *,
    reply: Message | None = None,
    finish: Finish = "stop",
    failure: Failure | None = None,
) -> Run:
    return msgspec.structs.replace(
        run,
        status="failed" if failure else "succeeded",
        finished_at=now,
        reply=reply,
        finish=finish,
        failure=failure,
        usage=meter.usage,
        cost=meter.cost,
        steps=meter.steps,
        models=tuple(meter.models),
        unpriced=tuple(meter.unpriced),
    )


def _failure(error: AgentError) -> Failure:
    return Failure(error.slug, error.status, error.title, error.detail, error.retryable, error.extras())
