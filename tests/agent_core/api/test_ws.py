"""`/ws` on a real server, spoken to by a WebSocket client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from agent_core.messages import ToolCall

House = Callable[..., Any]


class Talker:
    """A client that reads frames, the parts of large ones put together."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def say(self, **action: Any) -> None:
        await self.connection.send(json.dumps(action))

    async def hear(self) -> dict[str, Any]:
        text = ""
        while True:
            frame: dict[str, Any] = json.loads(await asyncio.wait_for(self.connection.recv(), 10))
            if frame["type"] != "part":
                return frame
            assert len(frame["text"]) < 32 * 1024
            text += frame["text"]
            if frame["number"] == frame["count"]:
                whole: dict[str, Any] = json.loads(text)
                return whole

    async def until(self, *types: str) -> list[dict[str, Any]]:
        heard = [await self.hear()]
        while heard[-1]["type"] not in types:
            heard.append(await self.hear())
        return heard


@asynccontextmanager
async def talking(url: str, **options: Any) -> AsyncIterator[Talker]:
    async with connect(f"{url.replace('http', 'ws', 1)}/ws", proxy=None, **options) as connection:
        yield Talker(connection)


def let_go(gate: Any) -> None:
    """Open the gate, whose run is on the server's loop, in another thread."""
    gate.open._loop.call_soon_threadsafe(gate.open.set)


def text(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["data"]["text"] for frame in frames if frame["type"] == "text")


async def test_a_message_is_told_as_by_server_sent_events(house: House) -> None:
    with house("one two three four").served("auto") as url:
        async with talking(url) as talker:
            await talker.say(action="send", message="count", ref="a")
            heard = await talker.until("reply")
        assert heard[0]["data"]["run_id"] == heard[0]["run_id"]
        assert {frame["ref"] for frame in heard} == {"a"}
        assert text(heard) == "one two three four"
        async with httpx.AsyncClient() as client:
            run = (await client.get(f"{url}/api/v1/runs/{heard[0]['run_id']}")).json()
        run.pop("journal")
        assert heard[-1]["data"] == run
        assert run["channel"] == "websocket"


async def test_several_messages_at_once(house: House, gate: Any) -> None:
    call = ToolCall(id="1", name="wait", arguments="{}")
    with house(call, "pong", "done", tools=[gate.tool]).served("auto") as url:
        async with talking(url) as talker:
            await talker.say(action="send", message="wait", ref="slow")
            await talker.until("run")
            await talker.say(action="ping", ref="p")
            await talker.until("pong")
            await talker.say(action="send", message="quick", ref="quick")
            heard = await talker.until("reply")
            assert heard[-1]["ref"] == "quick"
            await talker.say(action="cancel", run_id=heard[-1]["run_id"])
            taken = await talker.until("taken")
            assert taken[-1]["data"]["status"] == "succeeded"
        let_go(gate)


async def test_a_client_that_was_cut_off_resumes_to_the_letter(house: House) -> None:
    with house("one two three four").served("auto") as url:
        async with talking(url) as talker:
            await talker.say(action="send", message="count")
            heard = await talker.until("text")
        last = heard[-1]
        async with talking(url) as talker:
            await talker.say(action="resume", run_id=last["run_id"], last_event_id=last["id"])
            rest = await talker.until("reply")
        assert text(heard + rest) == "one two three four"


async def test_the_run_of_a_client_that_left_goes_on(house: House, gate: Any) -> None:
    call = ToolCall(id="1", name="wait", arguments="{}")
    home = house(call, "done", tools=[gate.tool])
    with home.served("auto") as url:
        async with talking(url) as talker:
            await talker.say(action="send", message="wait")
            run_id = (await talker.hear())["run_id"]
        while not gate.reached.is_set():
            await asyncio.to_thread(lambda: None)
        let_go(gate)
        async with talking(url) as talker:
            await talker.say(action="resume", run_id=run_id)
            heard = await talker.until("reply")
        assert heard[-1]["data"]["reply"]["text"] == "done"


async def test_large_frames_come_in_parts(house: House) -> None:
    words = 'wörd "quoted" ' * 3_000
    with house(words).served("auto") as url:
        async with talking(url) as talker:
            await talker.say(action="send", message="much")
            assert text(await talker.until("reply")) == words


async def test_what_can_not_be_used_is_told_and_the_connection_stays(house: House) -> None:
    with house(settings={"max_body_bytes": 1000}).served("auto") as url:
        async with talking(url) as talker:
            for said, slug in (
                ("what?", "malformed"),
                (b"\xff", "malformed"),
                ('{"action": "dance"}', "invalid-input"),
                (json.dumps({"action": "send", "message": "x" * 1000}), "too-large"),
            ):
                await talker.connection.send(said)
                assert (await talker.hear())["data"]["problem"]["type"] == f"urn:sampan:problem:{slug}"
            await talker.say(action="ping")
            assert await talker.hear() == {"type": "pong"}


async def test_too_much_at_once_is_refused(house: House, gate: Any) -> None:
    calls = [ToolCall(id="1", name="wait", arguments="{}")] * 16
    with house(*calls, *["done"] * 16, tools=[gate.tool]).served("auto") as url:
        async with talking(url) as talker:
            for _ in range(17):
                await talker.say(action="send", message="wait")
            heard = await talker.until("error")
            assert heard[-1]["data"]["problem"]["type"] == "urn:sampan:problem:crowded"
        let_go(gate)


@pytest.mark.parametrize(
    ("origin", "allowed", "status"),
    [
        ("https://evil.example", (), 403),
        ("https://app.example", ("https://app.example",), 0),
        ("https://evil.example", ("*",), 0),
        (None, (), 0),
        ("own", (), 0),
    ],
)
async def test_pages_of_other_sites_may_not_connect(
    house: House, origin: str | None, allowed: tuple[str, ...], status: int
) -> None:
    with house(settings={"origins": allowed}).served("auto") as url:
        page = url if origin == "own" else origin
        if status:
            with pytest.raises(InvalidStatus) as refused:
                async with talking(url, origin=page):
                    pass
            assert refused.value.response.status_code == status
            assert json.loads(refused.value.response.body)["type"] == "urn:sampan:problem:origin"
        else:
            async with talking(url, origin=page) as talker:
                await talker.say(action="ping")
                assert (await talker.hear())["type"] == "pong"


async def test_a_browser_gets_its_subprotocol(house: House) -> None:
    with house().served("auto") as url:
        async with talking(url, subprotocols=["sampan", "bearer.abc"]) as talker:
            assert talker.connection.subprotocol == "sampan"
