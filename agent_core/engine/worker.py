"""The worker of one session: takes what is in the inbox, one message after the other, and commits each answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import starmap

import msgspec

from agent_core.agent import Limits
from agent_core.engine import expiry, keys, trust, window
from agent_core.engine.attempt import Attempt, HandOver, Parked
from agent_core.engine.commit import Closing, push_key
from agent_core.engine.dead import dead_letter
from agent_core.engine.feed import Feed
from agent_core.engine.heartbeat import Heartbeat
from agent_core.engine.journal import Journal
from agent_core.engine.kit import Kit
from agent_core.engine.lease import Lease
from agent_core.engine.limits import Meter
from agent_core.engine.loop import perform
from agent_core.engine.outbox import push
from agent_core.engine.points import point
from agent_core.engine.reading import run_of
from agent_core.engine.runs import Delivery, Due, Failure, Pending, Run, Step
from agent_core.engine.steps import begun
from agent_core.engine.view import View, read_view
from agent_core.errors import (
    AgentError,
    CancelledError,
    ConditionError,
    InterruptedByMessageError,
    LeaseLostError,
    NotFoundError,
    StoreError,
)
from agent_core.messages import Finish, Message, Principal, from_record
from agent_core.store.base import AtMost, Equals, Key, Update

log = logging.getLogger("sampan.engine")


CANCELLED = (CancelledError.slug, InterruptedByMessageError.slug)


class Worker:
    """Works on one session while it holds the lease.

    `fresh` are runs accepted in this process just now: nothing can be in their journals yet. `stop_at` (seconds
    since 1970, 0 for never) is when the platform's deadline is too near for another step.
    """

    def __init__(
        self,
        kit: Kit,
        principal: Principal,
        session_id: str,
        lease: Lease,
        fresh: Mapping[str, Run],
        stop_at: float,
    ) -> None:
        self._kit = kit
        self._principal = principal
        self._session_id = session_id
        self._partition = keys.session(principal, session_id)
        self._lease = lease
        self._fresh = dict(fresh)
        self._stop_at = stop_at
        self._ended: list[Run] = []
        self._asks: list[tuple[Key, Due]] = []

    async def work(self, history: int, *, whole: bool = False) -> bool:
        """Answer all that is in the inbox, then release the lease; False where another worker must go on.

        `history` is how many of the latest messages are read, `whole` reads all that no summary covers.

        A worker that lost its lease stops without a word: the one that took over goes on.
        """
        try:
            async with Heartbeat(self._kit.store, self._kit.clock, self._lease):
                while not await self._next(history, whole):
                    if self._stop_at and self._kit.clock.now() >= self._stop_at:
                        await self.let_go()
                        return False
            return True
        except HandOver:
            return False
        except LeaseLostError:
            log.warning("session=<%s> | lease lost; another worker goes on", self._session_id)
            return True
        finally:
            if self._ended or self._asks:
                await asyncio.gather(*map(self._push, self._ended), *starmap(self._ask, self._asks))

    async def _next(self, history: int, whole: bool) -> bool:
        """Answer the oldest message of the inbox; True when the lease is released."""
        view = await self._read(history, whole)
        if not view.inbox:
            return await self._release(view.head.arrivals)
        key, item = view.inbox[0]
        run = self._fresh.pop(item.run_id, None)
        steps: tuple[Step, ...] = ()
        if run is None:
            run, steps = await run_of(self._kit.store, key, item)
            await expiry.keep(self._kit, run, steps)
        feed = self._kit.feeds.get(run.id) or Feed()
        feed.wanted = feed.wanted or item.inbound.stream
        closing = Closing(self._kit, self._principal, self._session_id, self._lease, view)
        if run.asks_at(self._kit.clock.now()):
            left = await closing.wait_on()
            if left:
                self._tell(run)
            return left
        try:
            return await self._answer(view, item, run, steps, feed, closing)
        except (LeaseLostError, HandOver, asyncio.CancelledError):
            raise  # another worker answers it; who follows the run here is told of the outcome
        except BaseException as error:
            self._kit.feeds.pop(run.id, None)
            feed.fail(error)  # who follows must not wait for ever; the inbox still holds the message
            raise

    async def _read(self, history: int, whole: bool) -> View:
        monotonic = self._kit.clock.monotonic()
        view = await read_view(self._kit.store, self._partition, history, whole=whole)
        if view.head.owner != self._lease.owner:
            raise LeaseLostError("another worker took over the session")
        self._lease.fence, self._lease.interrupts = view.head.fence, view.head.interrupts
        self._lease.kept(view.head.lease_until - self._lease.seconds, monotonic)
        point("after read")
        return view

    async def _answer(
        self, view: View, item: Pending, run: Run, steps: tuple[Step, ...], feed: Feed, closing: Closing
    ) -> bool:
        kit = self._kit
        journal = Journal(kit.store, kit.clock, run, self._lease, expiry.of_step(kit), kit.switches)
        journal.load(steps)
        bound = kit.agents.get(run.agent)
        attempt = Attempt(
            run=run,
            inbound=msgspec.structs.replace(
                item.inbound, messages=tuple(await self._fetched(item.inbound.messages))
            ),
            bound=bound or next(iter(kit.agents.values())),
            history=view.history,
            journal=journal,
            feed=feed,
            clock=kit.clock,
            blobs=kit.blobs,
            prices=kit.prices,
            meter=Meter(bound.limits if bound else Limits(), kit.clock, steps),
            switches=kit.switches,
            stop_at=self._stop_at,
            fence=self._lease.fence,
            summary=view.head.summary,
            covered=view.head.covered,
            summary_sources=trust.of_summary(view.head),
            join=partial(self._joined, closing),
            chain=begun(item.inbound.messages),
        )
        try:
            async with self._attended(run, item.inbound.delivery, feed):
                messages, ended = await self._performed(attempt, gone=bound is None)
        except Parked as asks:
            waiting = msgspec.structs.replace(
                run, status="waiting", questions=asks.questions, steps=len(journal.steps())
            )
            parked = await closing.park(waiting, journal)
            if parked:
                self._asks += closing.asks
                self._tell(waiting)
            return parked
        except HandOver:
            await closing.hand_over(run, journal)
            raise
        closing.summarised(attempt.summary, attempt.covered, attempt.summary_sources)
        runs, released = await closing.commit(ended, messages, journal)
        self._asks += closing.asks
        for done in runs:
            self._tell(done)
        self._ended += closing.awaited(runs)
        return released

    @asynccontextmanager
    async def _attended(self, run: Run, delivery: Delivery | None, feed: Feed) -> AsyncIterator[None]:
        """While inside, who waits for the reply elsewhere is shown that it is worked on, where somebody does that."""
        attendant = self._kit.attendants.get(delivery.kind) if delivery else None
        if attendant is None or delivery is None:
            yield
            return
        attending = asyncio.ensure_future(attendant.attend(run, delivery, feed))
        try:
            yield
        finally:
            attending.cancel()
            await asyncio.wait({attending})
            if not attending.cancelled() and (error := attending.exception()):
                log.warning("run=<%s> | not shown while it is worked on: %s", run.id, error)

    async def _joined(
        self, closing: Closing, only: Sequence[str] | None
    ) -> tuple[tuple[str, ...], list[Message]]:
        """Messages that joined the run, with what is attached to them."""
        runs, came = await closing.join(only)
        return runs, await self._fetched(came)

    async def _fetched(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with their attachments brought here, before a model or a plugin sees them."""
        found = list(messages)
        for fetch in self._kit.fetch:
            for place, message in enumerate(found):
                if not any(part.ref for part in message.parts):
                    continue
                parts = tuple([await fetch(part) for part in message.parts])
                fetched = msgspec.structs.replace(message, parts=parts)
                found[place] = await window.spill(fetched, self._kit.blobs, self._principal, self._session_id)
        return found

    def _tell(self, run: Run) -> None:
        """Tell whoever follows the run in this process that it is over, or waits."""
        feed = self._kit.feeds.pop(run.id, None)
        if feed is not None:
            feed.finish(run)

    async def _push(self, run: Run) -> None:
        """Try the first delivery at once, if there is one; the outbox entry stays until it arrives."""
        key = push_key(run, self._kit.lease_seconds)
        record = await self._kit.store.get(key)
        if record is not None:
            await push(self._kit, key, from_record(Due, record.fields))

    async def _ask(self, key: Key, due: Due) -> None:
        """Have a person asked, or an endpoint told, at once, if an entry for it still is there; else the sweeper."""
        try:
            await self._kit.due[due.kind](key, due)
        except AgentError as error:
            log.warning("due=<%s> | left to the sweeper: %s", key.sort, error)

    async def give_up(self, run_id: str, attempts: int) -> None:
        """End the first run of the inbox as failed, as every attempt at it died; a dead letter keeps its message."""
        view = await self._read(0, False)
        if not view.inbox or view.inbox[0][1].run_id != run_id:
            await self._release(view.head.arrivals)
            return
        key, item = view.inbox[0]
        run, steps = await run_of(self._kit.store, key, item)
        await expiry.keep_for_ever(self._kit, run, steps)
        journal = Journal(self._kit.store, self._kit.clock, run, self._lease, 0.0, self._kit.switches)
        journal.load(steps)
        reason = f"given up: {attempts} attempts ended without a result"
        meter = Meter(Limits(), self._kit.clock, steps)
        for step in steps:
            meter.count(step)
        now = self._kit.clock.now()
        ended = _ended(run, meter, now, failure=Failure("given-up", 500, "The run was given up", reason))
        letter = msgspec.structs.replace(
            dead_letter(run, "run", reason, now, pending=item), attempts=attempts
        )
        messages = [msgspec.structs.replace(message, hidden=True) for message in item.inbound.messages]
        closing = Closing(self._kit, self._principal, self._session_id, self._lease, view)
        [ended], released = await closing.commit(ended, messages, journal, letter)
        self._asks += closing.asks
        self._tell(ended)
        if not released:
            await self.let_go()

    async def _performed(self, attempt: Attempt, *, gone: bool) -> tuple[list[Message], Run]:
        """Work on the run; whatever comes of it is a run at its end and the messages to keep."""
        run, meter, clock = attempt.run, attempt.meter, self._kit.clock
        try:
            if gone:
                raise NotFoundError(f"there is no agent {run.agent!r} any more")
            if run.cancelling:
                raise CancelledError("the run was cancelled")
            await (self._kit.switches.refresh() if run.switched else self._kit.switches.look())
            self._kit.switches.check(run.principal.tenant, run.agent)
            finish = await perform(attempt)
            if any(map(window.spills, attempt.messages)):
                await attempt.journal.save()  # it is paid for, and a store of blobs may be down
            messages = [
                await window.spill(m, self._kit.blobs, self._principal, self._session_id)
                for m in attempt.messages
            ]
        except StoreError as error:
            await attempt.journal.rescue(error)
            raise  # nothing was decided: the message stays in the inbox
        except (Parked, HandOver):
            raise
        except InterruptedByMessageError as error:
            return attempt.so_far(), _ended(run, meter, clock.now(), failure=failure(error))
        except AgentError as error:
            log.warning("run=<%s>, error=<%s> | run failed: %s", run.id, error.slug, error)
            return attempt.remains(), _ended(run, meter, clock.now(), failure=failure(error))
        except (
            Exception
        ) as error:  # the outermost boundary of a worker: any bug ends this run, not the process
            log.exception("run=<%s> | run failed by a bug", run.id)
            bug = Failure(
                AgentError.slug, 500, AgentError.title, f"{type(error).__name__} in the agent's code"
            )
            return attempt.remains(), _ended(run, meter, clock.now(), failure=bug)
        return messages, _ended(run, meter, clock.now(), reply=messages[-1], finish=finish)

    async def _release(self, arrivals: int) -> bool:
        """Let go of a session with nothing to do; False when something arrived in the same moment."""
        quiet = (*self._lease.held, AtMost("arrivals", arrivals))
        point("before release")
        try:
            await self._kit.store.write(Update(self._lease.head, set={"lease_until": 0.0}, when=quiet))
        except ConditionError as error:
            if self._lease.lost(error):
                raise LeaseLostError("another worker took over the session") from error
            return False
        point("after release")
        return True

    async def let_go(self) -> None:
        """Let go with messages still waiting, for a worker with more time; raises LeaseLostError."""
        held = self._lease.held if self._lease.fence else (Equals("owner", self._lease.owner),)
        point("before release")
        try:
            await self._kit.store.write(Update(self._lease.head, set={"lease_until": 0.0}, when=held))
        except ConditionError as error:
            raise LeaseLostError("another worker took over the session") from error
        point("after release")


def _ended(
    run: Run,
    meter: Meter,
    now: float,
    *,
    reply: Message | None = None,
    finish: Finish = "stop",
    failure: Failure | None = None,
) -> Run:
    status = "succeeded" if failure is None else "cancelled" if failure.slug in CANCELLED else "failed"
    return msgspec.structs.replace(
        run,
        status=status,
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


def failure(error: AgentError) -> Failure:
    """What a run keeps of the error that ended it."""
    return Failure(error.slug, error.status, error.title, error.detail, error.retryable, error.extras())
