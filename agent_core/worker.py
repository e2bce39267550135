"""What a queue's worker does with one message: go on with a session of ours, or answer a whole message.

The queue wakes workers, the store holds the truth. A wake-up, `{"session": {"tenant", "user", "session_id"}}`, names
a session whose inbox has something; doubled, lost or late it does no harm. A producer may also send whole messages, as
the body of POST /api/v1/agent; the message's id is its idempotency key.
"""

from __future__ import annotations

import hashlib
import logging
import re

import msgspec

from agent_core.clock import Clock
from agent_core.engine.engine import Engine
from agent_core.engine.runs import Failure, Inbound, Run
from agent_core.errors import AgentError, MalformedError, RunningError, SessionBusyError, StoreError
from agent_core.messages import Principal
from agent_core.queues.base import Entry, Queue, Received
from agent_core.queues.sieve import sift
from agent_core.settings import Settings

log = logging.getLogger("sampan.worker")

CHANNEL = "queue"
"""The channel of the runs of whole messages."""

LOOK_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""From one look at what somebody else still works on to the next."""

WAKE_UP_TRIES = 3
"""Receives of a wake-up that fails; then the sweep does what it asked for, and it is no dead letter."""


class RunFailedError(AgentError):
    """The run of a queued message failed for good: the same message would fail again."""

    slug, title = "run-failed", "The run failed"


class RunBrokeOffError(AgentError):
    """The run of a queued message failed for a passing reason: the same message may succeed later."""

    slug, title, retryable = "run-broke-off", "The run failed for now", True


class LeftError(AgentError):
    """A worker was stopped in mid-step, by a deadline or a bug: the record comes again, as nobody was woken."""

    slug, title, retryable = "left-in-mid-step", "The worker was stopped in mid-step", True


class SessionAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A session, wherever it is."""

    tenant: str
    user: str
    session_id: str


class WakeUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Our own message to a worker: this session's inbox has something."""

    session: SessionAddress


class _Kind(msgspec.Struct):
    """As much of a body as tells a wake-up from a whole message."""

    session: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def tenant_of(body: str) -> str:
    """Whose a message of a queue is: a wake-up names its tenant, all else is answered for the default one."""
    try:
        return msgspec.json.decode(body, type=WakeUp).session.tenant
    except msgspec.MsgspecError:
        return Principal().tenant


def group_of(tenant: str) -> str:
    """What a queue knows the tenant by: itself, or its hash where a queue would not take it."""
    return tenant if re.fullmatch(r"[!-~]{1,128}", tenant) else hashlib.sha256(tenant.encode()).hexdigest()


class Letters:
    """The messages of a queue, as a place from which a tenant is erased."""

    def __init__(self, queue: Queue, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock

    async def erase(self, tenant: str) -> int:
        """Remove the tenant's messages, dead letters too; how many they were."""
        return await sift(self._queue, self._clock, lambda message: tenant_of(message.body) == tenant)


class Waker:
    """Sends wake-ups to a queue: what an engine has done for a session that somebody must work on."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def __call__(self, principal: Principal, session_id: str) -> None:
        """Send one; raises StoreError. Its group is its tenant, so that none waits for all of another's."""
        address = SessionAddress(principal.tenant, principal.user, session_id)
        body = msgspec.json.encode(WakeUp(address)).decode()
        [sent] = await self._queue.send(Entry(body=body, group=group_of(principal.tenant)))
        if sent.error:
            raise StoreError(f"the queue took no wake-up: {sent.error}")


class Desk:
    """Handles the messages of a queue, one call for each."""

    def __init__(self, engine: Engine, settings: Settings, clock: Clock) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock

    async def handle(self, record: Received, *, queue: str = "work", stop_at: float = 0.0) -> None:
        """Do what the message asks, to its end; whoever calls deletes it then.

        `queue` is the name of the queue that it came from: ids of messages hold within one queue.
        `stop_at` (seconds since 1970) is when the platform stops this process: work that is not done by then was
        accepted, and is gone on with elsewhere. Raises AgentErrors: those that are retryable leave the message to come
        again, the others are for the dead-letter queue.
        """
        await self._engine.switches.look(first=True)
        try:
            kind = msgspec.json.decode(record.body, type=_Kind)
        except msgspec.DecodeError as error:
            raise MalformedError(f"the message is no JSON object: {error}") from None
        if kind.session is not msgspec.UNSET:
            await self._wake_up(record, stop_at)
        else:
            await self._answer(record, queue, stop_at)

    async def take_in(self, body: bytes, *, key: str, channel: str = "schedule", stop_at: float = 0.0) -> Run:
        """Accept a whole message under this key; a worker answers it. Raises what it can't be accepted for."""
        inbound = msgspec.structs.replace(self._inbound(body), key=key, channel=channel)
        return await self._engine.hand_in(inbound, stop_at=stop_at)

    async def _wake_up(self, record: Received, stop_at: float) -> None:
        try:
            address = msgspec.json.decode(record.body, type=WakeUp).session
        except msgspec.ValidationError as error:
            raise MalformedError(f"the message names no session: {error}") from None
        principal = Principal(tenant=address.tenant, user=address.user)
        try:
            if not await self._engine.resume(principal, address.session_id, stop_at=stop_at):
                log.debug("session=<%s> | taken by another worker", address.session_id)
            elif await self._engine.left(principal, address.session_id):
                raise LeftError(f"session {address.session_id} was left in mid-step")
        except AgentError as error:
            if stop_at or record.receive_count < WAKE_UP_TRIES:
                raise
            log.warning("session=<%s> | left to the sweep: %s", address.session_id, error)

    async def _answer(self, record: Received, queue: str, stop_at: float) -> None:
        inbound = msgspec.structs.replace(
            self._inbound(record.body.encode()), key=f"queue/{queue}/{_id_of(record)}"
        )
        looks = 0
        while True:
            try:
                run = await self._engine.answer(inbound, wait_seconds=self._left(stop_at), stop_at=stop_at)
                break
            except RunningError as error:
                # Accepted before: by a worker that lost the record, or died. The record is kept in hand until the run
                # is over, so no receive is used up; whoever comes here after the lease's end goes on with the run.
                if not await self._look_again(looks, stop_at):
                    log.info("run=<%s> | under way elsewhere, and kept by the store", error.run_id)
                    return
            except SessionBusyError:
                if not await self._look_again(looks, stop_at):
                    raise
            looks += 1
        if stop_at and not run.done:
            # What is left between two steps has a new wake-up; what is stopped in mid-step has this record.
            if await self._engine.left(run.principal, run.session_id):
                raise LeftError(f"run {run.id} was left in mid-step")
            run = await self._engine.run(run.principal, run.id)
        if run.failure is not None and run.status == "failed":
            raise _error_of(run.id, run.failure)

    async def _look_again(self, looks: int, stop_at: float) -> bool:
        """Wait before the next look; False where the platform's deadline is nearer than that."""
        pause = LOOK_SECONDS[min(looks, len(LOOK_SECONDS) - 1)]
        if stop_at and self._clock.now() + pause >= stop_at:
            return False
        await self._clock.sleep(pause)
        return True

    def _left(self, stop_at: float) -> float:
        """Seconds to the platform's deadline; 0 for as long as it takes."""
        return max(stop_at - self._clock.now(), 0.001) if stop_at else 0.0

    def _inbound(self, body: bytes) -> Inbound:
        """The message in a body like that of POST /api/v1/agent."""
        # Imported for whole messages alone: wake-ups, all that a queue of our own carries, need nothing of HTTP.
        from agent_core.api.agent import read_delivery, read_messages
        from agent_core.api.bodies import decode
        from agent_core.api.idempotency import fingerprint
        from agent_core.api.schemas import AgentRequest

        asked = decode(body, AgentRequest)
        return Inbound(
            messages=read_messages(asked, asked.data_class or self._settings.data_class),
            agent=asked.agent or "",
            session_id=asked.session_id or "",
            fingerprint=fingerprint("queue", asked),
            channel=CHANNEL,
            metadata=asked.metadata,
            delivery=read_delivery(asked, self._settings),
        )


def _id_of(record: Received) -> str:
    """What a message is known by for ever: the id that its producer gave it, else the queue's own.

    A deduplication id that was made from the content says only that the queue saw the same words in five minutes: the
    same words tomorrow are another message.
    """
    content = hashlib.sha256(record.body.encode()).hexdigest()
    return record.dedupe if record.dedupe and record.dedupe != content else record.id


def _error_of(run_id: str, failure: Failure) -> AgentError:
    words = f"run {run_id}: {failure.detail or failure.title}"
    return RunBrokeOffError(words) if failure.retryable else RunFailedError(words)
