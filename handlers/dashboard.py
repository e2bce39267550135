"""Triggered by HTTP at /console: the pages of the console, which are a WSGI app."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from serverless_wsgi import handle_request

from agent_core.console.bridge import EngineBridge
from agent_core.console.wsgi import build
from agent_core.errors import MalformedError
from handlers import _http, _shared

CONSOLE = "/console"

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request."""
    request = _http.read(event)
    try:
        # Pages are rendered in a thread of their own, while the loop does for them what they ask of the engine.
        return _shared.wait_for(
            _shared.in_time(
                _shared.app(), context, lambda _: asyncio.to_thread(handle_request, pages, request, context)
            )
        )
    except binascii.Error as error:
        return _http.refusal(MalformedError(f"the body is said to be base64, but is not: {error}"))


def pages(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The pages below /console, and links that lead back here whatever the gateway puts before a path."""
    prefix, path = _http.prefix(environ["serverless.event"]), environ["PATH_INFO"]
    if path.startswith(f"{prefix}/"):
        path = path[len(prefix) :]
    if path == CONSOLE:
        start_response("308 Permanent Redirect", [("Location", f"{prefix}{CONSOLE}/")])
        return []
    below = path.startswith(f"{CONSOLE}/")
    environ["SCRIPT_NAME"] = prefix + CONSOLE
    environ["PATH_INFO"] = path[len(CONSOLE) :] if below else f"/nothing{path}"
    body = _wsgi()(environ, start_response)
    try:
        return [b"".join(body)]
    finally:
        close = getattr(body, "close", None)  # the adapter does not, and a static file is an open one
        if close is not None:
            close()


@cache
def _wsgi() -> Callable[[Environ, StartResponse], Iterable[bytes]]:
    app = _shared.app()
    made: Callable[[Environ, StartResponse], Iterable[bytes]] = build(
        EngineBridge(app.engine, _shared.loop(), app.clock), app.settings, app.door
    )
    return made


def before_snapshot() -> None:
    """The pages are loaded and made, too."""
    _wsgi()


_shared.on_snapshot(before_snapshot, _wsgi.cache_clear)
