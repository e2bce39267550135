"""Server-sent events, in process and through a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from agent_core import tool
from agent_core.api.sse import EventStream
from agent_core.errors import ModelBusyError
from agent_core.messages import Prompt, Reply, ToolCall
from agent_core.testing import ManualClock

House = Callable[..., Any]
Events = Callable[[str], list[Any]]


async def test_a_stream_tells_the_run_its_text_and_its_end(house: House, events: Events) -> None:
    home = house("one two three four")
    answer = await home.say("count", stream=True)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    seen = events(answer.text)
    assert len({event.id for event in seen}) == len(seen)
    assert seen[0].type == "run"
    assert seen[0].data.keys() == {"run_id", "session_id", "agent", "replayed"}
    assert "".join(event.data["text"] for event in seen if event.type == "text") == "one two three four"
    assert seen[-1].type == "reply"
    run = (await home.get(f"/api/v1/runs/{seen[0].data['run_id']}")).json()
    run.pop("journal")
    assert seen[-1].data == run


@pytest.mark.parametrize(
    ("accept", "stream", "streamed"),
    [
        ("text/event-stream", None, True),
        ("text/event-stream", False, False),
        ("application/json, text/event-stream;q=0.5", None, False),
        ("application/json;q=0.5, text/event-stream", None, True),
        ("text/event-stream;q=0", None, False),
        ("text/event-stream;q=x", None, False),
        ("*/*", None, False),
        ("*/*", True, True),
    ],
)
async def test_the_body_and_then_the_accept_header_decide(
    house: House, accept: str, stream: bool | None, streamed: bool
) -> None:
    answer = await house("Hi.").say("Hi", {"Accept": accept}, stream=stream)
    assert answer.headers["content-type"].startswith("text/event-stream") == streamed


async def test_tools_are_told_as_they_work(house: House, events: Events) -> None:
    @tool
    def weather(city: str) -> str:
        """Weather of a city."""
        return f"sunny in {city}"

    home = house(ToolCall("c1", "weather", '{"city": "Oslo"}'), "Sunny.", tools=[weather])
    seen = events((await home.say("Weather?", stream=True)).text)
    assert [event.type for event in seen] == ["run", "tool_call", "tool_result", "text", "reply"]
    assert seen[1].data == {"id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'}
    assert seen[2].data["content"] == "sunny in Oslo"


async def test_what_is_refused_is_a_problem_and_no_stream(house: House) -> None:
    home = house("Once.")
    answer = await home.say("Hi", stream=True, agent="nobody")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    await home.say("Hi", {"Idempotency-Key": "k"}, stream=True)
    answer = await home.say("Ho", {"Idempotency-Key": "k"}, stream=True)
    assert answer.status_code == 422


async def test_a_run_that_fails_ends_its_stream_with_the_problem(house: House, events: Events) -> None:
    seen = events((await house(ModelBusyError("overloaded")).say("Hi", stream=True)).text)
    assert seen[-1].type == "error"
    assert seen[-1].data["status"] == "failed"
    assert seen[-1].data["problem"]["type"] == "urn:sampan:problem:model-busy"


async def test_a_key_replays_as_a_stream(house: House, events: Events) -> None:
    home = house("Once.")
    first = await home.say("Hi", {"Idempotency-Key": "k"}, stream=True)
    again = await home.say("Hi", {"Idempotency-Key": "k"}, stream=True)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert [event.type for event in events(again.text)] == ["run", "text", "reply"]
    assert events(again.text)[-1].data == events(first.text)[-1].data


async def test_a_stream_that_was_cut_goes_on_behind_its_last_event(house: House, events: Events) -> None:
    home = house("one two three four")
    whole = events((await home.say("count", stream=True)).text)
    run_id = whole[0].data["run_id"]
    for place in range(len(whole)):
        rest = await home.get(f"/api/v1/runs/{run_id}/events", headers={"Last-Event-ID": whole[place].id})
        if whole[place].type == "reply":
            assert (rest.status_code, rest.content) == (204, b"")
            break
        seen = whole[: place + 1] + events(rest.text)
        assert "".join(event.data["text"] for event in seen if event.type == "text") == "one two three four"
        assert seen[-1] == whole[-1]
    told = events((await home.get(f"/api/v1/runs/{run_id}/events")).text)
    assert (told[0].type, told[-1]) == ("run", whole[-1])
    assert (await home.get("/api/v1/runs/none/events")).status_code == 404
    async with home.client() as client:
        head = await client.head(f"/api/v1/runs/{run_id}/events")
    assert (head.status_code, head.content) == (200, b"")


async def test_what_is_ready_together_goes_out_together(house: House) -> None:
    home = house("word " * 200)
    sent: list[dict[str, Any]] = []
    await ask(home.asgi, b'{"message": "Hi", "stream": true}', sent)
    pieces = [message["body"] for message in sent if message["type"] == "http.response.body"]
    assert sum(piece.count(b"event: text") for piece in pieces) == 125
    assert len(pieces) <= 5


async def test_a_silent_stream_says_that_it_is_there(house: House, gate: Any) -> None:
    clock = ManualClock()
    home = house(ToolCall("c1", "wait"), "Done.", tools=[gate.tool], clock=clock)
    sent: list[dict[str, Any]] = []
    told = asyncio.Event()

    def heard(message: dict[str, Any]) -> None:
        if b": still here\n\n" in message.get("body", b""):
            told.set()

    asked = asyncio.create_task(ask(home.asgi, b'{"message": "Hi", "stream": true}', sent, heard))
    await gate.reached.wait()
    clock.advance(15)
    async with asyncio.timeout(10):
        await told.wait()
    gate.open.set()
    await asked
    assert b"event: reply" in b"".join(message.get("body", b"") for message in sent)


async def test_a_client_that_leaves_does_not_stop_the_run(house: House, gate: Any) -> None:
    home = house(ToolCall("c1", "wait"), "Done.", tools=[gate.tool])
    key = (b"idempotency-key", b"k")
    sent: list[dict[str, Any]] = []
    left = asyncio.Event()
    asked = asyncio.create_task(
        ask(home.asgi, b'{"message": "Hi", "stream": true}', sent, left=left, headers=[key])
    )
    await gate.reached.wait()
    left.set()
    async with asyncio.timeout(10):
        await asked  # the stream is over at once, the run is not
    assert b"event: reply" not in b"".join(message.get("body", b"") for message in sent)
    gate.open.set()
    await home.app.engine.close()
    answer = await home.say("Hi", {"Idempotency-Key": "k"}, stream=True)
    assert answer.headers["idempotency-replayed"] == "true"
    assert '"text":"Done."' in answer.text


async def test_a_stream_whose_source_breaks_tells_the_client(house: House, events: Events) -> None:
    def broken(prompt: Prompt) -> Reply:
        raise KeyError("a model's bug")

    answer = await house(broken).say("Hi", stream=True)
    last = events(answer.text)[-1]
    assert last.type == "error"
    assert last.data["problem"]["type"] == "urn:sampan:problem:internal"
    assert "bug" not in answer.text


async def test_a_server_that_lost_its_client_ends_the_stream() -> None:
    """Some servers raise where others say nothing (ASGI 2.4): the stream ends either way."""
    closed = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: 1\n\n"
                await asyncio.sleep(0)
        finally:
            closed.set()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            raise OSError("gone")

    await EventStream(frames(), ManualClock())({"type": "http"}, receive, send)
    assert closed.is_set()


async def test_a_real_server_streams_while_the_run_works(house: House) -> None:
    """The first event is with the client before the last is made."""
    go = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    @tool
    async def wait() -> str:
        """Wait."""
        loops.append(asyncio.get_running_loop())
        await go.wait()
        return "waited"

    home = house(ToolCall("c1", "wait"), "Done.", tools=[wait])
    seen = b""
    with home.served() as url:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            body = {"message": "Go", "stream": True}
            async with client.stream("POST", "/api/v1/agent", json=body) as answer:
                assert answer.status_code == 200
                async for piece in answer.aiter_raw():
                    seen += piece
                    if b"event: tool_call" in seen and not go.is_set() and loops:
                        loops[0].call_soon_threadsafe(go.set)
    assert b"event: reply" in seen


async def ask(
    app: Any,
    body: bytes,
    sent: list[dict[str, Any]],
    heard: Callable[[dict[str, Any]], None] = lambda message: None,
    left: asyncio.Event | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Post a body as a server would, keeping each message that comes back."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/v1/agent",
        "raw_path": b"/api/v1/agent",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), *(headers or [])],
    }
    pending = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if pending:
            return pending.pop()
        await (left or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        heard(message)

    await app(scope, receive, send)
