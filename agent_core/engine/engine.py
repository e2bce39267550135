"""The engine's front: accept a message, work on its run, watch it, read what is stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import msgspec

from agent_core.blobs.base import Blobs
from agent_core.clock import Clock
from agent_core.costs.pricing import Prices
from agent_core.engine import keys, window
from agent_core.engine.bound import Bound
from agent_core.engine.feed import Feed
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.runs import Head, Inbound, Pending, Run, RunEvent, Session, SessionPage, Step
from agent_core.engine.kit import Kit
from agent_core.engine.reading import erase_session, read_run, recent_runs
from agent_core.engine.worker import Worker
from agent_core.errors import (
    ConditionError,
    InputError,
    KeyReusedError,
    NotFoundError,
    RunningError,
    SessionBusyError,
    StoreBusyError,
)
from agent_core.messages import Message, Principal, from_record, to_record
from agent_core.store.base import Above, Absent, Condition, Equals, Key, Put, Store, Update, Write

log = logging.getLogger("sampan.engine")

ACCEPT_TRIES = 20
POLL_SECONDS = (0.05, 0.1, 0.2, 0.5)
DAY = 86_400.0


class Engine:
    """Accepts messages, has them answered, and reads what is stored. One per process; all methods are async."""

    def __init__(
        self,
        agents: Mapping[str, Bound],
        *,
        default_agent: str,
        store: Store,
        blobs: Blobs,
        clock: Clock,
        prices: Prices,
        lease_seconds: float = 30.0,
        run_days: float = 90.0,
    ) -> None:
        self.agents = agents
        self.default_agent = default_agent
        self._feeds: dict[str, Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._working: set[str] = set()
        self._attended: dict[str, set[Feed]] = {}
        self._kit = Kit(store, blobs, clock, prices, agents, self._feeds, lease_seconds, run_days * DAY)
        self._store = store
        self._clock = clock

    # Ways in

    async def answer(self, inbound: Inbound) -> Run:
        """Accept the message and wait for its run to end.

        A run that failed is returned like any other, with its `failure`. Raises what acceptance raises:
        KeyReusedError, RunningError, SessionBusyError, NotFoundError, InputError, StoreError.
        """
        run, feed = await self._begin(inbound, streaming=False)
        if feed is None:
            return run
        return await feed.finished()

    async def stream(self, inbound: Inbound) -> AsyncIterator[RunEvent]:
        """Accept the message and tell what happens, from "run" to "reply" or "error".

        The first step raises what acceptance raises. Closing the iterator does not cancel the run.
        """
        run, feed = await self._begin(inbound, streaming=True)
        if feed is None:
            feed = Feed()
            feed.wanted = True
            self._announce(feed, run)
            if run.reply is not None:
                feed.emit("text", {"text": run.reply.text})
            feed.finish(run)
        async for event in feed.follow():
            yield event

    async def _begin(self, inbound: Inbound, *, streaming: bool) -> tuple[Run, Feed | None]:
        """Accept the message and start the work; no feed where the run was done before."""
        inbound = self._completed(inbound)
        run = self._new_run(inbound)
        feed = Feed()
        feed.wanted = streaming
        self._feeds[run.id] = feed
        try:
            lease, fresh, run = await self._accept(inbound, run)
        except BaseException:
            self._feeds.pop(run.id, None)
            raise
        if run.done:
            self._feeds.pop(run.id, None)
            return msgspec.structs.replace(run, replayed=True), None
        self._announce(feed, run)
        if lease is not None:
            self._start(run, lease, {run.id: run} if fresh else {})
        else:
            self._spawn(self._attend(run, feed))
        return run, feed

    def _announce(self, feed: Feed, run: Run) -> None:
        fields = {"run_id": run.id, "session_id": run.session_id, "agent": run.agent, "replayed": run.replayed}
        feed.emit("run", fields)

    def _completed(self, inbound: Inbound) -> Inbound:
        """The inbound message with what its sender left open; raises InputError or NotFoundError."""
        if not inbound.messages:
            raise InputError("at least one message is needed", field="$.messages")
        agent = inbound.agent or self.default_agent
        if agent not in self.agents:
            known = ", ".join(sorted(self.agents))
            raise NotFoundError(f"there is no agent {agent!r}; there are: {known}")
        session_id = inbound.session_id or self._clock.new_id()
        return msgspec.structs.replace(inbound, agent=agent, session_id=session_id)

    def _new_run(self, inbound: Inbound) -> Run:
        return Run(
            id=keys.run_id(inbound.principal, inbound.key) if inbound.key else self._clock.new_id(),
            session_id=inbound.session_id,
            agent=inbound.agent,
            principal=inbound.principal,
            status="running",
            created_at=self._clock.now(),
            channel=inbound.channel,
            fingerprint=inbound.fingerprint,
            metadata=inbound.metadata,
        )

    # Accept

    async def _accept(self, inbound: Inbound, run: Run) -> tuple[Lease | None, bool, Run]:
        """Store the message under its key. Gives the lease where this worker shall do the work.

        After this returns the message can't be lost.
        """
        messages = [
            await window.spill(message, self._kit.blobs, run.principal.tenant, run.session_id)
            for message in inbound.messages
        ]
        inbound = msgspec.structs.replace(inbound, messages=tuple(messages))
        new: tuple[Condition, ...] = (Absent(),)
        lease = self._lease(run)
        for attempt in range(ACCEPT_TRIES):
            waits = attempt % 2 == 1  # odd tries: the session was busy, so only leave the message in its inbox
            writes = self._accept_writes(inbound, run, lease, new, waits=waits)
            point("before accept")
            try:
                await self._store.write(*writes)
            except ConditionError as error:
                if error.index == 0:
                    stored = from_record(Run, error.current or {})
                    if stored.status == "failed" and stored.failure is not None and stored.failure.retryable:
                        # It failed for a passing reason: the same key tries again, as if it had not been.
                        self._same_request(stored, run)
                        run = msgspec.structs.replace(run, session_id=stored.session_id)
                        lease = self._lease(run)
                        new = (Equals("status", "failed"), Equals("finished_at", stored.finished_at))
                        continue
                    return await self._replayed(stored, run)
                if error.index == 1 and not waits and self.agents[run.agent].busy == "reject":
                    raise SessionBusyError("the session is answering another message", retry_after=1.0) from error
                continue
            point("after accept")
            status = "queued" if waits else "running"
            return (None if waits else lease), True, msgspec.structs.replace(run, status=status)
        raise StoreBusyError("the session changes hands too often to be joined", retry_after=1.0)

    def _lease(self, run: Run) -> Lease:
        return self._lease_of(run.principal, run.session_id)

    def _accept_writes(
        self, inbound: Inbound, run: Run, lease: Lease, new: tuple[Condition, ...], *, waits: bool
    ) -> list[Write]:
        now = self._clock.now()
        stored = msgspec.structs.replace(run, status="queued") if waits else run
        pending = Key(lease.head.partition, keys.PENDING + self._clock.new_id())
        if waits:
            # Whoever holds the lease sees the new arrival before it can let go.
            head = Update(lease.head, add={"arrivals": 1}, when=(Above("lease_until", now),))
        else:
            head = lease.taking(now, agent=run.agent)
        return [
            Put(
                Key(keys.run(run.principal.tenant, run.id), keys.RUN),
                to_record(stored),
                when=new,
                expires_at=run.created_at + self._kit.run_seconds,
            ),
            head,
            Put(pending, to_record(Pending(run_id=run.id, inbound=inbound))),
        ]

    def _same_request(self, stored: Run, run: Run) -> None:
        if stored.fingerprint != run.fingerprint or stored.principal != run.principal:
            raise KeyReusedError(
                "this idempotency key was used with another request; send a new key, or the same body", field=""
            )

    async def _replayed(self, stored: Run, run: Run) -> tuple[Lease | None, bool, Run]:
        """What a key that was seen before gives: its run, done; or RunningError; or the work of a dead worker."""
        self._same_request(stored, run)
        if stored.done:
            return None, False, stored
        lease = self._lease(stored)
        if await self._take(lease):
            return lease, False, stored
        raise RunningError("the run of this idempotency key has not finished yet", run_id=stored.id)

    async def _take(self, lease: Lease) -> bool:
        """Take the lease of a session if nobody holds it."""
        try:
            await self._store.write(lease.taking(self._clock.now()))
        except ConditionError:
            return False
        return True

    # Work

    def _start(self, run: Run, lease: Lease, fresh: Mapping[str, Run]) -> None:
        worker = Worker(self._kit, run.principal, run.session_id, lease)
        self._spawn(self._worked(worker, run, lease, fresh))

    async def _worked(self, worker: Worker, run: Run, lease: Lease, fresh: Mapping[str, Run]) -> None:
        session = lease.head.partition
        self._working.add(session)
        try:
            await worker.work(fresh, self.agents[run.agent].history)
        except Exception:  # the outermost boundary of a worker: its followers know, the inbox keeps the message
            log.exception("session=<%s> | worker stopped", run.session_id)
        finally:
            self._working.discard(session)
            for feed in self._attended.get(session, ()):
                feed.nudge()
        feed_left = self._feeds.get(run.id)
        if feed_left is not None and not feed_left.over:
            await self._attend(run, feed_left)  # another worker took over: see it through

    async def _attend(self, run: Run, feed: Feed) -> None:
        """Stay with a run that is worked on elsewhere until it is over; take it over if its worker died."""
        lease = self._lease(run)
        attended = self._attended.setdefault(lease.head.partition, set())
        attended.add(feed)
        polls = 0
        try:
            while not feed.over:
                if lease.head.partition in self._working:
                    await feed.change()
                    continue
                await self._clock.sleep(POLL_SECONDS[min(polls, len(POLL_SECONDS) - 1)])
                polls += 1
                if feed.over or lease.head.partition in self._working:
                    continue
                stored, _ = await read_run(self._store, run.principal.tenant, run.id)
                if stored.done:
                    if stored.reply is not None:
                        feed.emit("text", {"text": stored.reply.text})
                    feed.finish(stored)
                elif await self._take(lease):
                    self._start(run, lease, {})
                    lease = self._lease(run)
        except Exception as error:  # whoever waits must be told, whatever it was
            feed.fail(error)
        finally:
            attended.discard(feed)
            if not attended:
                self._attended.pop(lease.head.partition, None)
            self._feeds.pop(run.id, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for the runs under way; what is not accepted yet is refused by its store."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # What is stored

    async def run(self, principal: Principal, run_id: str) -> Run:
        """A run; raises NotFoundError where there is none for this caller."""
        record = await self._store.get(Key(keys.run(principal.tenant, run_id), keys.RUN))
        if record is None:
            raise NotFoundError(f"there is no run {run_id}")
        return self._own(principal, from_record(Run, record.fields))

    async def steps(self, principal: Principal, run_id: str) -> tuple[Step, ...]:
        """The journal of a run."""
        run, steps = await read_run(self._store, principal.tenant, run_id)
        self._own(principal, run)
        return steps

    async def runs(self, principal: Principal, *, limit: int = 50, before: str = "") -> list[Run]:
        """Ended runs of this caller, newest first; `before` is the id of the last run already seen."""
        return await recent_runs(self._store, self._clock, principal, limit, before)

    def _own(self, principal: Principal, run: Run) -> Run:
        if run.principal.user != principal.user:
            raise NotFoundError(f"there is no run {run.id}")
        return run

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        """Ask a run to stop at its next step; a run that has ended stays as it is."""
        run = await self.run(principal, run_id)
        if run.done:
            return run
        key = Key(keys.run(principal.tenant, run_id), keys.RUN)
        try:
            await self._store.write(Update(key, set={"cancelling": 1}, when=(Equals("status", run.status),)))
        except ConditionError:
            return await self.run(principal, run_id)
        return run

    async def sessions(self, principal: Principal, *, limit: int = 50, before: str = "") -> list[Session]:
        """The caller's sessions, newest first; `before` is the id of the last session already seen."""
        after = ""
        if before:
            after = (await self._head(principal, before)).listed
        page = await self._store.query(keys.sessions(principal), after=after, limit=limit, reverse=True)
        return [
            Session(
                id=record.fields["session_id"],
                agent=record.fields["agent"],
                user=principal.user,
                created_at=record.fields["created_at"],
                title=record.fields["title"],
            )
            for record in page.records
        ]

    async def session(
        self, principal: Principal, session_id: str, *, after: int = 0, limit: int = 100
    ) -> SessionPage:
        """A page of a session's messages after the given seq, oldest first; raises NotFoundError."""
        head = await self._head(principal, session_id)
        partition = keys.session(principal, session_id)
        page = await self._store.query(
            partition, keys.MESSAGE, after=keys.message(partition, after).sort, limit=limit
        )
        messages = [from_record(Message, record.fields) for record in page.records]
        messages = [message for message in messages if message.seq <= head.messages]
        session = Session(
            id=session_id,
            agent=head.agent,
            user=principal.user,
            created_at=head.created_at,
            title=head.title,
            messages=head.messages,
            busy=head.lease_until > self._clock.now(),
        )
        more = bool(messages) and messages[-1].seq < head.messages
        return SessionPage(session=session, messages=tuple(messages), after=messages[-1].seq if more else 0)

    async def _head(self, principal: Principal, session_id: str) -> Head:
        record = await self._store.get(Key(keys.session(principal, session_id), keys.STATE))
        if record is None:
            raise NotFoundError(f"there is no session {session_id}")
        return from_record(Head, record.fields)

    async def erase(self, principal: Principal, session_id: str) -> None:
        """Remove a session for good: messages, inbox, runs with their journals, blobs. The ledger keeps its figures.

        Raises NotFoundError, or SessionBusyError while a message is being answered.
        """
        head = await self._head(principal, session_id)
        await erase_session(self._kit, principal, session_id, head, self._lease_of(principal, session_id))

    def _lease_of(self, principal: Principal, session_id: str) -> Lease:
        head = Key(keys.session(principal, session_id), keys.STATE)
        return Lease(head=head, owner=self._clock.new_id(), seconds=self._kit.lease_seconds)

    async def ready(self) -> None:
        """Raise StoreError where the store can't be read."""
        await self._store.get(Key("ready", "ready"))
