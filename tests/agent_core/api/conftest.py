"""An app on a memory store with a scripted model, spoken to in process or through a real server on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from agent_core import Agent, Settings, build_app, tool
from agent_core.api.asgi import build
from agent_core.app import App
from agent_core.clock import Clock, SystemClock
from agent_core.models.scripted import ScriptedModel
from agent_core.store.base import Store


@dataclass
class House:
    """The app, its agent's model, and the ASGI app over it."""

    app: App
    model: ScriptedModel
    asgi: Any

    def client(self) -> httpx.AsyncClient:
        """A client in this process. An error that gets through the boundary fails the test."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.asgi), base_url="http://sampan.test")

    async def say(
        self, message: object, headers: dict[str, str] | None = None, **fields: object
    ) -> httpx.Response:
        """Post one message."""
        async with self.client() as client:
            return await client.post("/api/v1/agent", json={"message": message, **fields}, headers=headers)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """Get something."""
        async with self.client() as client:
            return await client.get(path, **options)

    @contextlib.contextmanager
    def served(self, ws: Any = "none") -> Iterator[str]:
        """A uvicorn on loopback, in a thread with a loop of its own; gives its base URL. `ws` as uvicorn's."""
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self.asgi, ws=ws, lifespan="on", log_level="warning", loop="asyncio")
        server = _Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert server.up.wait(timeout=20), "the server did not come up"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            listener.close()
            assert not thread.is_alive()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@pytest.fixture
def house() -> Callable[..., House]:
    """Makes an app: its agent's script, then `settings`, `clock`, `mounts`, `store` and the agent's own fields."""

    def make(
        *script: Any,
        settings: dict[str, Any] | None = None,
        clock: Clock | None = None,
        mounts: Any = (),
        store: Store | None = None,
        **agent: Any,
    ) -> House:
        clock = clock or SystemClock()
        model = ScriptedModel(script)
        app = build_app(
            Settings(**({"store": "memory"} | (settings or {}))),
            agents=[Agent(name="assistant", model=model, **agent)],
            clock=clock,
            store=store,
        )
        return House(
            app,
            model,
            build(app.engine, app.settings, clock=clock, mounts=mounts, batches=lambda: app.batches),
        )

    return make


class Gate:
    """A tool that holds its run until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

        @tool
        async def wait() -> str:
            """Wait."""
            self.reached.set()
            await self.open.wait()
            return "waited"

        self.tool = wait


@pytest.fixture
def gate() -> Gate:
    """A tool named `wait`."""
    return Gate()


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    id: str
    type: str
    data: Any


def parse_events(text: str) -> list[Event]:
    """The events of a stream, comments left out."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append(Event(fields.get("id", ""), fields.get("event", ""), json.loads(fields["data"])))
    return events


@pytest.fixture
def events() -> Callable[[str], list[Event]]:
    """Reads server-sent events."""
    return parse_events
