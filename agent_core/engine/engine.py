"""The engine's front: accept a message, work on its run, watch it, read what is stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Literal

import msgspec

from agent_core.engine import keys
from agent_core.engine.accept import accept, lease_of, take
from agent_core.engine.approvals import Decision, cancel, decide
from agent_core.engine.dead import DeadLetter, list_dead, read_dead, redrive
from agent_core.engine.egress import check_delivery
from agent_core.engine.erasing import erase_session
from agent_core.engine.events import after, position, retold, started, told
from agent_core.engine.feed import Feed
from agent_core.engine.kit import Kit
from agent_core.engine.lease import Lease
from agent_core.engine.points import point
from agent_core.engine.reading import read_all, read_run, recent_runs
from agent_core.engine.runs import BATCH, Due, Head, Inbound, Run, RunEvent, Session, SessionPage, Step
from agent_core.engine.sweeper import Swept, Wake, sweep
from agent_core.engine.window import whole
from agent_core.engine.worker import Worker
from agent_core.errors import (
    AgentError,
    InputError,
    LeaseLostError,
    NotFoundError,
    RunningError,
    StoreError,
)
from agent_core.messages import Message, Principal, from_record
from agent_core.store.base import Key

log = logging.getLogger("sampan.engine")

POLL_SECONDS = (0.05, 0.1, 0.2, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 2.0)
"""From one look at a run that is worked on elsewhere to the next; the later ones may be waiting for a person."""


class Engine:
    """Accepts messages, has them answered, and reads what is stored. One per process; all methods are async."""

    def __init__(self, kit: Kit, *, default_agent: str, wake: Wake | None = None) -> None:
        self.agents = kit.agents
        self.switches = kit.switches
        self.audit = kit.audit
        self.default_agent = default_agent
        self._kit = kit
        self._store = kit.store
        self._clock = kit.clock
        self._feeds = kit.feeds
        self._wake = wake
        self._tasks: set[asyncio.Task[None]] = set()
        self._working: set[str] = set()
        self._attended: dict[str, set[Feed]] = {}
        self._leaving: Literal["", "waking", "quietly"] = ""

    # Ways in

    async def answer(self, inbound: Inbound, *, wait_seconds: float = 0.0, stop_at: float = 0.0) -> Run:
        """Accept the message and wait for its run to end, or for `wait_seconds` (0: as long as it takes).

        A run that failed is returned like any other, with its `failure`; one that waits for a person or has not
        ended in time with its status. From `stop_at` (seconds since 1970, 0 for never) the platform may stop this
        process: no further step is begun then, and the run is handed over; `hand_over` ends the waiting for it.
        Raises what acceptance raises: KeyReusedError, RunningError, SessionBusyError, NotFoundError, InputError,
        StoreError.
        """
        run, feed = await self._begin(inbound, stop_at=stop_at)
        if feed is not None:
            try:
                async with asyncio.timeout(wait_seconds or None):
                    run = await feed.finished() or run
            except TimeoutError:
                pass
        return await whole(run, self._kit.blobs)

    async def submit(self, inbound: Inbound, *, work: bool = True, stop_at: float = 0.0) -> Run:
        """Accept the message and return at once; watch it by `events`.

        `work` False leaves the work to the sweeper or a queue's worker. The same key gives the same run, whatever it
        is doing.
        """
        inbound = await self._admitted(msgspec.structs.replace(inbound, stream=True))
        run = self._new_run(inbound)
        try:
            accepted = await accept(self._kit, inbound, run, self.agents[run.agent].busy, work=work)
        except RunningError as error:
            return msgspec.structs.replace(await self.run(inbound.principal, error.run_id), replayed=True)
        if accepted.lease is not None:
            feed = self._feeds.setdefault(accepted.run.id, Feed())
            feed.wanted = True
            feed.emit(started(accepted.run))
            self._start(accepted.run, accepted.lease, fresh=accepted.fresh, stop_at=stop_at)
        return accepted.run

    async def hand_in(self, inbound: Inbound, *, stop_at: float = 0.0) -> Run:
        """Accept the message and return at once; the work is a worker's of the queue, or done here without one."""
        if self._wake is None:
            return await self.submit(inbound, stop_at=stop_at)
        run = await self.submit(inbound, work=False)
        if not run.done:
            await self.wake(run.principal, run.session_id)
        return run

    async def stream(self, inbound: Inbound, *, stop_at: float = 0.0) -> AsyncIterator[RunEvent]:
        """Accept the message and tell what happens, from "run" to "reply" or "error".

        The first step raises what acceptance raises. Closing the iterator does not cancel the run. `stop_at` as in
        `answer`; where `hand_over` ends the waiting, the run's end does not come: `events` tells the rest.
        """
        run, feed = await self._begin(msgspec.structs.replace(inbound, stream=True), stop_at=stop_at)
        if feed is None:
            for event in retold(run):
                yield event
            return
        async for event in feed.follow():
            yield event

    async def events(
        self, principal: Principal, run_id: str, *, last: str = "", stop_at: float = 0.0
    ) -> AsyncIterator[RunEvent]:
        """What happens to a run, after the event with the id `last`, to its end: from any process, at any time.

        No longer than to `stop_at` (seconds since 1970, 0 for never): ask again for the rest.
        """
        self._own(principal, await self.run(principal, run_id))
        feed = self._feeds.get(run_id)
        if feed is not None and feed.wanted:
            seen = False
            async for event in feed.follow():
                seen = seen or not last or position(event.id) > position(last)
                if seen:
                    for rest in after([event], last):
                        last = ""
                        yield rest
            return
        while True:
            run, steps, pieces = await read_all(self._store, principal.tenant, run_id)
            for event in after(told(run, steps, pieces), last):
                last = event.id
                yield event
            if run.done or run.asks_at(self._clock.now()):
                return
            if stop_at and self._clock.now() >= stop_at:
                return
            await self._clock.sleep(POLL_SECONDS[-1])

    async def _begin(self, inbound: Inbound, *, stop_at: float = 0.0) -> tuple[Run, Feed | None]:
        """Accept the message and start the work; no feed where the run was done before."""
        inbound = await self._admitted(inbound)
        run = self._new_run(inbound)
        accepted = await accept(self._kit, inbound, run, self.agents[run.agent].busy)
        run = accepted.run
        if run.replayed:
            return run, None
        feed = self._feeds.setdefault(run.id, Feed())
        feed.wanted, feed.awaited = feed.wanted or inbound.stream, True
        feed.emit(started(run))
        if accepted.lease is not None:
            self._start(run, accepted.lease, fresh=accepted.fresh, stop_at=stop_at)
        else:
            self._spawn(self._attend(run, feed, stop_at))
        return run, feed

    async def _admitted(self, inbound: Inbound) -> Inbound:
        """The inbound message completed; raises KilledError where its agent or tenant is stopped."""
        inbound = self._completed(inbound)
        await self.switches.look()
        self.switches.check(inbound.principal.tenant, inbound.agent)
        return inbound

    def _completed(self, inbound: Inbound) -> Inbound:
        """The inbound message with what its sender left open; raises InputError or NotFoundError."""
        if not inbound.messages:
            raise InputError("at least one message is needed", field="$.messages")
        agent = inbound.agent or self.default_agent
        if agent not in self.agents:
            known = ", ".join(sorted(self.agents))
            raise NotFoundError(f"there is no agent {agent!r}; there are: {known}")
        check_delivery(self.agents[agent], inbound.delivery)
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
            line=inbound.key if inbound.channel == BATCH else "",
        )

    # Work

    def _start(
        self, run: Run, lease: Lease, *, fresh: bool = False, stop_at: float = 0.0
    ) -> asyncio.Task[None]:
        known = {run.id: run} if fresh else {}
        worker = Worker(self._kit, run.principal, run.session_id, lease, known, stop_at)
        self._working.add(lease.head.partition)
        return self._spawn(self._worked(worker, run, lease, stop_at))

    async def _worked(self, worker: Worker, run: Run, lease: Lease, stop_at: float) -> None:
        """Let the worker work, then wake whoever in this process waits for its session."""
        session = lease.head.partition
        bound = self.agents.get(run.agent)
        finished = True
        try:
            finished = await worker.work(
                bound.history if bound else 0, whole=bool(bound and bound.compaction)
            )
        except asyncio.CancelledError:
            if not self._leaving:
                raise
            finished = self._leaving == "quietly"
            await self._released(worker, run)
        except (
            Exception
        ):  # the outermost boundary of a worker: its followers know, the inbox keeps the message
            log.exception("session=<%s> | worker stopped", run.session_id)
        finally:
            self._working.discard(session)
            for feed in self._attended.get(session, ()):
                feed.nudge()
        if not finished and (self._wake is not None or not stop_at):
            await self._wake_soon(
                run
            )  # where nobody else can be woken and we are stopped, the sweeper does it
        left = self._feeds.get(run.id)
        if left is not None and left.awaited and not self._leaving:
            await self._attend(run, left, stop_at)  # another worker goes on: see it through
        else:
            self._feeds.pop(run.id, None)

    async def _released(self, worker: Worker, run: Run) -> None:
        """Let go of a session whose worker was stopped, so that another one need not wait for the lease to end."""
        try:
            await worker.let_go()
        except LeaseLostError:
            pass
        except StoreError as error:
            log.warning("session=<%s> | not released, so free when its lease ends: %s", run.session_id, error)

    async def sweep(self) -> Swept:
        """Look after what was left lying: call it once a minute."""
        return await sweep(self._kit, self.wake)

    async def _attend(self, run: Run, feed: Feed, stop_at: float) -> None:
        """Stay with a run that is worked on elsewhere until it is over; take it over if its worker died.

        Not where this process will be stopped soon: what was handed over is for others to go on with.
        """
        session = keys.session(run.principal, run.session_id)
        attended = self._attended.setdefault(session, set())
        attended.add(feed)
        tries = 0
        try:
            while not feed.over:
                if session in self._working:
                    await feed.change()
                    continue
                stored, _ = await read_run(self._store, run.principal.tenant, run.id)
                if stored.done or stored.asks_at(self._clock.now()):
                    for event in retold(stored)[1:-1]:
                        feed.emit(event)
                    feed.finish(stored)
                    continue
                if tries:
                    await self._clock.sleep(POLL_SECONDS[min(tries, len(POLL_SECONDS)) - 1])
                tries += 1
                if not stop_at or self._clock.now() < stop_at:
                    await self.resume(run.principal, run.session_id, stop_at=stop_at)
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it was
            feed.fail(error)
        finally:
            attended.discard(feed)
            if not attended:
                self._attended.pop(session, None)
            self._feeds.pop(run.id, None)

    async def resume(
        self, principal: Principal, session_id: str, agent: str = "", *, stop_at: float = 0.0
    ) -> bool:
        """Have a session's inbox worked on here, unless somebody holds it; whether this worker took it."""
        return await self._take_up(principal, session_id, stop_at) is not None

    async def work(self, principal: Principal, session_id: str, *, stop_at: float = 0.0) -> bool:
        """As `resume`, but wait until the work has come to its end."""
        task = await self._take_up(principal, session_id, stop_at)
        if task is not None:
            await asyncio.shield(task)
        return task is not None

    async def wake(self, principal: Principal, session_id: str) -> None:
        """Have a session worked on: by a worker of the queue; here, where there is no queue or it takes nothing."""
        if self._wake is not None:
            try:
                await self._wake(principal, session_id)
                return
            except StoreError as error:
                log.warning("session=<%s> | not queued, so worked on here: %s", session_id, error)
        if not self._leaving:
            await self.resume(principal, session_id)

    def see_to(self, key: Key, due: Due) -> None:
        """Look after an entry of the list of what is due now, in this process, instead of at the next sweep."""
        self._spawn(self._seen_to(key, due))

    async def _seen_to(self, key: Key, due: Due) -> None:
        try:
            await self._kit.due[due.kind](key, due)
        except AgentError as error:
            log.warning("due=<%s> | left to the sweeper: %s", key.sort, error)

    async def _wake_soon(self, run: Run) -> None:
        """Have a run's session worked on now; where that fails, the sweeper does it within a lease's time."""
        point("before wake")
        try:
            await self.wake(run.principal, run.session_id)
        except StoreError as error:
            log.warning("session=<%s> | not woken, left to the sweeper: %s", run.session_id, error)
        point("after wake")

    async def _take_up(
        self, principal: Principal, session_id: str, stop_at: float
    ) -> asyncio.Task[None] | None:
        lease = lease_of(self._kit, principal, session_id)
        if not await take(self._kit, lease):
            return None
        run = Run(
            id="",
            session_id=session_id,
            agent=self.default_agent,
            principal=principal,
            status="running",
            created_at=self._clock.now(),
        )
        return self._start(run, lease, stop_at=stop_at)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self) -> None:
        """Wait for the work under way in this process; whoever is cancelled in this wait cancels the work with it."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            # Where all were done already, gather gives the event loop no turn (Python 3.12 and later), and what takes
            # them out of the set would never run.
            await asyncio.sleep(0)

    async def hand_over(self, *, wake: bool = True) -> None:
        """Stop the work under way in this process at once, for others to go on with: the platform stops us.

        Its sessions are free then; what a step under way had done is lost, like in a crash. `wake` has a worker of the
        queue go on at once: not for such a worker, whose time was as long as any's; the sweeper counts its attempts.
        Whoever follows a run here is told no more. The engine can be used again afterwards.
        """
        self._leaving = "waking" if wake else "quietly"
        feeds = list(self._feeds.values())
        try:
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)
        finally:
            self._leaving = ""
        for feed in feeds:
            if not feed.over:
                feed.leave()
        self._feeds.clear()

    async def close(self) -> None:
        """Wait for the work under way in this process."""
        await self.drain()

    # A person's part

    async def approve(
        self,
        principal: Principal,
        run_id: str,
        digest: str,
        *,
        code: str = "",
        stepped: bool = False,
        oversees: bool = False,
    ) -> Run:
        """Say yes to the question with this hash; the run goes on. See `approvals.decide` for what it raises.

        Who `oversees` the tenant may answer for people of channels too, as `run` says.
        """
        await self.run(principal, run_id, oversees=oversees)
        return await self._decide(principal, run_id, digest, "approved", code, stepped)

    async def deny(self, principal: Principal, run_id: str, digest: str, *, oversees: bool = False) -> Run:
        """Say no to the question with this hash; the run goes on and the model is told."""
        await self.run(principal, run_id, oversees=oversees)
        return await self._decide(principal, run_id, digest, "denied")

    async def _decide(
        self,
        principal: Principal,
        run_id: str,
        digest: str,
        status: Decision,
        code: str = "",
        stepped: bool = False,
    ) -> Run:
        run = await decide(self._kit, principal, run_id, digest, status, code, stepped=stepped)
        if not run.asks_at(self._clock.now()):
            await self._wake_soon(run)
        return run

    # What was given up

    async def dead(self, principal: Principal, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        """Dead letters of the caller's tenant, by run id; `after` is the id of the last one already seen."""
        return await list_dead(self._kit, principal.tenant, limit=limit, after=after)

    async def dead_letter(self, principal: Principal, run_id: str) -> DeadLetter:
        """The dead letter of a run; raises NotFoundError."""
        return await read_dead(self._kit, principal.tenant, run_id)

    async def redrive(self, principal: Principal, run_id: str) -> DeadLetter:
        """Bring a dead letter back and have it worked on; raises NotFoundError or ConflictError."""
        letter = await redrive(self._kit, principal.tenant, run_id, principal.user)
        if letter.kind == "run":
            await self.wake(letter.principal, letter.session_id)
        else:
            await self.sweep()
        return letter

    # What is stored

    async def run(self, principal: Principal, run_id: str, *, oversees: bool = False) -> Run:
        """A run; raises NotFoundError where there is none for this caller.

        People of channels can't log in: who `oversees` the tenant sees their runs as well, and nobody else's.
        """
        record = await self._store.get(Key(keys.run(principal.tenant, run_id), keys.RUN))
        if record is None:
            raise NotFoundError(f"there is no run {run_id}")
        run = self._own(principal, from_record(Run, record.fields), oversees)
        return await whole(run, self._kit.blobs)

    async def steps(self, principal: Principal, run_id: str, *, oversees: bool = False) -> tuple[Step, ...]:
        """The journal of a run, for who may see it."""
        run, steps = await read_run(self._store, principal.tenant, run_id)
        self._own(principal, run, oversees)
        return steps

    async def runs(self, principal: Principal, *, limit: int = 50, before: str = "") -> list[Run]:
        """Ended runs of this caller, newest first; `before` is the id of the last run already seen."""
        return await recent_runs(self._store, self._clock, principal, limit, before)

    def _own(self, principal: Principal, run: Run, oversees: bool = False) -> Run:
        if run.principal.user != principal.user and not (oversees and run.by_channel):
            raise NotFoundError(f"there is no run {run.id}")
        return run

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        """Ask a run to stop at its next step; a run that has ended stays as it is."""
        run = await self.run(principal, run_id)
        while not run.done and not await cancel(self._kit, run):
            run = await self.run(principal, run_id)
        if run.status == "waiting":
            await self._wake_soon(run)
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
        await erase_session(
            self._kit, principal, session_id, head, lease_of(self._kit, principal, session_id)
        )

    async def ready(self) -> None:
        """Raise StoreError where the store can't be read."""
        await self._store.get(Key("ready", "ready"))
