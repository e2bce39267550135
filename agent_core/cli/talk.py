"""Two ways to talk to an agent, seen as one: in this process, or over HTTP with a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import msgspec

from agent_core.api.runs import run_view
from agent_core.api.views import Problem, RunView
from agent_core.app import App, build_app
from agent_core.cli.client import call, connect, error_of, refusal, unreachable
from agent_core.cli.shutdown import shut
from agent_core.clock import Clock, SystemClock
from agent_core.engine.bound import Bound
from agent_core.engine.runs import Inbound, Run
from agent_core.errors import CutError, NotFoundError
from agent_core.messages import Message, Principal
from agent_core.settings import Settings
from agent_core.wire.sse import Event, EventParser

LEAVE_SECONDS = 2.0
"""How long a person who leaves waits for an answer that is still coming."""


@dataclass(frozen=True)
class Told:
    """What is told while an answer comes: `type` and `data` as in a RunEvent, at the end the run."""

    type: str
    data: dict[str, Any] = field(default_factory=dict)
    run: RunView | None = None


class Talk(Protocol):
    """A conversation with one agent. `session_id` "" begins a new session with the next message."""

    session_id: str

    @property
    def label(self) -> str:
        """Whom one talks to, for people."""

    def send(self, text: str) -> AsyncIterator[Told]:
        """Say something; the last thing told, and only that, has a `run`. Raises AgentError where nothing came."""

    async def cancel(self) -> None:
        """Stop the run of the last message, if it is still going on."""


class LocalTalk:
    """A conversation in this process."""

    def __init__(self, app: App, *, agent: str = "", session_id: str = "") -> None:
        known = app.engine.agents
        if agent and agent not in known:
            raise NotFoundError(f"there is no agent {agent!r}; there are: {', '.join(sorted(known))}")
        self._app = app
        self._bound = known[agent or app.engine.default_agent]
        self._run_id = ""
        self.session_id = session_id

    @property
    def label(self) -> str:
        """See Talk."""
        return agent_label(self._bound)

    async def send(self, text: str) -> AsyncIterator[Told]:
        """See Talk."""
        inbound = Inbound(
            messages=(Message.of("user", text, data_class=self._app.settings.data_class),),
            agent=self._bound.name,
            session_id=self.session_id,
            channel="cli",
        )
        async for event in self._app.engine.stream(inbound):
            if isinstance(event.data, Run):
                yield Told(event.type, run=run_view(event.data))
            else:
                if event.type == "run":
                    self.session_id, self._run_id = event.data["session_id"], event.data["run_id"]
                yield Told(event.type, event.data)

    async def cancel(self) -> None:
        """See Talk."""
        if self._run_id:
            await self._app.engine.cancel(Principal(), self._run_id)


class RemoteTalk:
    """A conversation with a server."""

    def __init__(self, client: httpx.AsyncClient, *, agent: str = "", session_id: str = "") -> None:
        self._client = client
        self._agent = agent
        self._run_id = ""
        self.session_id = session_id

    @property
    def label(self) -> str:
        """See Talk."""
        return f"{self._agent or 'the agent'} at {self._client.base_url}"

    async def send(self, text: str) -> AsyncIterator[Told]:
        """See Talk."""
        body: dict[str, Any] = {"message": text, "stream": True}
        if self._agent:
            body["agent"] = self._agent
        if self.session_id:
            body["session_id"] = self.session_id
        try:
            async with self._client.stream("POST", "/api/v1/agent", json=body) as response:
                if response.status_code >= 400:
                    raise refusal(response.status_code, await response.aread())
                parser = EventParser()
                async for piece in response.aiter_bytes():
                    for event in parser.feed(piece):
                        told = self._told(event)
                        yield told
                        if told.run is not None:
                            return
        except httpx.HTTPError as error:
            raise unreachable(self._client, error) from error
        raise CutError("the answer broke off; `sampan runs list` shows what became of it")

    def _told(self, event: Event) -> Told:
        data = msgspec.json.decode(event.data, type=dict[str, Any])
        if event.event == "error" and "run_id" not in data:  # the service itself failed, not the run
            raise error_of(msgspec.convert(data["problem"], Problem))
        if event.event in ("reply", "error"):
            return Told(event.event, run=msgspec.convert(data, RunView))
        if event.event == "run":
            self.session_id, self._run_id = data["session_id"], data["run_id"]
        return Told(event.event, data)

    async def cancel(self) -> None:
        """See Talk."""
        if self._run_id:
            await call(self._client, "POST", f"/api/v1/runs/{self._run_id}/cancel")


@asynccontextmanager
async def opened(
    settings: Settings, *, url: str, agent: str, session: str
) -> AsyncIterator[tuple[RemoteTalk | LocalTalk, Clock]]:
    """A conversation with the server at the URL, or without one in this process; all is closed in the end."""
    if url:
        async with connect(url, settings.api_key) as client:
            yield RemoteTalk(client, agent=agent, session_id=session), SystemClock()
        return
    app = build_app(settings)
    try:
        yield LocalTalk(app, agent=agent, session_id=session), app.clock
    finally:
        await shut(app, LEAVE_SECONDS)


def agent_label(bound: Bound) -> str:
    """An agent and its model, for people."""
    return f"{bound.name} ({bound.model.name})" if bound.model else bound.name


class Stopwatch:
    """Seconds from a question to the first of its answer, and to its end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.monotonic()
        self.first: float | None = None
        self.total = 0.0

    def see(self, told: Told) -> None:
        """Take note of something told."""
        self.total = self._clock.monotonic() - self._start
        if self.first is None and told.type in ("text", "reasoning", "tool_call", "reply"):
            self.first = self.total
