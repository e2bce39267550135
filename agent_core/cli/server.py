"""The server behind `sampan run`: its socket, uvicorn, the signals that end it."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.supervisors import ChangeReload

from agent_core.app import App, build_app
from agent_core.cli.screen import complain, say
from agent_core.cli.shutdown import shut
from agent_core.errors import AgentError
from agent_core.security.secrets import Secrets, guard_logs
from agent_core.settings import Settings

GRACE_SECONDS = 10
"""How long requests under way may go on once the server was asked to stop."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Greeting = Callable[[App], Awaitable[bool]]
"""What is done once the server listens; says whether it went well."""


class Server(uvicorn.Server):
    """uvicorn, ended in peace by a signal (it would raise the signal once more), and telling who waits for that."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()
        self.hurrying = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT or SIGTERM: stop. The second one does not wait for what is under way."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._loop.call_soon_threadsafe((self.hurrying if self.force_exit else self.stopping).set)


def serve(settings: Settings, listener: socket.socket, greet: Greeting, *, once: bool = False) -> int:
    """Serve until SIGINT or SIGTERM, or with `once` until the greeting is over. Gives the exit code."""
    _log_to_stderr(settings)
    app = build_app(settings)
    config = uvicorn.Config(
        app.asgi(),
        log_config=None,
        lifespan="off",  # the app is closed here, and not waited for for ever
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=settings.max_header_bytes,
    )
    # What was loaded so far stays for good. Looking through it for garbage now and then costs 4 % of the CPU of a busy
    # server, in pauses of 35 ms for every request under way.
    gc.collect()
    gc.freeze()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            return runner.run(_serving(app, config, listener, greet, once=once))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _serving(
    app: App, config: uvicorn.Config, listener: socket.socket, greet: Greeting, *, once: bool
) -> int:
    server = Server(config)
    for number in SIGNALS:  # from now until the app is closed; uvicorn has them only while it serves
        signal.signal(number, server.handle_exit)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    greeting = asyncio.ensure_future(greet(app))
    stopping = asyncio.create_task(server.stopping.wait())
    beside = {asyncio.create_task(app.look_after()), asyncio.create_task(app.work())}
    well = not once
    try:
        await asyncio.wait({serving, greeting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if greeting.done():
            well = greeting.result() or well
        server.should_exit = server.should_exit or once
        await serving
    finally:
        ending = {greeting, stopping, *beside}
        for task in ending:
            task.cancel()
        await asyncio.wait(ending)
        await shut(app, GRACE_SECONDS, server.hurrying)
    return 0 if well else 1


def serve_reloading(settings: Settings, listener: socket.socket, greet: Greeting) -> int:
    """Serve in a child process that is started anew whenever a file of the agents changes."""
    _log_to_stderr(settings)
    agents = Path(settings.agents)
    watched = agents if agents.is_dir() else agents.parent if agents.is_file() else Path.cwd()
    config = uvicorn.Config(
        "agent_core.app:build_app", reload=True, reload_dirs=[str(watched)], log_config=None
    )
    say(f"Watching {watched} for changes.", "dim")
    ChangeReload(config, target=partial(_reloaded, settings, greet), sockets=[listener]).run()
    return 0


def _reloaded(settings: Settings, greet: Greeting, sockets: list[socket.socket] | None) -> None:
    """The child: a mistake in a user's file is told, and the next change tries again."""
    try:
        sys.exit(serve(settings, (sockets or [])[0], greet))
    except AgentError as error:
        complain(error)
        sys.exit(1)


def _log_to_stderr(settings: Settings) -> None:
    """Log lines for whoever runs the server: ours, and one for each request."""
    logging.basicConfig(
        stream=sys.stderr,
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s | %(message)s",
    )
    guard_logs(Secrets(settings.secrets()))
    for chatty in ("uvicorn.error", "asyncio", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
