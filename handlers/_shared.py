"""What the handlers share: one application and one event loop for as long as the platform keeps the process, its
deadline, and what is renewed when a snapshot of the process comes to life.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

from agent_core.app import App, ASGIApp, build_app
from agent_core.security.secrets import Secrets, guard_logs
from agent_core.wire.tls import shared_context

T = TypeVar("T")

RESERVE_SECONDS = 5.0
"""Before the platform stops us, by so much, no further step is begun."""

HANDING_OVER_SECONDS = 2.0
"""Before the platform stops us, by so much, what still runs is handed over."""


@cache
def app() -> App:
    """The application, made at the first call."""
    made = build_app()
    _log(made)
    return made


@cache
def asgi() -> ASGIApp:
    """The application's HTTP surface, made at the first call."""
    return app().asgi()


@cache
def _loop() -> asyncio.AbstractEventLoop:
    # One loop over all invocations: connections belong to the loop that they were made on.
    return asyncio.new_event_loop()


def loop() -> asyncio.AbstractEventLoop:
    """The process's event loop, set as the current one, for what asks for that."""
    asyncio.set_event_loop(_loop())
    return _loop()


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Do the work on the process's event loop."""
    return loop().run_until_complete(work)


async def in_time(app: App, context: Any, work: Callable[[float], Awaitable[T]]) -> T:
    """Do the work of one invocation, and leave nothing under way when the platform freezes the process.

    `work` gets the time (seconds since 1970) from which no step may begin, 0 where the `context` is None and nothing
    stops us. What is not done a little later is handed over to others, who are woken.
    """
    end = app.clock.now() + context.get_remaining_time_in_millis() / 1000 if context is not None else 0.0
    task = asyncio.ensure_future(work(end - RESERVE_SECONDS if end else 0.0))
    try:
        await asyncio.wait({task}, timeout=_left(app, end))
        if not task.done():
            await app.settle(0)
        return await task
    finally:
        await app.settle(_left(app, end))
        _flush()


def kind_of(event: Any) -> str:
    """What an event seems to be, for whoever sent it to the wrong function."""
    if not isinstance(event, dict):
        return f"a {type(event).__name__}"
    records = event.get("Records")
    if isinstance(records, list) and records and isinstance(records[0], dict):
        return f"records of {records[0].get('eventSource') or records[0].get('EventSource')!r}"
    if "detail-type" in event:
        return f"the event {event['detail-type']!r} of {event.get('source')!r}"
    context = event.get("requestContext")
    if isinstance(context, dict) and "connectionId" in context:
        return f"the WebSocket event {context.get('routeKey')!r}"
    if isinstance(context, dict):
        return "an HTTP request"
    return f"an event with the fields {sorted(event)[:10]}"


def _left(app: App, end: float) -> float | None:
    """Seconds until what still runs is handed over; None for as long as it takes."""
    return max(end - HANDING_OVER_SECONDS - app.clock.now(), 0.0) if end else None


def _log(app: App) -> None:
    """Our lines from the level of the settings on, through the platform's own handler, which knows the request."""
    logging.getLogger("sampan").setLevel(app.settings.log_level.upper())
    guard_logs(Secrets(app.settings.secrets()))


def _flush() -> None:
    """Have what was logged leave the process: it may be frozen for hours now, or killed."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()


def before_snapshot() -> None:
    """All that an invocation needs is loaded and made; nothing has connected."""
    app()
    shared_context()


def after_restore() -> None:
    """Make anew what processes of one snapshot must not share: chance, ids, connections, credentials, secrets.

    The agents' modules stay loaded: they are most of a start.
    """
    random.seed()
    asgi.cache_clear()
    app.cache_clear()
    app()


def on_snapshot(before: Callable[[], None], after: Callable[[], None] | None = None) -> None:
    """Have the platform call these around a snapshot (Lambda SnapStart), where it can.

    https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html
    """
    try:
        # Only Lambda's managed runtime is sure to have it.
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ImportError:
        return
    register_before_snapshot(before)
    if after is not None:
        register_after_restore(after)


on_snapshot(before_snapshot, after_restore)
