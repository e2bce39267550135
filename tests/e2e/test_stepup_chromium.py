"""Second factors in a real browser: codes right, wrong and late, forged forms, passkeys of a virtual device."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from agent_core import Agent, Principal, tool
from agent_core.app import build_app
from agent_core.engine.runs import Inbound
from agent_core.messages import Message, Prompt, ToolCall
from agent_core.models.scripted import ScriptedModel
from agent_core.security.totp import STEP_SECONDS, code_at
from agent_core.settings import Settings
from agent_core.testing import ManualClock
from tests.e2e.test_console_chromium import PHONE, browser
from tests.e2e.test_login_chromium import log_in, visit

__all__ = ["browser", "visit"]  # the fixtures

SEAL = base64.b64encode(bytes(32)).decode()


class Bank:
    """A service whose tool pays, behind uvicorn; its clock stands until a test moves it."""

    def __init__(self) -> None:
        self.paid: list[int] = []
        self.clock = ManualClock()

        @tool(effects="once", stepup=True)
        def pay(cents: int) -> str:
            """Pay."""
            self.paid.append(cents)
            return "paid"

        def says(prompt: Prompt) -> Any:
            return "It is done." if prompt.messages[-1].tool_results else call

        call = ToolCall("1", "pay", '{"cents": 10000}')
        agent = Agent(name="bank", model=ScriptedModel([says] * 100), tools=[pay])
        settings = Settings.from_env({}, store="memory", auth="on", seal_keys=SEAL)
        self.app = build_app(settings, agents=[agent], clock=self.clock)
        config = uvicorn.Config(
            self.app.asgi(), host="127.0.0.1", port=0, log_level="warning", loop="asyncio", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._loop: asyncio.AbstractEventLoop | None = None

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup()
        self._ready.set()
        await self._server.main_loop()
        await self._server.shutdown()
        await self.app.close()

    def do(self, work: Any) -> Any:
        """Have something done in the service's own loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30), "the server did not start"
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://localhost:{port}"  # a passkey is of a name, never of an address

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def person(self, user: str) -> tuple[Principal, str]:
        """Somebody with a key."""
        who = Principal(user=user, scopes=("admin",))
        return who, self.do(self.app.door.keys.create(principal=who))[1]

    def enrolled(self, user: str) -> tuple[Principal, str, bytes]:
        """Somebody with a key and an authenticator app."""
        who, key = self.person(user)
        address = self.do(self.app.door.stepup.factors.add(who))
        seed = base64.b32decode(parse_qs(urlsplit(address).query)["secret"][0])
        self.do(self.app.door.stepup.factors.confirm(who, self.code(seed)))
        self.clock.advance(STEP_SECONDS)
        return who, key, seed

    def code(self, seed: bytes) -> str:
        """What the app shows now."""
        return code_at(seed, int(self.clock.now()) // STEP_SECONDS).decode()

    def waiting(self, who: Principal) -> str:
        """A run of theirs that asks."""
        message = Message.of("user", "Pay me back.")
        run = self.do(self.app.engine.answer(Inbound(messages=(message,), principal=who)))
        assert run.status == "waiting"
        return run.id


@pytest.fixture(scope="module")
def bank() -> Iterator[Bank]:
    bank = Bank()
    bank.start()
    yield bank
    bank.stop()


def enter(page: Page, bank: Bank, key: str, path: str) -> None:
    page.goto(f"{bank.url}/console{path}")
    log_in(page, key)
    expect(page).to_have_url(f"{bank.url}/console{path}")


def test_a_wrong_code_then_a_right_one(bank: Bank, visit: Any, tmp_path: Path) -> None:
    who, key, seed = bank.enrolled("ada")
    before = list(bank.paid)
    run = bank.waiting(who)
    page = visit()
    enter(page, bank, key, f"/runs/{run}")
    expect(page.locator("form.waiting pre")).to_contain_text('"cents": 10000')
    page.screenshot(path=tmp_path / "asks.png", full_page=True)
    code = bank.code(seed)
    page.fill("[name=code]", "000000" if code != "000000" else "111111")
    page.click("button[value=approve]")
    expect(page.get_by_role("alert")).to_contain_text("this code is not right")
    page.screenshot(path=tmp_path / "wrong.png", full_page=True)
    assert bank.paid == before
    page.fill("[name=code]", code)
    page.click("button[value=approve]")
    expect(page.locator(".assistant").last).to_contain_text("It is done.")
    assert bank.paid == [*before, 10000]
    page.goto(f"{bank.url}/console/runs/{run}")
    expect(page.locator("form.waiting")).to_have_count(0)


def test_a_late_yes_is_none(bank: Bank, visit: Any, tmp_path: Path) -> None:
    who, key, seed = bank.enrolled("bea")
    before = list(bank.paid)
    run = bank.waiting(who)
    page = visit()
    enter(page, bank, key, f"/runs/{run}")
    bank.clock.advance(301)
    page.fill("[name=code]", bank.code(seed))
    page.click("button[value=approve]")
    expect(page.get_by_role("alert")).to_contain_text("the question has expired; nothing was done")
    page.screenshot(path=tmp_path / "late.png", full_page=True)
    assert bank.paid == before


def test_a_forged_yes_is_refused(bank: Bank, visit: Any, tmp_path: Path) -> None:
    who, key, seed = bank.enrolled("cid")
    before = list(bank.paid)
    run = bank.waiting(who)
    page = visit()
    enter(page, bank, key, f"/runs/{run}")
    page.fill("[name=code]", bank.code(seed))
    page.evaluate("document.querySelector('form.waiting [name=csrf]').value = '0'.repeat(64)")
    page.click("button[value=approve]")
    expect(page.locator("main")).to_contain_text("not of this login")
    page.screenshot(path=tmp_path / "forged.png", full_page=True)
    assert bank.paid == before


def authenticator(page: Page, **options: Any) -> tuple[Any, str]:
    """A virtual security key in the browser: https://chromedevtools.github.io/devtools-protocol/tot/WebAuthn/"""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    made = session.send(
        "WebAuthn.addVirtualAuthenticator",
        {
            "options": {
                "protocol": "ctap2",
                "transport": "internal",
                "hasResidentKey": True,
                "hasUserVerification": True,
                "isUserVerified": True,
                "automaticPresenceSimulation": True,
                **options,
            }
        },
    )
    return session, made["authenticatorId"]


def test_a_passkey_is_made_used_and_removed(bank: Bank, visit: Any, tmp_path: Path) -> None:
    who, key = bank.person("dora")
    before = list(bank.paid)
    page = visit()
    enter(page, bank, key, "/factors")
    session, device = authenticator(page)
    page.fill("#new-passkey [name=name]", "my laptop")
    page.screenshot(path=tmp_path / "none.png", full_page=True)
    page.click("#new-passkey button")
    expect(page.locator(".cards strong")).to_have_text("my laptop")
    [made] = session.send("WebAuthn.getCredentials", {"authenticatorId": device})["credentials"]
    assert made["rpId"] == "localhost"

    run = bank.waiting(who)
    page.goto(f"{bank.url}/console/runs/{run}")
    page.screenshot(path=tmp_path / "asks-passkey.png", full_page=True)
    page.click("button[value=approve]")
    expect(page.locator(".assistant").last).to_contain_text("It is done.")
    assert bank.paid == [*before, 10000]
    [passkey] = bank.do(bank.app.door.stepup.passkeys.list(who))
    assert (passkey.used, passkey.used_at) == (2, bank.clock.now())

    # A second one takes the first; so does taking one away.
    page.goto(f"{bank.url}/console/factors")
    page.screenshot(path=tmp_path / "one.png", full_page=True)
    page.click("form.passkey button")
    expect(page.locator(".cards")).to_have_count(0)
    assert bank.do(bank.app.door.stepup.passkeys.list(who)) == []
    acts = [line.act for line in bank.do(log_of(bank)) if line.by == "dora"]
    assert acts == [
        "key.created",
        "login",
        "factor.added",
        "approval.approved",
        "tool.called",
        "factor.removed",
    ]


async def log_of(bank: Bank) -> Any:
    await bank.app.engine.audit.link("default")
    return [line async for line in bank.app.engine.audit.lines("default")]


def test_a_passkey_that_does_not_see_its_owner_is_no_factor(bank: Bank, visit: Any, tmp_path: Path) -> None:
    """The device is there, but nobody showed it a finger: nothing is made, nothing is approved."""
    who, key = bank.person("eve")
    before = list(bank.paid)
    page = visit()
    enter(page, bank, key, "/factors")
    session, device = authenticator(page)
    page.fill("#new-passkey [name=name]", "phone")
    page.click("#new-passkey button")
    expect(page.locator(".cards strong")).to_have_text("phone")
    session.send("WebAuthn.setUserVerified", {"authenticatorId": device, "isUserVerified": False})
    run = bank.waiting(who)
    page.goto(f"{bank.url}/console/runs/{run}")
    page.click("button[value=approve]")
    expect(page.get_by_role("alert")).to_contain_text("was not made or used")
    page.screenshot(path=tmp_path / "unseen.png", full_page=True)
    assert bank.paid == before
    page.click("button[value=deny]")  # a no needs none
    expect(page.locator(".assistant").last).to_contain_text("It is done.")
    assert bank.paid == before


def test_a_factor_is_needed_to_add_another(bank: Bank, visit: Any, tmp_path: Path) -> None:
    """A login that was left open is not enough to get a passkey of one's own."""
    who, key, seed = bank.enrolled("fay")
    page = visit(viewport=PHONE, color_scheme="dark", locale="zh-CN")
    enter(page, bank, key, "/factors")
    authenticator(page)
    page.fill("#new-passkey [name=name]", "mine")
    page.click("#new-passkey button")
    expect(page.get_by_role("alert").first).to_contain_text("needs a second factor")
    assert bank.do(bank.app.door.stepup.passkeys.list(who)) == []
    page.fill("#new-passkey [name=name]", "mine")
    page.fill("#new-passkey [name=code]", bank.code(seed))
    page.click("#new-passkey button")
    expect(page.locator(".cards strong")).to_have_text("mine")
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
