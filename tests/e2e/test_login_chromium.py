"""The console's login in a real browser: a wrong key, a right one, a forged form, an issuer, no JavaScript."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from agent_core import Agent, Principal
from agent_core.app import build_app
from agent_core.models.scripted import ScriptedModel
from agent_core.settings import Settings
from tests.agent_core.security.issuer import CLIENT, SECRET, Issuer, running
from tests.e2e.test_console_chromium import DESKTOP, PHONE, browser

__all__ = ["browser"]  # the fixture


class Served:
    """A service that asks everybody, behind uvicorn on a free port."""

    def __init__(self, **settings: Any) -> None:
        agent = Agent(name="assistant", model=ScriptedModel(["Hello, I am here."] * 50))
        self.app = build_app(Settings.from_env({}, store="memory", auth="on", **settings), agents=[agent])
        config = uvicorn.Config(
            self.app.asgi(), host="127.0.0.1", port=0, log_level="warning", loop="asyncio", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.url, self.key, self.key_id = "", "", ""

    async def _serve(self) -> None:
        config = self._server.config
        config.load()
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup()
        who = Principal(user="ada", scopes=("admin",))
        made, self.key = await self.app.door.keys.create(principal=who)
        self.key_id = made.id
        self._ready.set()
        await self._server.main_loop()
        await self._server.shutdown()
        await self.app.close()

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(30), "the server did not start"
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running() as issuer:
        yield issuer


@pytest.fixture(scope="module")
def served(issuer: Issuer) -> Iterator[Served]:
    served = Served(openid_issuer=issuer.url, openid_client_id=CLIENT, openid_client_secret=SECRET)
    served.start()
    issuer.now = served.app.clock.now()
    yield served
    served.stop()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    contexts: list[Any] = []
    troubles: list[str] = []

    def make(**options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-US", **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page: Page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', e => document.title = 'CSP ' + e.violatedDirective)"
        )
        return page

    yield make
    for context in contexts:
        context.close()
    assert troubles == []


def log_in(page: Page, key: str) -> None:
    page.fill("#key", key)
    page.click(".login button")


def test_login_chat_and_logout(served: Served, visit: Any, tmp_path: Path) -> None:
    page = visit()
    page.goto(f"{served.url}/console/sessions")
    expect(page).to_have_title("Log in · Sampan")
    assert page.evaluate("document.activeElement.id") == "key"
    page.screenshot(path=tmp_path / "login.png", full_page=True)
    log_in(page, "sampan_wrong")
    expect(page.get_by_role("alert")).to_contain_text("not good")
    page.screenshot(path=tmp_path / "wrong.png", full_page=True)
    log_in(page, served.key)
    expect(page).to_have_url(f"{served.url}/console/sessions")
    expect(page.locator(".caller")).to_have_text("ada")
    [cookie] = [one for one in page.context.cookies() if one["name"] == "sampan"]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert "sampan=" not in page.evaluate("document.cookie")
    page.goto(f"{served.url}/console/chat")
    page.fill("#text", "Hello?")
    page.click("#composer button")  # by script, through the API, with the cookie and the page's token
    expect(page.locator(".assistant").last).to_contain_text("Hello, I am here.")
    page.screenshot(path=tmp_path / "inside.png", full_page=True)
    page.click(".leave button")
    expect(page).to_have_title("Log in · Sampan")
    page.goto(f"{served.url}/console/chat")
    expect(page).to_have_title("Log in · Sampan")


def test_a_forged_form_is_refused(served: Served, visit: Any, tmp_path: Path) -> None:
    page = visit()
    page.goto(f"{served.url}/console/login")
    log_in(page, served.key)
    page.goto(f"{served.url}/console/chat")
    page.evaluate("document.querySelector('.leave [name=csrf]').value = '0'.repeat(64)")
    page.click(".leave button")
    expect(page.locator("main")).to_contain_text("not of this login")
    page.screenshot(path=tmp_path / "forged.png", full_page=True)
    status = page.evaluate(
        """async () => (await fetch('/api/v1/agent', {method: 'POST', body: '{"message": "Hi"}',
           headers: {'Content-Type': 'application/json'}})).status"""
    )
    assert status == 401  # the cookie alone does not do for a change, in the API either
    assert page.evaluate("async () => (await fetch('/api/v1/runs')).status") == 200
    page.goto(f"{served.url}/console/runs")
    expect(page).to_have_title("Runs · Sampan")


def test_the_issuers_page(served: Served, visit: Any) -> None:
    page = visit()
    page.goto(f"{served.url}/console/login")
    page.click(".issuer a")
    expect(page).to_have_url(f"{served.url}/console/chat")
    expect(page.locator(".caller")).to_have_text("ada")


def test_without_javascript_on_a_phone_in_chinese(served: Served, visit: Any, tmp_path: Path) -> None:
    page = visit(java_script_enabled=False, viewport=PHONE, locale="zh-CN", color_scheme="dark")
    page.goto(f"{served.url}/console/")
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    expect(page.locator("h1")).to_have_text("登录")
    log_in(page, served.key)
    page.fill("#text", "Hello?")
    page.click("#composer button")
    expect(page.locator(".assistant").last).to_contain_text("Hello, I am here.")
    page.screenshot(path=tmp_path / "phone-inside.png", full_page=True)
    page.click(".leave button")
    expect(page.locator("h1")).to_have_text("登录")
