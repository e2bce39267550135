"""WebSockets behind API Gateway: what is pushed over a management API on loopback that checks signatures and sizes."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from agent_core import Agent, App, Principal, tool
from agent_core.api.connections import KIND, Connections
from agent_core.aws.sigv4 import Credentials, Scope, sign
from agent_core.engine.runs import Delivery, Inbound
from agent_core.errors import ConfigError, InputError, StoreError
from agent_core.messages import Message, ToolCall
from agent_core.security.visitor import Caller
from agent_core.store.base import Key, Store
from agent_core.store.dynamodb import DynamoStore
from agent_core.store.sqlite import SqliteStore
from agent_core.testing import CountingStore, ManualClock, ScriptedModel, test_app
from agent_core.wire.base import Request
from handlers import websocket
from tests.aws.emulator import Emulator
from tests.handlers.conftest import Context
from tests.handlers.gateway import ENVIRON, KEY, REGION, SECRET, TOKEN, Gateway, event, path_of, signed

ME = "L0SM9cOFvHcCIhw="
OTHER = "Z/9+aQ=="


class Client:
    """A client of the WebSocket API: what it does becomes events, what it sees comes from the gateway."""

    def __init__(self, gateway: Gateway, app: App, connection: str = ME) -> None:
        self.gateway = gateway
        self.app = app
        self.connection = connection

    async def connect(self, **more: Any) -> dict[str, Any]:
        answer = await websocket.handle(self.app, event("CONNECT", self.connection, **more), Context())
        if answer["statusCode"] == 200:
            self.gateway.open.add(self.connection)
        return answer

    async def say(self, body: Any, milliseconds: int = 29_000) -> dict[str, Any]:
        return await websocket.handle(
            self.app, event("MESSAGE", self.connection, body), Context(milliseconds)
        )

    async def leave(self) -> dict[str, Any]:
        self.gateway.open.discard(self.connection)
        return await websocket.handle(self.app, event("DISCONNECT", self.connection), Context())

    @property
    def seen(self) -> list[dict[str, Any]]:
        return self.gateway.said(self.connection)

    @property
    def text(self) -> str:
        return "".join(frame["data"]["text"] for frame in self.seen if frame["type"] == "text")


def made(gateway: Gateway, *script: Any, store: Store | None = None, clock: Any = None, **agent: Any) -> App:
    """An app whose frames go to the gateway; its wire is a real one."""
    settings = {name.lower(): value for name, value in ENVIRON.items()}
    agent = Agent(name="assistant", model=ScriptedModel(script), **agent)
    settings = {"auth": "off", **settings}  # who may come in: tests/agent_core/security
    return test_app(agent, store=store, clock=clock, websocket_url=gateway.url, **settings)


def types(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["type"] for frame in frames]


async def test_a_message_is_answered_in_frames(gateway: Gateway) -> None:
    app = made(gateway, "one two three four")
    client = Client(gateway, app)
    assert await client.connect() == {"statusCode": 200}
    assert await client.say({"action": "send", "message": "count", "ref": "r1"}) == {"statusCode": 200}
    seen = client.seen
    assert seen[0]["type"] == "run"
    assert seen[0]["ref"] == "r1"
    assert client.text == "one two three four"
    assert types(seen)[-1] == "reply"
    assert types(seen).count("reply") == 1
    assert seen[-1]["id"] == "end"
    assert seen[-1]["data"]["reply"]["text"] == "one two three four"
    assert {frame["run_id"] for frame in seen} == {seen[0]["data"]["run_id"]}
    assert gateway.refused == []
    await app.close()


def test_the_stand_in_takes_only_what_is_signed() -> None:
    credentials = Credentials(KEY, SECRET, TOKEN)
    request = Request(method="POST", url=f"http://127.0.0.1{path_of(ME)}", body=b"{}")
    right = sign(request, credentials, Scope(REGION, "execute-api"), 1_750_000_000.0)
    headers = {**right.headers, "host": "127.0.0.1"}
    assert signed("POST", request.url, headers, b"{}")
    assert not signed("POST", request.url, headers, b"[]")
    assert not signed("POST", request.url.replace("L0", "M0"), headers, b"{}")
    other = sign(request, credentials, Scope("us-east-1", "execute-api"), 1_750_000_000.0)
    assert not signed("POST", request.url, {**other.headers, "host": "127.0.0.1"}, b"{}")


async def test_wrong_keys_are_refused_and_the_run_is_kept(gateway: Gateway) -> None:
    app = made(gateway, "Hello.")
    wrong = test_app(
        Agent(name="assistant", model=ScriptedModel(["Hello."])),
        store=app.store,
        websocket_url=gateway.url,
        **{name.lower(): value for name, value in ENVIRON.items()} | {"aws_secret_access_key": "wrong"},
    )
    await Client(gateway, app).connect()
    with pytest.raises(StoreError, match="InvalidSignature"):
        await Client(gateway, wrong).say({"action": "send", "message": "Hi"})
    assert gateway.refused
    assert gateway.frames == []
    [run] = await app.engine.runs(Principal())
    assert run.status == "succeeded"
    [letter] = await app.engine.dead(Principal())
    assert letter.kind == "push"
    await app.close()
    await wrong.close()


@pytest.mark.parametrize("word", ['"\\', "é", "語", "x", "\x01"])
async def test_what_is_large_comes_in_parts_below_32_kb(gateway: Gateway, word: str) -> None:
    text = word * (40_000 // len(word.encode()))
    app = made(gateway, text)
    client = Client(gateway, app)
    await client.connect()
    await client.say({"action": "send", "message": "long"})
    assert client.text == text
    assert client.seen[-1]["data"]["reply"]["text"] == text
    assert max(len(body) for _, body in gateway.frames) < 32 * 1024
    assert len(gateway.frames) > len(client.seen)
    await app.close()


async def test_a_client_that_leaves_in_mid_stream_loses_nothing(gateway: Gateway) -> None:
    app = made(gateway, "one two three four five six")
    client = Client(gateway, app)
    await client.connect()

    def leave(connection: str, frame: dict[str, Any]) -> None:
        if frame["type"] == "text":
            gateway.open.clear()

    gateway.before = leave
    assert await client.say({"action": "send", "message": "count"}) == {"statusCode": 200}
    assert types(client.seen) == ["run", "text"]
    run_id, last = client.seen[-1]["run_id"], client.seen[-1]["id"]
    assert await app.store.get(Key(f"socket/{ME}", "connection")) is None
    assert await app.engine.dead(Principal()) == []

    again = Client(gateway, app, OTHER)
    gateway.before = lambda *_: None
    await again.connect()
    await again.say({"action": "resume", "run_id": run_id, "last_event_id": last, "ref": "again"})
    assert client.text + again.text == "one two three four five six"
    assert types(again.seen)[-1] == "reply"
    assert {frame["ref"] for frame in again.seen} == {"again"}
    assert (await app.engine.run(Principal(), run_id)).steps == 1
    await app.close()


async def test_after_the_end_there_is_nothing_but_how_it_stands(gateway: Gateway) -> None:
    app = made(gateway, "Hello.")
    client = Client(gateway, app)
    await client.connect()
    await client.say({"action": "send", "message": "Hi"})
    run_id = client.seen[-1]["run_id"]
    await client.say({"action": "resume", "run_id": run_id, "last_event_id": "end"})
    assert types(client.seen)[-2:] == ["reply", "taken"]
    assert client.seen[-1]["data"]["status"] == "succeeded"
    await app.close()


async def test_the_end_comes_last_however_slow_the_gateway_is(gateway: Gateway) -> None:
    app = made(gateway, "word " * 500)
    client = Client(gateway, app)
    await client.connect()
    over = threading.Event()

    def slowly(connection: str, frame: dict[str, Any]) -> None:
        # The gateway answers only when the run is over in the store: all that is left waits for this frame.
        assert over.wait(timeout=10)

    gateway.before = slowly
    saying = asyncio.create_task(client.say({"action": "send", "message": "count"}))
    while not await _ended(app):
        await asyncio.to_thread(lambda: None)
    over.set()
    await saying
    assert client.text == "word " * 500
    assert types(client.seen)[-1] == "reply"
    assert len(client.seen) < 20, "what was ready together came together"
    await app.close()


async def _ended(app: App) -> bool:
    return any(run.done for run in await app.engine.runs(Principal()))


async def test_the_same_key_twice_is_answered_once(gateway: Gateway) -> None:
    app = made(gateway, "Hello.")
    client = Client(gateway, app)
    await client.connect()
    for _ in range(2):
        await client.say({"action": "send", "message": "Hi", "key": "k1"})
    first, second = (frame["data"] for frame in client.seen if frame["type"] == "run")
    assert (first["run_id"], second["replayed"]) == (second["run_id"], True)
    assert types(client.seen).count("reply") == 2
    await client.say({"action": "send", "message": "Other", "key": "k1"})
    assert client.seen[-1]["data"]["problem"]["type"] == "urn:sampan:problem:idempotency-key-reused"
    await app.close()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_gateway_that_is_busy_for_a_moment_is_asked_again(gateway: Gateway, status: int) -> None:
    app = made(gateway, "Hello.", clock=ManualClock(jump=True))
    client = Client(gateway, app)
    await client.connect()
    gateway.statuses = [status, status]
    await client.say({"action": "send", "message": "Hi"})
    assert types(client.seen)[0] == "run"
    assert types(client.seen)[-1] == "reply"
    await app.close()


class Held:
    """A tool that holds its run until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

        @tool
        async def wait() -> str:
            """Wait."""
            await self.open.wait()
            return "waited"

        self.tool = wait


async def test_a_run_without_time_is_handed_over_and_its_end_pushed_from_elsewhere(gateway: Gateway) -> None:
    held, clock = Held(), ManualClock()
    call = ToolCall(id="1", name="wait", arguments="{}")
    app = made(gateway, call, tools=[held.tool], clock=clock)
    client = Client(gateway, app)
    await client.connect()
    await client.say({"action": "send", "message": "Wait", "ref": "r"}, milliseconds=2_300)
    assert types(client.seen) == ["run", "later"]
    later = client.seen[-1]
    assert later["ref"] == "r"

    elsewhere = made(gateway, "Done.", tools=[held.tool], store=app.store, clock=clock)
    held.open.set()
    assert await elsewhere.engine.work(Principal(), client.seen[0]["data"]["session_id"])
    assert types(client.seen) == ["run", "later", "reply"]
    assert client.seen[-1]["data"]["reply"]["text"] == "Done."
    await client.say({"action": "resume", "run_id": later["run_id"], "last_event_id": later["id"]})
    assert types(client.seen)[-1] == "reply"
    await app.close()
    await elsewhere.close()


async def test_a_client_that_came_back_gets_the_end_from_whoever_finishes(gateway: Gateway) -> None:
    held, clock = Held(), ManualClock()
    call = ToolCall(id="1", name="wait", arguments="{}")
    app = made(gateway, call, tools=[held.tool], clock=clock)
    client = Client(gateway, app)
    await client.connect()
    await client.say({"action": "send", "message": "Wait"}, milliseconds=2_300)
    run_id = client.seen[0]["run_id"]
    await client.leave()
    again = Client(gateway, app, OTHER)
    await again.connect()
    resuming = asyncio.create_task(again.say({"action": "resume", "run_id": run_id}, milliseconds=2_300))
    while not resuming.done():
        clock.advance(0.5)  # it looks now and then whether there is something new
        await asyncio.wait({resuming}, timeout=0.02)
    assert types(again.seen)[-1] == "later"

    elsewhere = made(gateway, "Done.", tools=[held.tool], store=app.store, clock=clock)
    held.open.set()
    assert await elsewhere.engine.work(Principal(), client.seen[0]["data"]["session_id"])
    assert types(again.seen)[-1] == "reply"
    assert (await app.store.query(f"default/watch/{run_id}")).records == ()
    await app.close()
    await elsewhere.close()


async def test_a_person_is_asked_and_answers(gateway: Gateway) -> None:
    paid = []

    @tool(effects="once", approval=True)
    def pay(cents: int) -> str:
        """Pay."""
        paid.append(cents)
        return "paid"

    app = made(gateway, ToolCall(id="1", name="pay", arguments='{"cents":5}'), "Paid.", tools=[pay])
    client = Client(gateway, app)
    await client.connect()
    await client.say({"action": "send", "message": "Pay"})
    waiting = client.seen[-1]
    assert waiting["type"] == "waiting"
    [question] = waiting["data"]["questions"]
    await client.say({"action": "resume", "run_id": waiting["run_id"], "last_event_id": waiting["id"]})
    assert client.seen[-1]["type"] == "taken"
    await client.say({"action": "approve", "run_id": waiting["run_id"], "hash": question["hash"], "ref": "y"})
    # That it was taken, and the answer: whichever is first on its way.
    assert {(frame["type"], frame.get("ref", "")) for frame in client.seen[-2:]} == {
        ("taken", "y"),
        ("reply", ""),
    }
    assert paid == [5]
    await app.close()


async def test_a_run_can_be_cancelled_and_denied(gateway: Gateway) -> None:
    @tool(approval=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    call = ToolCall(id="1", name="pay", arguments="{}")
    app = made(gateway, call, "Not paid.", call, tools=[pay])
    client = Client(gateway, app)
    await client.connect()
    await client.say({"action": "send", "message": "Pay"})
    waiting = client.seen[-1]
    question = waiting["data"]["questions"][0]["hash"]
    await client.say({"action": "deny", "run_id": waiting["run_id"], "hash": question})
    told = {frame["type"]: frame for frame in client.seen[-2:]}  # in either order
    assert set(told) == {"taken", "reply"}
    assert told["reply"]["data"]["reply"]["text"] == "Not paid."
    await client.say({"action": "send", "message": "Pay"})
    before = len(client.seen)
    await client.say({"action": "cancel", "run_id": client.seen[-1]["run_id"]})
    # That it was taken on, and how it ended: whichever is first on its way.
    told = {frame["type"]: frame for frame in client.seen[before:]}
    assert set(told) == {"taken", "error"}
    assert told["error"]["data"]["problem"]["type"] == "urn:sampan:problem:cancelled"
    await app.close()


@pytest.mark.parametrize(
    ("said", "slug", "words"),
    [
        ("no json", "malformed", "not JSON"),
        ("[]", "invalid-input", "object"),
        ('{"message": "Hi"}', "invalid-input", "action"),
        ('{"action": "shout", "ref": "r"}', "invalid-input", "shout"),
        ('{"action": "send", "message": "Hi", "colour": 1, "ref": "r"}', "invalid-input", "colour"),
        ('{"action": "send", "ref": "r"}', "invalid-input", "message"),
        ('{"action": "send", "message": "Hi", "agent": "nobody"}', "not-found", "nobody"),
        ('{"action": "resume", "run_id": "01"}', "not-found", "01"),
        ('{"action": "approve", "run_id": "01"}', "invalid-input", "hash"),
    ],
)
async def test_what_can_not_be_used_is_told(gateway: Gateway, said: str, slug: str, words: str) -> None:
    app = made(gateway)
    client = Client(gateway, app)
    await client.connect()
    assert await client.say(said) == {"statusCode": 200}
    [frame] = client.seen
    assert frame["type"] == "error"
    assert frame["data"]["problem"]["type"] == f"urn:sampan:problem:{slug}"
    assert words in frame["data"]["problem"]["detail"]
    assert frame.get("ref", "") == ("r" if '"r"' in said else "")
    await app.close()


async def test_a_ping_is_answered(gateway: Gateway) -> None:
    app = made(gateway)
    client = Client(gateway, app)
    await client.connect()
    await client.say({"action": "ping", "ref": "7"})
    assert client.seen == [{"type": "pong", "ref": "7"}]
    await app.close()


async def test_a_connection_that_is_not_open_is_told_to_connect(gateway: Gateway) -> None:
    app = made(gateway)
    client = Client(gateway, app)
    gateway.open.add(ME)
    assert await client.say({"action": "ping"}) == {"statusCode": 410}
    assert client.seen[0]["data"]["problem"]["type"] == "urn:sampan:problem:connection-gone"
    await client.connect()
    assert await client.leave() == {"statusCode": 200}
    assert await client.say({"action": "ping"}) == {"statusCode": 410}
    await app.close()


async def test_a_connection_is_forgotten_after_two_hours(gateway: Gateway) -> None:
    clock = ManualClock()
    app = made(gateway, clock=clock)
    client = Client(gateway, app)
    await client.connect()
    clock.advance(7_199)
    assert await client.say({"action": "ping"}) == {"statusCode": 200}
    clock.advance(1)
    assert await client.say({"action": "ping"}) == {"statusCode": 410}
    await app.close()


async def test_runs_of_others_are_not_there(gateway: Gateway) -> None:
    app = made(gateway, "Hello.")
    client = Client(gateway, app)
    await client.connect()
    await client.say({"action": "send", "message": "Hi"})
    connections = app.deliverers[KIND]
    assert isinstance(connections, Connections)
    await connections.opened(OTHER, Caller(principal=Principal(tenant="default", user="bob"), owner=True))
    gateway.open.add(OTHER)
    stranger = Client(gateway, app, OTHER)
    for action in ("resume", "cancel"):
        await stranger.say({"action": action, "run_id": client.seen[0]["run_id"]})
        assert stranger.seen[-1]["data"]["problem"]["type"] == "urn:sampan:problem:not-found"
    await app.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "ws.example.com", "Origin": "https://ws.example.com"}, 200),
        ({"Host": "ws.example.com", "Origin": "https://app.example.com"}, 200),
        ({"Host": "ws.example.com", "Origin": "https://evil.example.com"}, 403),
        ({"Host": "ws.example.com", "Origin": "null"}, 403),
    ],
)
async def test_pages_of_other_sites_may_not_connect(
    gateway: Gateway, headers: dict[str, str], status: int
) -> None:
    app = test_app(
        Agent(name="assistant", model=ScriptedModel([])),
        websocket_url=gateway.url,
        origins=("https://app.example.com",),
        auth="off",
        **{name.lower(): value for name, value in ENVIRON.items()},
    )
    answer = await Client(gateway, app).connect(headers=headers)
    assert answer["statusCode"] == status
    if status != 200:
        assert json.loads(answer["body"])["type"] == "urn:sampan:problem:origin"
    await app.close()


async def test_a_browser_gets_the_subprotocol_that_it_offers(gateway: Gateway) -> None:
    app = made(gateway)
    offers = {"Sec-WebSocket-Protocol": ["sampan, bearer.abc"]}
    answer = await Client(gateway, app).connect(multiValueHeaders=offers)
    assert answer == {"statusCode": 200, "headers": {"Sec-WebSocket-Protocol": "sampan"}}
    await app.close()


@pytest.mark.parametrize("kind", ["sqlite", "dynamodb"])
async def test_it_is_the_same_on_other_stores(
    gateway: Gateway, kind: str, emulator: Emulator, tmp_path: Any
) -> None:
    clock = ManualClock(jump=True)
    with emulator.table() as table:
        store: Store = (
            SqliteStore(tmp_path / "s.db", clock)
            if kind == "sqlite"
            else DynamoStore(emulator.dynamodb(clock), table)
        )
        app = made(gateway, "one two three", "four", store=store, clock=clock)
        client = Client(gateway, app)
        await client.connect()
        await client.say({"action": "send", "message": "count", "session_id": "s"})
        await client.say({"action": "send", "message": "more", "session_id": "s"})
        assert client.text == "one two threefour"
        assert types(client.seen).count("reply") == 2
        await client.say({"action": "resume", "run_id": client.seen[0]["run_id"], "last_event_id": "1.1.3"})
        assert [frame["data"]["text"] for frame in client.seen if frame["type"] == "text"][-1] == " two three"
        await client.leave()
        assert await client.say({"action": "ping"}) == {"statusCode": 410}
        await app.close()


async def test_without_a_delivery_there_is_no_round_trip_more(gateway: Gateway) -> None:
    """The outbox is looked at for runs whose end goes somewhere, and for no others.

    Its line is looked at once more when it is delivered, for what came behind it.
    """
    app = made(gateway, "Hello.", "Hello.")
    store = CountingStore(app.store)
    app.engine._kit.__dict__["store"] = store
    app.engine._store = store
    for delivery, trips in ((None, 3), (Delivery(KIND, "gone"), 7)):
        store.reset()
        await app.engine.answer(Inbound(messages=(Message.of("user", "Hi"),), delivery=delivery))
        await app.engine.drain()
        assert sum(store.trips.values()) == trips
    await app.close()


async def test_an_event_of_another_kind_is_refused(gateway: Gateway) -> None:
    app = made(gateway)
    with pytest.raises(InputError, match="HTTP request"):
        await websocket.handle(app, {"requestContext": {"http": {}}}, None)
    with pytest.raises(ConfigError, match="SAMPAN_WEBSOCKET_URL"):
        await websocket.handle(test_app(Agent(name="a", model=ScriptedModel([]))), event("CONNECT"), None)
    await app.close()
