"""The pages as an ASGI app, to be mounted at /console of the HTTP surface."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from agent_core.clock import Clock
from agent_core.console.bridge import EngineBridge
from agent_core.engine.engine import Engine
from agent_core.security.door import Door
from agent_core.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

THREADS = 8
"""Pages that are rendered at the same time."""


class Pages:
    """Renders in threads, on demand: Flask and the templates are loaded with the first page."""

    def __init__(self, engine: Engine, settings: Settings, clock: Clock, door: Door | None = None) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._door = door
        self._app: asyncio.Task[Asgi] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if self._app is None:
            loop = asyncio.get_running_loop()
            self._app = loop.create_task(asyncio.to_thread(self._build, loop))
        app = await asyncio.shield(self._app)
        await app(scope, receive, send)

    def _build(self, loop: asyncio.AbstractEventLoop) -> Asgi:
        # Flask costs more to import than all the rest: who never looks at a page never pays for it.
        from a2wsgi import WSGIMiddleware

        from agent_core.console.wsgi import build

        bridge = EngineBridge(self._engine, loop, self._clock)
        pages: Any = build(
            bridge, self._settings, self._door
        )  # the libraries spell the types of WSGI and ASGI differently
        app: Any = WSGIMiddleware(pages, workers=THREADS)
        made: Asgi = app
        return made
