"""People of channels can't log in: an admin of their tenant answers for them what a run asks, and nobody else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from agent_core import Agent, Settings, build_app, tool
from agent_core.app import App
from agent_core.engine import keys
from agent_core.engine.runs import Inbound, Run
from agent_core.messages import Message, Principal, ToolCall
from agent_core.models.scripted import ScriptedModel
from agent_core.testing import ManualClock
from tests.agent_core.channels.fakes import serving
from tests.agent_core.channels.services.line import FakeLine

NOW = 1_700_000_000.0
ADMIN = Principal(user="root", scopes=("admin",))
OTHERS = {
    "decides": Principal(user="eve", scopes=("runs:read", "runs:decide")),
    "admin of another tenant": Principal(tenant="other", user="root", scopes=("admin",)),
}


class Asked:
    """A service that asks everybody, and a run that a person of LINE's began; it asks before it pays back."""

    def __init__(self, app: App, service: FakeLine, run: Run, done: list[int]) -> None:
        self.app = app
        self.service = service
        self.run = run
        self.done = done
        [question] = run.questions
        self.hash = question.hash

    async def client(self, who: Principal) -> httpx.AsyncClient:
        _, key = await self.app.door.keys.create(principal=who)
        transport = httpx.ASGITransport(self.app.asgi(), client=("203.0.113.7", 1))
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.AsyncClient(transport=transport, base_url="https://sampan.test", headers=headers)

    @property
    def path(self) -> str:
        return f"/api/v1/runs/{self.run.id}"

    @property
    def page(self) -> str:
        return f"/console/runs/{self.run.id}"


@asynccontextmanager
async def asking() -> AsyncIterator[Asked]:
    done: list[int] = []

    @tool(effects="once", approval=True)
    def refund(cents: int) -> str:
        """Pay back."""
        done.append(cents)
        return "paid"

    service = FakeLine()
    with serving(service) as service.url:
        own = {"kind": "line", "open": "true", **service.settings()}
        call = ToolCall("c1", "refund", '{"cents": 5}')
        agent = Agent(name="assistant", model=ScriptedModel([call, "As you wish."]), tools=[refund])
        app = build_app(
            Settings(store="memory", auth="on", channels={"line": own}, public_url="https://sampan.test"),
            agents=[agent],
            clock=ManualClock(NOW),
        )
        hook = service.hook("Refund it", name="1", who="ada", group="", file="", now=NOW)
        transport = httpx.ASGITransport(app.asgi())
        async with httpx.AsyncClient(transport=transport, base_url="https://sampan.test") as client:
            answer = await client.post("/webhooks/line", content=hook.body, headers=hook.headers)
        assert answer.status_code == 200
        await app.engine.drain()
        person = Principal(user="line/Ubot/Uada")
        run = await app.engine.run(person, keys.run_id(person, "line/Ubot/1"))
        yield Asked(app, service, run, done)
        await app.close()


@pytest.mark.parametrize(("verb", "paid"), [("approve", [5]), ("deny", [])])
async def test_an_admin_answers_over_http_for_a_person_of_a_channel(verb: str, paid: list[int]) -> None:
    async with asking() as asked, await asked.client(ADMIN) as client:
        shown = (await client.get(asked.path)).json()
        assert shown["questions"][0]["tool"] == "refund"
        answer = await client.post(f"{asked.path}/{verb}", json={"hash": asked.hash})
        assert answer.status_code == 202, answer.text
        await asked.app.engine.drain()
        assert asked.done == paid
        assert asked.service.texts == ["As you wish."]  # the person is told where they asked
        audit = asked.app.engine.audit
        await audit.link("default")
        lines = [line async for line in audit.lines("default") if line.act.startswith("approval.")]
        assert [(line.by, line.detail["owner"]) for line in lines] == [("root", "line/Ubot/Uada")]


@pytest.mark.parametrize(("decision", "paid"), [("approve", [5]), ("deny", [])])
async def test_an_admin_answers_on_the_console(decision: str, paid: list[int]) -> None:
    """The page shows the call; then it shows the run again, for the conversation is the person's."""
    async with asking() as asked, await asked.client(ADMIN) as client:
        page = await client.get(asked.page)
        assert page.status_code == 200
        assert asked.hash in page.text
        assert "cents" in page.text
        assert "/console/chat/line" not in page.text
        sent = await client.post(f"{asked.page}/decide", data={"decision": decision, "hash": asked.hash})
        assert (sent.status_code, sent.headers["location"]) == (303, asked.page)
        await asked.app.engine.drain()
        assert asked.done == paid
        assert asked.service.texts == ["As you wish."]


@pytest.mark.parametrize("who", OTHERS.values(), ids=OTHERS.keys())
async def test_nobody_else_sees_or_answers_it(who: Principal) -> None:
    async with asking() as asked, await asked.client(who) as client:
        body: dict[str, Any] = {"json": {"hash": asked.hash}}
        form: dict[str, Any] = {"data": {"decision": "approve", "hash": asked.hash}}
        answers = [
            await client.get(asked.path),
            await client.post(f"{asked.path}/approve", **body),
            await client.post(f"{asked.path}/deny", **body),
            await client.get(asked.page),
            await client.post(f"{asked.page}/decide", **form),
        ]
        assert [answer.status_code for answer in answers] == [404] * 5
        await asked.app.engine.drain()
        assert asked.done == []
        assert asked.service.texts == []


async def test_an_admin_does_not_see_the_runs_of_who_can_log_in() -> None:
    async with asking() as asked, await asked.client(ADMIN) as client:
        bob = Principal(user="bob")
        run = await asked.app.engine.answer(
            Inbound(messages=(Message.of("user", "Hi"),), principal=bob, session_id="s1")
        )
        assert (await client.get(f"/api/v1/runs/{run.id}")).status_code == 404
