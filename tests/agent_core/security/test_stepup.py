"""What admins do asks for a second factor of who has one, over HTTP and by command; and a fresh token is one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from agent_core import Agent, tool
from agent_core.app import App, build_app
from agent_core.engine.runs import Inbound
from agent_core.errors import ConfigError
from agent_core.messages import Message, Principal, ToolCall
from agent_core.models.scripted import ScriptedModel
from agent_core.security.openid import stepped_at
from agent_core.security.passkeys import Site
from agent_core.security.stepup import StepUp
from agent_core.security.totp import STEP_SECONDS, code_at
from agent_core.security.visitor import Caller
from agent_core.settings import Settings
from agent_core.store.memory import MemoryStore
from agent_core.testing import ManualClock
from tests.agent_core.cli.conftest import Sampan, project, sampan
from tests.agent_core.security.softkey import SoftKey

__all__ = ["project", "sampan"]  # the fixtures

SEAL = base64.b64encode(bytes(32)).decode()
ADA = Principal(user="ada", scopes=("admin",))
KILL = {"kind": "tool", "name": "refund"}
ACTS: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/api/v1/kills", {"json": KILL}),
    ("POST", "/api/v1/kills/lift", {"json": KILL}),
    ("DELETE", "/api/v1/sessions/s1", {}),
]


@tool(effects="once", stepup=True)
def pay(cents: int) -> str:
    """Pay."""
    return "paid"


def service(clock: ManualClock, **settings: Any) -> App:
    call = ToolCall("1", "pay", '{"cents": 5}')
    agent = Agent(name="bank", model=ScriptedModel([call, "Done."]), tools=[pay])
    given = Settings(auth="on", seal_keys=SEAL, **settings)
    return build_app(given, agents=[agent], store=MemoryStore(clock), clock=clock)


async def client_of(app: App, who: Principal = ADA) -> httpx.AsyncClient:
    _, key = await app.door.keys.create(principal=who)
    transport = httpx.ASGITransport(app.asgi(), client=("203.0.113.7", 1))
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=transport, base_url="https://agents.example.com", headers=headers)


async def enrolled(stepup: StepUp, clock: ManualClock, who: Principal = ADA) -> bytes:
    address = await stepup.factors.add(who)
    seed = base64.b32decode(parse_qs(urlsplit(address).query)["secret"][0])
    await stepup.factors.confirm(who, code(seed, clock))
    clock.advance(STEP_SECONDS)
    return seed


def code(seed: bytes, clock: ManualClock) -> str:
    return code_at(seed, int(clock.now()) // STEP_SECONDS).decode()


async def test_an_admin_with_a_factor_shows_it_and_one_without_is_not_asked() -> None:
    clock = ManualClock()
    app = service(clock)
    await app.engine.answer(Inbound(messages=(Message.of("user", "Pay"),), principal=ADA, session_id="s1"))
    seed = await enrolled(app.door.stepup, clock)
    async with (
        await client_of(app) as client,
        await client_of(app, Principal(user="bob", scopes=("admin",))) as bob,
    ):
        for method, path, body in ACTS:
            refused = await client.request(method, path, **body)
            assert refused.status_code == 401
            assert refused.json()["type"] == "urn:sampan:problem:step-up"
            assert "insufficient_user_authentication" in refused.headers["www-authenticate"]
            wrong = await client.request(method, path, **body, headers={"X-Sampan-Code": "123"})
            assert wrong.status_code == 401
        assert (await bob.request(*ACTS[0][:2], **ACTS[0][2])).status_code == 200
        for method, path, body in ACTS:
            shown = {"X-Sampan-Code": code(seed, clock)}
            answer = await client.request(method, path, **body, headers=shown)
            assert answer.status_code < 300, answer.text
            again = await client.request(method, path, **body, headers=shown)
            assert again.status_code == 401  # each code counts once
            clock.advance(STEP_SECONDS)
        assert (await client.get("/api/v1/kills")).status_code == 200  # looking takes none
    await app.close()


async def test_where_it_is_required_nobody_does_without() -> None:
    clock = ManualClock()
    app = service(clock, stepup="required")
    async with await client_of(app) as client:
        refused = await client.post("/api/v1/kills", json=KILL)
        assert refused.status_code == 403
        assert refused.json()["type"] == "urn:sampan:problem:no-factor"
        assert "sampan mfa add" in refused.json()["detail"]
    with pytest.raises(ConfigError, match="required"):
        StepUp(Settings(stepup="perhaps"), app.store, clock)
    await app.close()


async def test_a_passkey_is_a_factor_for_what_it_was_asked_for() -> None:
    clock = ManualClock()
    app = service(clock)
    site, key = Site.of("https://agents.example.com"), SoftKey()
    passkeys = app.door.stepup.passkeys
    await passkeys.register(ADA, key.make(await passkeys.begin(ADA, site), site.origin), "laptop")
    async with await client_of(app) as client:
        assert (await client.post("/api/v1/kills", json=KILL)).status_code == 401
        signed = key.sign(await passkeys.ask(ADA, site, "erasing a session"), site.origin)
        other = await client.post("/api/v1/kills", json=KILL, headers={"X-Sampan-Code": signed})
        assert other.status_code == 401
        signed = key.sign(await passkeys.ask(ADA, site, "stopping something"), site.origin)
        right = await client.post("/api/v1/kills", json=KILL, headers={"X-Sampan-Code": signed})
        assert right.status_code == 200
    run = await app.engine.answer(Inbound(messages=(Message.of("user", "Pay"),), principal=ADA))
    [question] = run.questions
    signed = key.sign(await passkeys.ask(ADA, site, question.hash), site.origin)
    await app.engine.approve(ADA, run.id, question.hash, code=signed)
    await app.engine.drain()
    assert (await app.engine.run(ADA, run.id)).status != "waiting"
    await app.close()


@pytest.mark.parametrize(
    ("claims", "at"),
    [
        ({"acr": "mfa", "auth_time": 1000}, 1000.0),
        ({"acr": "mfa", "auth_time": "1000"}, 1000.0),  # as API Gateway passes numbers on
        ({"acr": "pwd", "auth_time": 1000}, 0.0),
        ({"acr": "mfa"}, 0.0),
        ({"acr": "mfa", "auth_time": "soon"}, 0.0),
        ({"acr": ["mfa"], "auth_time": 1000}, 0.0),
        ({"auth_time": 1000}, 0.0),
    ],
)
def test_what_a_token_says_of_a_second_factor(claims: dict[str, Any], at: float) -> None:
    assert stepped_at(claims, Settings(openid_acr=("mfa",))) == at
    assert stepped_at(claims, Settings()) == 0.0


async def test_a_token_counts_for_five_minutes() -> None:
    clock = ManualClock()
    stepup = StepUp(Settings(seal_keys=SEAL, stepup="required"), MemoryStore(clock), clock)
    now = clock.now()
    for at, fresh in ((now, True), (now - 299, True), (now - 400, False), (now + 600, False), (0.0, False)):
        assert stepup.fresh(Caller(principal=ADA, stepped_at=at)) is fresh
    await stepup.check(Caller(principal=ADA, stepped_at=now), "", "stopping something")


def test_commands_of_admins_ask_for_it_too(
    sampan: Sampan, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPAN_STEPUP", "required")
    monkeypatch.setenv("SAMPAN_SEAL_KEYS", SEAL)
    me = json.loads(sampan("audit", "show", "--json").out or "[]")
    assert me == []
    commands = [
        ("keys", "create"),
        ("keys", "rotate", "x"),
        ("keys", "revoke", "x"),
        ("kill", "tool", "refund"),
        ("kill", "lift", "tool", "refund"),
        ("dead", "redrive", "x"),
        ("sessions", "erase", "x", "--yes"),
        ("tenant", "erase", "default", "--yes"),
        ("tenant", "export", "default", "--to", "out.zip"),
    ]
    for command in commands:
        done = sampan(*command)
        assert done.code == 1
        assert "needs a second factor here, and 'cli/" in done.err, command
    from agent_core.cli.options import operator

    told = json.loads(sampan("mfa", "add", "--user", operator(), "--json").out)
    seed = base64.b32decode(parse_qs(urlsplit(told["otpauth"]).query)["secret"][0])
    from agent_core.clock import SystemClock

    step = int(SystemClock().now()) // STEP_SECONDS
    assert sampan("mfa", "confirm", code_at(seed, step - 1).decode(), "--user", operator()).code == 0
    for command in commands:
        assert "give --code" in sampan(*command).err, command
    done = sampan("keys", "create", "--code", code_at(seed, step).decode())
    assert done.code == 0, done.err
    assert "this code is not right" in sampan("keys", "create", "--code", code_at(seed, step).decode()).err
