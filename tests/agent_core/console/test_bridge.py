"""From threads to the engine's loop, and the pages as part of an ASGI server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agent_core import Agent
from agent_core.console.asgi import Pages
from agent_core.console.bridge import EngineBridge, SlowError
from agent_core.console.wsgi import build
from agent_core.errors import NotFoundError
from agent_core.messages import Principal
from agent_core.testing import ScriptedModel, test_app

Sites = Callable[..., Any]


def an_app() -> Any:
    return test_app(Agent(name="assistant", model=ScriptedModel(["hi"])))


def test_errors_and_results_cross_the_bridge(loop: asyncio.AbstractEventLoop) -> None:
    app = an_app()
    bridge = EngineBridge(app.engine, loop)
    assert bridge.run(app.engine.sessions(Principal())) == []
    with pytest.raises(NotFoundError):
        bridge.run(app.engine.run(Principal(), "none"))


def test_what_takes_too_long_is_given_up(loop: asyncio.AbstractEventLoop) -> None:
    cancelled: list[bool] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(SlowError, match=r"no answer within 0\.01 s"):
        EngineBridge(an_app().engine, loop).run(forever(), 0.01)
    assert cancelled == [True]


def test_a_loop_that_stands_still_is_moved_by_the_caller() -> None:
    """As on Lambda, where a WSGI handler and the engine share one thread."""
    app = an_app()
    loop = asyncio.new_event_loop()
    try:
        bridge = EngineBridge(app.engine, loop, app.clock)
        client = build(bridge, app.settings).test_client()
        session_id = app.clock.new_id()
        answer = client.post(f"/chat/{session_id}", data={"text": "hello"})
        assert answer.status_code == 303
        assert "hi" in client.get(f"/chat/{session_id}").text
        loop.run_until_complete(app.close())
    finally:
        loop.close()


async def get(app: Any, path: str) -> tuple[int, bytes]:
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": f"/console{path}",
        "root_path": "/console",
        "query_string": b"",
        "headers": [],
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body


async def test_several_first_pages_at_once_build_the_app_once() -> None:
    app = an_app()
    pages = Pages(app.engine, app.settings, app.clock)
    answers = await asyncio.gather(
        *(get(pages, path) for path in ("/chat", "/sessions", "/runs", "/nothing"))
    )
    assert [status for status, _ in answers] == [200, 200, 200, 404]
    assert all(b'href="/console/chat"' in body for _, body in answers)
    assert b'data-api="/api/v1/agent"' in answers[0][1]
    await app.close()
