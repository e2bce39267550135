"""Nobody reads or changes what is another tenant's, or another user's: not by any route, stream, page or command.

Every operation of the API's table and every page of the console is tried with the ids of somebody else. What they have
must not show in the answer, and their records must be byte for byte what they were.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_core import Agent, App, Message, Principal, Reply, Settings, ToolCall, Turn, build_app, tool
from agent_core.api.routes import OPERATIONS, Operation
from agent_core.api.service import Service
from agent_core.api.socket_frames import Frame
from agent_core.api.talk import Talk
from agent_core.batches.records import blob_session
from agent_core.blobs.memory import MemoryBlobs
from agent_core.console.bridge import EngineBridge
from agent_core.console.wsgi import build as build_pages
from agent_core.engine.runs import Inbound
from agent_core.errors import NotFoundError
from agent_core.models.scripted import ScriptedModel
from agent_core.security.visitor import Caller
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock, ScriptedWire

CANARY = "canary-7f3a"
ADA = Principal(tenant="acme", user="ada", scopes=("admin",))
OTHERS = {
    "tenant": Principal(tenant="other", user="ada", scopes=("admin",)),
    "user": Principal(tenant="acme", user="eve", scopes=("admin",)),
    "slash": Principal(tenant="acme/session", user="ada", scopes=("admin",)),
}
CLOSED = [operation for operation in OPERATIONS if operation.scope]
FORMS = {
    "answer": {"message": "Hi", "session_id": "{session_id}"},
    "chatCompletions": {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}]},
    "approveRun": {"hash": "{hash}"},
    "denyRun": {"hash": "{hash}"},
    "submitBatch": {"agent": "parrot"},
    "kill": {"kind": "agent", "name": "elsewhere"},
    "liftKill": {"kind": "agent", "name": "elsewhere"},
}


class Parrot:
    """Says all that it was given to read: what it should not see would show."""

    name = "parrot"

    async def respond(self, messages: Sequence[Message], turn: Turn) -> Reply:
        return Reply(message=Message.of("assistant", "I read: " + " / ".join(one.text for one in messages)))


@tool(approval=True)
def pay() -> str:
    """Pay."""
    return "paid"


class World:
    """A service with everything that Ada has, and her records as they were when she had it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store, self.blobs = MemoryStore(self.clock), MemoryBlobs()
        asks = Agent(
            name="asks",
            model=ScriptedModel([ToolCall(id="1", name="pay", arguments="{}")]),
            tools=[pay],
        )
        self.app: App = build_app(
            Settings.from_env({}, store="memory", auth="on"),
            agents=[Parrot(), asks],
            store=self.store,
            blobs=self.blobs,
            wire=ScriptedWire(),
            clock=self.clock,
        )
        self.asgi = self.app.asgi()
        self.ids: dict[str, list[str]] = {}
        self.hash = ""
        self.keys: dict[str, str] = {}

    async def fill(self) -> World:
        """Ada chats, is asked, has a batch; a run of hers is given up."""
        engine = self.app.engine

        def said(text: str, session: str, **more: Any) -> Inbound:
            message = Message.of("user", f"{CANARY} {text}")
            return Inbound(messages=(message,), principal=ADA, session_id=session, **more)

        done = await engine.answer(said("hello " * 20_000, "travel", agent="parrot", key="key-1"))
        waits = await engine.answer(said("pay", "money", agent="asks"))
        assert (done.status, waits.status) == ("succeeded", "waiting")
        self.hash = waits.questions[0].hash
        _, text = await self.app.door.keys.create(principal=ADA)
        lines = b"".join(
            json.dumps({"id": f"{CANARY}-{n}", "message": f"{CANARY} {n}", "agent": "parrot"}).encode()
            + b"\n"
            for n in range(3)
        )
        async with self.client(text) as client:
            made = await client.post(
                "/api/v1/batches", content=lines, headers={"Content-Type": "application/jsonl"}
            )
            assert made.status_code == 202, made.text
            batch = made.json()["batch_id"]
            for _ in range(2000):
                if (await client.get(f"/api/v1/batches/{batch}")).json()["status"] not in (
                    "running",
                    "queued",
                ):
                    break
                await asyncio.sleep(0)
            assert CANARY in (await client.get(f"/api/v1/batches/{batch}/results")).text
            assert CANARY in (await client.get("/api/v1/sessions/travel")).text
        self.ids = {
            "run_id": [done.id, waits.id],
            "session_id": ["travel", "money"],
            "batch_id": [batch],
            "model": ["parrot"],
        }
        for name, who in OTHERS.items():
            if "/" in who.tenant:
                continue  # no key can be made for it; the engine is asked as it
            self.keys[name] = (await self.app.door.keys.create(principal=who))[1]
        for tenant in {ADA.tenant, *(who.tenant for who in OTHERS.values())}:
            await self.app.engine.audit.link(tenant)  # else whoever reads the log moves what waits for it
        # The head of a log moves on with what others do themselves.
        self.before = {key: row for key, row in self.store._rows.items() if key.sort != "head"}
        self.blobs_before = {place: dict(kept) for place, kept in self.blobs._sessions.items()}
        assert any(
            CANARY.encode() in blob.data for kept in self.blobs_before.values() for blob in kept.values()
        )
        return self

    def client(self, key: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.asgi, client=("203.0.113.7", 1)),
            base_url="https://agents.example.com",
            headers={"Authorization": f"Bearer {key}"},
        )

    def check(self) -> None:
        """All of it is there as it was; others may only have added."""
        after = self.store._rows
        changed = [key for key, row in self.before.items() if after.get(key) != row]
        assert changed == []
        kept = self.blobs._sessions
        assert [place for place, blobs in self.blobs_before.items() if kept.get(place) != blobs] == []
        told = [row.body for key, row in after.items() if key not in self.before]
        assert not [body for body in told if CANARY.encode() in body]

    def call(self, operation: Operation, ids: dict[str, str], mean: bool) -> dict[str, Any]:
        """A request with somebody else's ids wherever there is a place for one."""
        headers = {"Idempotency-Key": "key-1", "Last-Event-ID": "0", "X-Sampan-Session": ids["session_id"]}
        path = operation.path.format(**ids)
        body = FORMS.get(operation.name)
        query: dict[str, Any] = {}
        if mean and "before" in operation.query.__struct_fields__:
            query = {"before": ids["run_id"], "limit": 100}
        request: dict[str, Any] = {"method": operation.method, "url": path, "params": query}
        if body is not None:
            text = json.dumps(body).replace("{session_id}", ids["session_id"]).replace("{hash}", self.hash)
            request["content"], headers["Content-Type"] = text.encode(), "application/json"
        if operation.name == "appendBatch":
            request["params"] = {"offset": 0}
            request["content"], headers["Content-Type"] = b'{"message": "mine"}\n', "application/jsonl"
        request["headers"] = headers if mean else {k: v for k, v in headers.items() if k == "Content-Type"}
        return request

    def judge(self, operation: Operation, answer: httpx.Response) -> None:
        """Nothing of hers shows; where the path names what is hers, it is not there."""
        assert CANARY not in answer.text
        named = (
            re.search(r"{(run|session|batch)_id}", operation.path) or "before" in answer.request.url.params
        )
        if named:
            assert answer.status_code == 404, (operation.name, answer.status_code, answer.text)
            return
        shown = [one for kind in ("run_id", "batch_id") for one in self.ids[kind] if one in answer.text]
        assert shown == [], (operation.name, answer.text)
        assert answer.status_code < 300, (operation.name, answer.text)


@pytest.mark.parametrize("mean", [False, True], ids=["plain", "mean"])
@pytest.mark.parametrize("who", ["tenant", "user"])
async def test_no_route_leads_to_what_is_somebody_elses(who: str, mean: bool) -> None:
    tried = 0
    for operation in CLOSED:
        for number in range(2):
            world = await World().fill()  # a new one: what others did before must not be what is found
            ids = {kind: found[number % len(found)] for kind, found in world.ids.items()}
            async with world.client(world.keys[who]) as client:
                answer = await client.request(**world.call(operation, ids, mean))
            world.judge(operation, answer)
            world.check()
            await world.app.close()
            tried += 1
    assert tried == 2 * len(CLOSED) >= 40


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(CLOSED),
            st.sampled_from(["tenant", "user"]),
            st.booleans(),
            st.integers(0, 1),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_nor_does_any_series_of_them(steps: list[tuple[Operation, str, bool, int]]) -> None:
    """Also after others have made sessions, runs and batches of their own, under the same ids and keys."""

    async def run() -> None:
        world = await World().fill()
        for operation, who, mean, number in steps:
            ids = {kind: found[number % len(found)] for kind, found in world.ids.items()}
            async with world.client(world.keys[who]) as client:
                answer = await client.request(**world.call(operation, ids, mean))
            assert CANARY not in answer.text
            if re.search(r"{(run|batch)_id}", operation.path):
                assert answer.status_code == 404
            world.check()
        await world.app.close()

    asyncio.run(run())


class Heard:
    """A client of a WebSocket."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    async def push(self, frame: Frame) -> None:
        self.frames.append(frame)


@pytest.mark.parametrize("who", [*OTHERS])
async def test_no_websocket_tells_of_it(who: str) -> None:
    world = await World().fill()
    heard = Heard()
    service = Service(world.app.engine, world.app.settings, world.clock, door=world.app.door)
    talk = Talk(service, Caller(principal=OTHERS[who]), heard)
    for run_id in world.ids["run_id"]:
        for action in ("resume", "cancel", "approve", "deny"):
            more = {"hash": world.hash} if action in ("approve", "deny") else {}
            await talk.take(json.dumps({"action": action, "run_id": run_id, **more}).encode())
    assert [frame.data["problem"].status for frame in heard.frames] == [404] * 8
    send = {"action": "send", "agent": "parrot", "session_id": "travel", "key": "key-1", "message": "Hi"}
    await talk.take(json.dumps(send).encode())
    assert heard.frames[-1].type == "reply"
    assert CANARY not in repr(heard.frames)
    world.check()
    await world.app.close()


@pytest.mark.parametrize("who", [*OTHERS])
async def test_the_engine_itself_gives_nothing_away(who: str) -> None:
    """What the console, the commands and the workers ask."""
    world = await World().fill()
    engine, other = world.app.engine, OTHERS[who]
    verbs: list[Callable[[str], Any]] = [
        lambda run_id: engine.run(other, run_id),
        lambda run_id: engine.steps(other, run_id),
        lambda run_id: engine.cancel(other, run_id),
        lambda run_id: engine.approve(other, run_id, world.hash),
        lambda run_id: engine.deny(other, run_id, world.hash),
        lambda run_id: anext(aiter(engine.events(other, run_id))),
        lambda run_id: engine.dead_letter(other, run_id),
        lambda run_id: engine.redrive(other, run_id),
    ]
    for verb in verbs:
        for run_id in world.ids["run_id"]:
            with pytest.raises(NotFoundError):
                await verb(run_id)
    for session_id in world.ids["session_id"]:
        for work in (engine.session(other, session_id), engine.erase(other, session_id)):
            with pytest.raises(NotFoundError):
                await work
    for name in (*world.ids["session_id"], blob_session(world.ids["batch_id"][0])):
        mine = await engine.answer(
            Inbound(messages=(Message.of("user", "Hi"),), principal=other, session_id=name, agent="parrot")
        )
        await engine.erase(other, name)  # a session of the same name
        with pytest.raises(NotFoundError):
            await engine.run(other, mine.id)
    assert await engine.runs(other) == []
    assert await engine.sessions(other) == []
    assert await engine.dead(other) == []
    for work in (
        world.app.batches.get(other, world.ids["batch_id"][0]),
        world.app.batches.start(other, world.ids["batch_id"][0]),
    ):
        with pytest.raises(NotFoundError):
            await work
    world.check()
    await world.app.close()


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("who", ["tenant", "user"])
def test_no_page_shows_it(loop: asyncio.AbstractEventLoop, who: str) -> None:
    world = asyncio.run_coroutine_threadsafe(World().fill(), loop).result(60)
    flask = build_pages(EngineBridge(world.app.engine, loop, world.clock), world.app.settings, world.app.door)
    hidden = {"Host": "agents.example.com", "Authorization": f"Bearer {world.keys[who]}"}
    client = flask.test_client()
    tried = 0
    for rule in flask.url_map.iter_rules():
        if not rule.endpoint.startswith("pages."):
            continue
        for number in range(2):
            values = {
                "seq": "0",
                "session_id": world.ids["session_id"][number],
                "run_id": world.ids["run_id"][number],
            }
            address = re.sub(r"<(?:\w+:)?(\w+)>", lambda found, values=values: values[found[1]], rule.rule)
            for method in sorted((rule.methods or set()) & {"GET", "POST"}):
                form = {
                    "decision": "approve",
                    "hash": world.hash,
                    "text": "Hi",
                    "agent": "parrot",
                    "key": "key-1",
                }
                answer = client.open(
                    address, method=method, headers=hidden, data=form if method == "POST" else None
                )
                assert CANARY not in answer.text
                if "<" in rule.rule and not (method == "POST" and rule.endpoint == "pages.send"):
                    assert answer.status_code == 404 or "/chat/" in address, (address, answer.status_code)
                tried += 1
                world.check()
    assert tried >= 16
    asyncio.run_coroutine_threadsafe(world.app.close(), loop).result(60)
