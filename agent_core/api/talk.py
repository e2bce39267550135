"""One client's side of a WebSocket: what it asks for, done; what happens to its runs, told. The same on every target.

Runs do not depend on the connection: it may break at any time, and another one goes on from the last event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import msgspec

from agent_core.api import problems
from agent_core.api.agent import read_messages
from agent_core.api.bodies import decode
from agent_core.api.idempotency import fingerprint
from agent_core.api.runs import run_view
from agent_core.api.service import Service
from agent_core.api.socket_frames import (
    Action,
    AnyAction,
    Approve,
    Cancel,
    Deny,
    Frame,
    Ping,
    Resume,
    Send,
)
from agent_core.aws.connections import ConnectionGoneError
from agent_core.engine.events import END, event_id, position
from agent_core.engine.runs import Delivery, Inbound, Run, RunEvent
from agent_core.errors import AgentError, RunningError
from agent_core.security import scopes
from agent_core.security.visitor import Caller

log = logging.getLogger("sampan.websocket")

CHANNEL = "websocket"
"""The channel of runs that came in over a WebSocket, and the kind of delivery that pushes their ends to it."""


SCOPES: dict[type[Action], str] = {
    Send: scopes.RUN,
    Resume: scopes.READ,
    Cancel: scopes.RUN,
    Approve: scopes.DECIDE,
    Deny: scopes.DECIDE,
}
"""What a client must be allowed for each of its actions."""


class Told(Protocol):
    """Which run a client is being told of at the moment; "" while that is not known."""

    run_id: str


class Line(Protocol):
    """The way to one client."""

    async def push(self, frame: Frame) -> None:
        """Send a frame; raises ConnectionGoneError where nobody is there any more."""


class DurableLine(Line, Protocol):
    """A way to a client that other processes have, too: they bring it the ends of its runs."""

    @property
    def delivery(self) -> Delivery:
        """Where the ends of runs are pushed."""

    def telling(self) -> AbstractContextManager[Told]:
        """While a client is told of a run here, its end waits."""

    async def watch(self, run_id: str) -> None:
        """Have the end of a run pushed here, wherever it was asked for."""

    async def unwatch(self, run_id: str) -> None:
        """The end has been told."""


class Talk:
    """Answers one client. `durable` is its line where others push the ends of runs; `stop_at` is the engine's."""

    def __init__(
        self,
        service: Service,
        caller: Caller,
        line: Line,
        *,
        durable: DurableLine | None = None,
        stop_at: float = 0.0,
    ) -> None:
        self._service = service
        self._engine = service.engine
        self._caller = caller
        self._principal = caller.principal
        self._line = line
        self._durable = durable
        self._stop_at = stop_at

    async def take(self, text: bytes) -> None:
        """Do what one message of the client asks, to its end; what is wrong with it the client is told.

        Raises ConnectionGoneError where nobody listens any more; what was asked for goes on.
        """
        ref = ""
        try:
            action = decode(text, cast("type[Action]", AnyAction))  # a union of structs does for one
            ref = action.ref
            await self._do(action)
        except ConnectionGoneError:
            raise
        except AgentError as error:
            await self._refuse(problems.of_error(error, self._request_id()), ref or _ref_in(text))
        except Exception:  # the outermost boundary of a message: the client is told, the log has the reason
            request_id = self._request_id()
            log.exception("request=<%s> | action failed", request_id)
            await self._refuse(problems.internal(request_id), ref)

    async def _do(self, action: Action) -> None:
        door, scope = self._service.door, SCOPES.get(type(action), "")
        if door is not None and scope:
            await door.again(self._caller, scope)
        match action:
            case Ping():
                await self._line.push(Frame(type="pong", ref=action.ref))
            case Send():
                await self._send(action)
            case Resume():
                await self._resume(action)
            case Cancel():
                await self._taken(await self._engine.cancel(self._principal, action.run_id), action.ref)
            case Approve():
                await self._watched(action.run_id)
                run = await self._engine.approve(
                    self._principal, action.run_id, action.hash, code=action.code
                )
                await self._taken(run, action.ref)
                await self._follow(run, action.ref)
            case Deny():
                await self._watched(action.run_id)
                run = await self._engine.deny(self._principal, action.run_id, action.hash)
                await self._taken(run, action.ref)
                await self._follow(run, action.ref)

    async def _send(self, action: Send) -> None:
        asked = action.request()
        settings = self._service.settings
        inbound = Inbound(
            messages=read_messages(asked, asked.data_class or settings.data_class),
            principal=self._principal,
            agent=asked.agent or "",
            session_id=asked.session_id or "",
            key=action.key,
            fingerprint=fingerprint(CHANNEL, asked) if action.key else "",
            channel=CHANNEL,
            metadata=asked.metadata,
            delivery=self._durable.delivery if self._durable else None,
        )
        with self._durable.telling() if self._durable else nullcontext() as told:
            events = self._engine.stream(inbound, stop_at=self._stop_at)
            try:
                first = await anext(events)
            except RunningError as error:
                # The same key again, while its run is still going: it is told from the beginning.
                return await self._resume(Resume(run_id=error.run_id, ref=action.ref))
            assert isinstance(first.data, dict)
            run_id = first.data["run_id"]
            if told is not None:
                told.run_id = run_id
            brought = self._durable is not None and not first.data["replayed"]
            await self._line.push(
                Frame(type=first.type, run_id=run_id, id=first.id, ref=action.ref, data=first.data)
            )
            await self._tell(events, run_id, action.ref, last=first.id, brought=brought)

    async def _watched(self, run_id: str) -> None:
        """Have the end of a run that is about to be decided brought here, where others bring it."""
        run = await self._engine.run(self._principal, run_id)
        if self._durable is not None and run.channel == CHANNEL and not run.done:
            await self._durable.watch(run_id)

    async def _follow(self, run: Run, ref: str) -> None:
        """Tell who decided how the run goes on, to its end, as if they had asked for it."""
        if self._durable is not None and run.channel == CHANNEL:
            return  # the outbox brings the end
        if not run.done and not run.asks_at(self._service.clock.now()):
            last = event_id(run.steps, 0, "w")
            await self._resume(Resume(run_id=run.id, ref=ref, last_event_id=last))

    async def _resume(self, action: Resume) -> None:
        run = await self._engine.run(self._principal, action.run_id)
        if action.last_event_id == END:
            await self._taken(run, action.ref)  # all was told
            return
        if self._durable is not None and not run.done:
            # Before the run is read again: so its end is seen there, or pushed to us later.
            await self._durable.watch(run.id)
        events = self._engine.events(
            self._principal, run.id, last=action.last_event_id, stop_at=self._stop_at
        )
        over = await self._tell(events, run.id, action.ref, last=action.last_event_id)
        if over and self._durable is not None:
            await self._durable.unwatch(run.id)

    async def _tell(
        self,
        events: AsyncIterator[RunEvent],
        run_id: str,
        ref: str,
        *,
        last: str,
        brought: bool = False,
    ) -> bool:
        """Push the events as they come; whether the last one was among them.

        `brought` leaves the end to the outbox, which brings it at least once, whatever happens to this process.
        """
        try:
            async for event in gathered(events):
                run = event.data if isinstance(event.data, Run) else None
                if run is None or not (brought and run.done):
                    await self._line.push(_frame(event, run_id, ref))
                if run is not None:
                    return True
                last = event.id
        except ConnectionGoneError:
            raise
        except AgentError as error:
            problem = problems.of_error(error, self._request_id())
            await self._line.push(
                Frame(type="error", run_id=run_id, id=last, ref=ref, data={"problem": problem})
            )
            return True
        if self._stop_at and self._service.clock.now() >= self._stop_at:
            await self._line.push(Frame(type="later", run_id=run_id, id=last, ref=ref))
        else:  # it waits for a person, and the client knows of that
            await self._taken(await self._engine.run(self._principal, run_id), ref)
        return False

    async def _taken(self, run: Run, ref: str) -> None:
        await self._line.push(Frame(type="taken", run_id=run.id, ref=ref, data=run_view(run)))

    async def _refuse(self, problem: Any, ref: str) -> None:
        await self._line.push(Frame(type="error", ref=ref, data={"problem": problem}))

    def _request_id(self) -> str:
        return self._service.clock.new_id()


def end_frame(run: Run) -> Frame:
    """The last frame of a run that is over."""
    return Frame(
        type="reply" if run.status == "succeeded" else "error", run_id=run.id, id=END, data=run_view(run)
    )


def _frame(event: RunEvent, run_id: str, ref: str) -> Frame:
    data: Any = run_view(event.data) if isinstance(event.data, Run) else event.data
    return Frame(type=event.type, run_id=run_id, id=event.id, ref=ref, data=data)


def _ref_in(text: bytes) -> str:
    """The client's own word in a message that can't be used, if there is one."""
    try:
        ref = msgspec.json.decode(text).get("ref", "")
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, RecursionError):
        return ""
    return ref[:64] if isinstance(ref, str) else ""


async def gathered(events: AsyncIterator[RunEvent]) -> AsyncGenerator[RunEvent, None]:
    """The events, with the pieces of a text that came while the last frame was under way joined into one."""
    ready: list[RunEvent] = []
    change = asyncio.Event()

    async def read() -> None:
        async for event in events:
            ready.append(event)
            change.set()

    reading = asyncio.create_task(read())
    reading.add_done_callback(lambda _: change.set())
    try:
        while True:
            await change.wait()
            change.clear()
            over = reading.done()
            batch, ready[:] = tuple(ready), ()
            for event in joined(batch):
                yield event
            if over:
                reading.result()
                return
    finally:
        reading.cancel()
        await asyncio.wait({reading})


def joined(events: Sequence[RunEvent]) -> list[RunEvent]:
    """The events with neighbouring pieces of one step's text as one."""
    found: list[RunEvent] = []
    for event in events:
        before = found[-1] if found else None
        if (
            before is not None
            and event.type == before.type
            and event.type in ("text", "reasoning")
            and position(event.id)[:2] == position(before.id)[:2]
            and isinstance(event.data, dict)
            and isinstance(before.data, dict)
        ):
            found[-1] = RunEvent(event.id, event.type, {"text": before.data["text"] + event.data["text"]})
        else:
            found.append(event)
    return found
